"""Metric lines come out of the real images, without a network and on a driver library that pretends to have GPUs."""

import json

import pytest

import emf_validator
import nvml

pytestmark = pytest.mark.docker

ASK = """
import sys, urllib.request
request = urllib.request.Request("http://127.0.0.1:8080" + sys.argv[1], data=eval(sys.argv[2]))
request.add_header("Content-Type", "application/x-npy")
print(urllib.request.urlopen(request, timeout=60).status)
"""
PICTURE = """
(lambda io, np: (lambda file: (np.save(file, np.zeros((64, 96, 3), np.uint8)), file.getvalue())[1])(io.BytesIO()))(
    __import__("io"), __import__("numpy"))
"""


@pytest.fixture
def driver(tmp_path):
    """What a container is started with to see two GPUs, of which torch knows nothing."""
    folder = nvml.build(tmp_path / "driver")
    nvml.turn(folder, {"gpus": 2, "0.utilization": 90, "1.utilization": 70})
    mount = {str(folder): {"bind": "/driver", "mode": "rw"}}
    return {"volumes": mount, "environment": {"LD_LIBRARY_PATH": "/driver", "INSTANCE_USD_PER_HOUR": "2"}}


def values(stdout):
    """All metrics of the lines, with their values under the project's dimensions."""
    lines = [line.encode() for line in stdout.splitlines(keepends=True) if line.startswith('{"_aws"')]
    found = {}
    for datum in (datum for line in lines for datum in emf_validator.read(line)):
        if "Phase" in datum.dimensions:
            found.setdefault(datum.name, []).extend(datum.values)
    return found


def test_a_training_job(containers, make_tree, train_image, driver):
    tree = make_tree()
    tree.add_pictures("train", 4)
    tree.set_hyperparameters(
        size="tiny", epochs="1", batch_size="2", crop_height="64", crop_width="64", workers="0"
    )
    ended = containers.run(
        train_image,
        "train",
        network_mode="none",
        environment=driver["environment"],
        volumes=driver["volumes"] | tree.volumes,
        deadline_seconds=300,
    )

    assert ended.exit_code == 0, ended.stderr
    found = values(ended.stdout)
    assert set(found["GpuUtilization"]) == {90, 70}
    assert {"SamplesPerSecond", "DataWaitPercent", "CostPer1000", "GpuEnergyJoules"} <= found.keys()
    summary = json.loads((tree.root / "output/data/gpu-summary.json").read_text())
    assert summary["gpus"] == 2
    assert summary["verdict"] in ended.stderr


def test_a_server(containers, serve_image, model_mount, driver):
    container = containers.start(
        serve_image,
        "serve",
        network_mode="none",
        environment=driver["environment"] | {"ENDPOINT_NAME": "normals"},
        volumes=driver["volumes"] | model_mount,
    )

    def ask(path, body):
        return container.exec_run(["python", "-c", ASK, path, body]).output.decode()

    containers.wait_until(lambda: ask("/ping", "None").strip() == "200", container, 120, "/ping says 200")
    assert ask("/invocations", PICTURE.strip()).strip() == "200"
    container.stop(timeout=30)
    ended = containers.end_of(container, 10)

    assert ended.exit_code == 0, ended.stderr
    found = values(ended.stdout)
    assert sum(found["Requests"]) == 1
    assert {"PredictMilliseconds", "QueueMilliseconds", "GpuSecondsPerRequest"} <= found.keys()
    assert set(found["GpuUtilization"]) == {90, 70}
