"""The serving image on the model that the training image left, mounted read-only as hosting does."""

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import requests
from PIL import Image

pytestmark = pytest.mark.docker

SIZE = (75, 50)  # width and height, multiples of nothing the network likes


def jpeg():
    column, row = np.meshgrid(np.linspace(0, 255, SIZE[0]), np.linspace(0, 255, SIZE[1]))
    picture = Image.fromarray(np.stack([column, row, 255 - column], axis=-1).astype(np.uint8))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG")
    return buffer.getvalue()


def invoke(url, accept="application/x-npy"):
    answer = requests.post(
        f"{url}/invocations", jpeg(), headers={"Content-Type": "image/jpeg", "Accept": accept}, timeout=60
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == accept
    return answer.content


def assert_unit_normals(body):
    normals = np.load(io.BytesIO(body))
    assert normals.shape == (SIZE[1], SIZE[0], 3)
    assert np.linalg.norm(normals, axis=-1) == pytest.approx(np.ones(SIZE[::-1]), abs=1e-3)


def test_a_jpeg_becomes_a_normal_map_of_its_size(containers, serve_image, model_mount):
    _, url = containers.server(serve_image, volumes=model_mount)

    assert_unit_normals(invoke(url))
    assert Image.open(io.BytesIO(invoke(url, "image/png"))).size == SIZE


def test_any_user_on_a_read_only_root(containers, serve_image, model_mount):
    _, url = containers.server(
        serve_image, volumes=model_mount, read_only=True, tmpfs={"/tmp": ""}, user="1000:1000"
    )

    assert_unit_normals(invoke(url))


def test_nothing_is_written_outside_of_the_temporary_folders(containers, serve_image, model_mount):
    container, url = containers.server(serve_image, volumes=model_mount)
    invoke(url)
    written = [change["Path"] for change in container.diff() or []]

    assert [path for path in written if not path.startswith(("/tmp", "/opt/ml", "/dev"))] == ["/opt"]


def test_a_serverless_endpoints_memory_is_enough_and_batch_transform_is_told_so(
    containers, serve_image, model_mount
):
    """3 GB, of which /execution-parameters promises no more than there is; as many pictures as it says at once."""
    _, url = containers.server(serve_image, volumes=model_mount, mem_limit="3g")
    told = requests.get(f"{url}/execution-parameters", timeout=5).json()
    assert 1 <= told["MaxConcurrentTransforms"] <= 5
    with ThreadPoolExecutor() as pool:
        for body in pool.map(lambda _: invoke(url), range(told["MaxConcurrentTransforms"])):
            assert_unit_normals(body)

    line = json.dumps({"b64": base64.b64encode(jpeg()).decode()}).encode() + b"\n"
    answer = requests.post(
        f"{url}/invocations", line * 20, headers={"Content-Type": "application/jsonlines"}, timeout=60
    )
    assert [json.loads(record)["width"] for record in answer.text.split("\n")] == [SIZE[0]] * 20


def test_a_picture_that_the_memory_has_no_room_for_is_refused_and_the_server_lives(
    containers, serve_image, model_mount
):
    """A phone's 12 million pixels on a serverless endpoint's 3 GB."""
    container, url = containers.server(serve_image, volumes=model_mount, mem_limit="3g")
    file = io.BytesIO()
    Image.new("RGB", (4000, 3000), "olive").save(file, "JPEG")
    answer = requests.post(f"{url}/invocations", file.getvalue(), timeout=60)
    assert answer.status_code == 413
    assert "memory" in answer.json()["message"]

    assert_unit_normals(invoke(url))
    container.reload()
    assert container.attrs["State"]["OOMKilled"] is False


def test_no_network_no_root_and_nothing_writable_but_the_temporary_folder(
    containers, serve_image, model_mount
):
    """All at once, and shared memory read-only, too."""
    container = containers.start(
        serve_image,
        "serve",
        volumes=model_mount,
        network_mode="none",
        read_only=True,
        tmpfs={"/tmp": "", "/dev/shm": "ro"},
        user="1000:1000",
    )
    ping = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8080/ping', timeout=2).status)"

    def is_ready():
        return container.exec_run(["python", "-c", ping]).output == b"200\n"

    containers.wait_until(is_ready, container, 120, "/ping says 200")
    invoke = """
import io, numpy as np, urllib.request as u
body = io.BytesIO()
np.save(body, np.zeros((50, 75, 3), np.uint8))
print(np.load(io.BytesIO(u.urlopen("http://127.0.0.1:8080/invocations", body.getvalue(), timeout=60).read())).shape)
"""
    assert container.exec_run(["python", "-c", invoke]).output == b"(50, 75, 3)\n"


def test_the_port_that_the_platform_binds(containers, serve_image, model_mount):
    environment = {"SAGEMAKER_BIND_TO_PORT": "9090", "SAGEMAKER_SAFE_PORT_RANGE": "9100-9199"}
    container, url = containers.server(serve_image, port=9090, volumes=model_mount, environment=environment)
    listening = "print({line.split()[1] for line in open('/proc/net/tcp') if line.split()[3] == '0A'})"

    assert_unit_normals(invoke(url))
    assert container.exec_run(["python", "-c", listening]).output.decode() == f"{{'00000000:{9090:04X}'}}\n"


def test_docker_stop_ends_it_well(containers, serve_image, model_mount):
    """Scale-in: SIGTERM, and 30 s later SIGKILL."""
    container, url = containers.server(serve_image, volumes=model_mount)
    invoke(url)
    container.stop(timeout=30)

    assert containers.end_of(container, 10).exit_code == 0


def test_without_a_model_it_ends_and_says_why(containers, serve_image):
    ended = containers.run(serve_image, "serve", tmpfs={"/opt/ml/model": ""})

    assert ended.exit_code not in (0, 137)
    assert "/opt/ml/model" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr.splitlines()[-1]
