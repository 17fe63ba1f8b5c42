"""A multi-model endpoint: models that come and go by /models, each in processes of its own."""

import contextlib
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

TIMEOUT = 60


class Endpoint:
    """What SageMaker does with a multi-model container."""

    def __init__(self, server, folder):
        self.server, self.url, self.folder = server, server.url, folder

    def model(self, name, **content):
        """The folder of a model of that factor."""
        folder = self.folder / name / "model"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.json").write_text(json.dumps(content))
        return str(folder)

    def load(self, name, url):
        return requests.post(f"{self.url}/models", json={"model_name": name, "url": url}, timeout=TIMEOUT)

    def unload(self, name):
        return requests.delete(f"{self.url}/models/{name}", timeout=TIMEOUT)

    def get(self, name):
        return requests.get(f"{self.url}/models/{name}", timeout=TIMEOUT)

    def listed(self, token=""):
        return requests.get(f"{self.url}/models", params={"next_page_token": token}, timeout=TIMEOUT).json()

    def invoke(self, name, value, **headers):
        return requests.post(f"{self.url}/models/{name}/invoke", json=value, headers=headers, timeout=TIMEOUT)

    def processes(self):
        """All below the server's worker, their own children included."""
        found, todo = [], self.server.children()
        while todo:
            threads = Path(f"/proc/{todo.pop()}/task").glob("*/children")  # any of them may have started one
            below = [int(pid) for file in threads for pid in file.read_text().split()]
            todo += below
            found += below
        return found

    def pss_bytes(self):
        total = 0
        for pid in [self.server.process.pid, *self.server.children(), *self.processes()]:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
        return total


@pytest.fixture(scope="module")
def start_endpoint(start_server, tmp_path_factory):
    def start(**settings):
        server = start_server(model=None, SAGEMAKER_MULTI_MODEL="true", **settings)
        return Endpoint(server, tmp_path_factory.mktemp("models"))

    return start


@pytest.fixture(scope="module")
def endpoint(start_endpoint):
    """For tests that leave it as it was: without models."""
    return start_endpoint()


def test_models_come_answer_and_go(endpoint):
    assert endpoint.server.ping() == (
        200,
        {"state": "ready", "uptime_seconds": pytest.approx(5, abs=60), "device": "cpu"},
    )
    assert endpoint.listed() == {"models": []}
    two, ten = endpoint.model("two", factor=2), endpoint.model("a%2Fb=", factor=10)
    assert endpoint.load("two", two).status_code == 200
    assert endpoint.load("two", two).status_code == 409
    assert endpoint.load("a/b=", ten).status_code == 200
    assert endpoint.listed()["models"] == [
        {"modelName": "a/b=", "modelUrl": ten},
        {"modelName": "two", "modelUrl": two},
    ]
    assert endpoint.get("a%2Fb%3D").json() == {"modelName": "a/b=", "modelUrl": ten}

    answer = endpoint.invoke("two", [1, 2], **{"X-Amzn-SageMaker-Inference-Id": "mine"})
    assert (answer.status_code, answer.json()) == (200, [2, 4])
    assert answer.headers["X-Amzn-SageMaker-Inference-Id"] == "mine"
    answer = endpoint.invoke("a%2Fb%3D", [1, 2], Accept="text/csv")
    assert (answer.headers["Content-Type"], answer.text) == ("text/csv", "10.0,20.0")
    refused = endpoint.invoke("two", ["x"])
    assert (refused.status_code, refused.json()["error"]) == (400, "Bad Request")

    for name in ("two", "a%2Fb%3D"):
        assert endpoint.unload(name).status_code == 200
        for absent in (endpoint.unload(name), endpoint.get(name), endpoint.invoke(name, [1])):
            assert absent.status_code == 404
    assert endpoint.listed() == {"models": []}
    assert endpoint.processes() == []


def test_what_cannot_be_loaded_leaves_nothing_behind(endpoint, tmp_path):
    for body in (b"", b"[]", b'{"model_name": "x"}', b'{"model_name": 1, "url": "/"}'):
        answer = requests.post(f"{endpoint.url}/models", data=body, timeout=TIMEOUT)
        assert (answer.status_code, "model_name" in answer.json()["message"]) == (400, True)
    answer = endpoint.load("absent", str(tmp_path / "absent"))
    assert answer.status_code == 400
    assert f"{tmp_path / 'absent'} does not exist" in answer.json()["message"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model.json").write_text('{"factor": 1, "load_seconds": "none"}')
    answer = endpoint.load("broken", str(tmp_path / "other"))
    assert answer.status_code == 400
    assert "TypeError" in answer.json()["message"]
    assert endpoint.listed() == {"models": []}
    assert endpoint.processes() == []


def test_a_model_for_which_there_is_no_memory_is_507(endpoint, tmp_path):
    with (tmp_path / "weights").open("wb") as file:
        file.truncate(2**42)  # a hole: it has that size, and takes no room
    answer = endpoint.load("large", str(tmp_path))
    assert answer.status_code == 507
    assert "MiB wanted" in answer.json()["message"]
    assert endpoint.listed() == {"models": []}


def test_models_that_are_being_loaded_are_counted(start_endpoint, tmp_path):
    """A load that has begun has what it will need, though it has not taken it yet."""
    endpoint = start_endpoint()
    free = next(line for line in Path("/proc/meminfo").read_text().splitlines() if "MemAvailable" in line)
    half = int(free.split()[1]) * 1024 // 2
    for name in ("first", "second", "third"):
        with (Path(endpoint.model(name, factor=1, load_seconds=4)) / "weights").open("wb") as file:
            file.truncate(half)  # a hole: it takes no room
    with ThreadPoolExecutor(3) as pool:
        answers = list(
            pool.map(
                lambda name: endpoint.load(name, str(endpoint.folder / name / "model")),
                ("first", "second", "third"),
            )
        )
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses[0] == 200
    assert statuses[-1] == 507
    assert "MiB wanted" in max(answers, key=lambda answer: answer.status_code).json()["message"]


def kill_workers_of(endpoint, name):
    """What the kernel does where memory runs out: the largest process, which is not the model's first one."""
    workers = []
    for pid in endpoint.processes():
        with contextlib.suppress(OSError):
            parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
            if f"/{name}/".encode() in Path(f"/proc/{parent}/environ").read_bytes():
                workers.append(pid)
                os.kill(pid, signal.SIGKILL)
    return workers


def test_a_model_that_is_killed_while_it_loads_is_507(endpoint):
    url = endpoint.model("growing", factor=1, load_seconds=20)
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(endpoint.load, "growing", url)
        end = time.monotonic() + 10
        while not kill_workers_of(endpoint, "growing"):
            assert time.monotonic() < end
            time.sleep(0.05)
        answer = loading.result()
    assert answer.status_code == 507
    assert "out of memory" in answer.json()["message"]
    assert endpoint.listed() == {"models": []}
    assert endpoint.processes() == []


def test_what_has_no_memory_for_a_request_is_507(endpoint):
    assert endpoint.load("full", endpoint.model("full", factor=1)).status_code == 200
    answer = endpoint.invoke("full", {"fail": "CUDA out of memory. Tried to allocate 2.00 GiB"})
    assert answer.status_code == 507
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(endpoint.invoke, "full", {"sleep": 20})
        while endpoint.server.metrics()["inference_in_flight_requests"] == 0:
            time.sleep(0.02)
        time.sleep(0.3)
        kill_workers_of(endpoint, "full")
        answer = running.result()
    assert answer.status_code == 507
    assert "out of memory" in answer.json()["message"]
    assert endpoint.unload("full").status_code == 200


def test_loads_of_one_name_are_bounded_and_leave_threads_to_others(endpoint):
    url = endpoint.model("awaited", factor=1, load_seconds=4)
    with ThreadPoolExecutor(40) as pool:
        answers = [pool.submit(endpoint.load, "awaited", url) for _ in range(40)]
        time.sleep(2)
        assert endpoint.listed() == {"models": []}
        assert endpoint.invoke("awaited", [1]).status_code == 503
        statuses = [answer.result().status_code for answer in answers]
    assert (statuses.count(200), set(statuses)) == (1, {200, 409, 503})
    assert endpoint.unload("awaited").status_code == 200


def test_the_list_goes_on_after_its_token(endpoint):
    names = [f"m{number}" for number in range(3)]
    for name in names:
        assert endpoint.load(name, endpoint.model(name, factor=1)).status_code == 200
    assert [model["modelName"] for model in endpoint.listed("m0")["models"]] == ["m1", "m2"]
    assert endpoint.listed("m2") == {"models": []}
    for name in names:
        assert endpoint.unload(name).status_code == 200


def test_memory_is_free_when_a_model_is_unloaded(endpoint):
    url = endpoint.model("cycled", factor=3)

    def cycle():
        assert endpoint.load("cycled", url).status_code == 200
        assert endpoint.invoke("cycled", [1]).json() == [3]
        assert endpoint.unload("cycled").status_code == 200

    for _ in range(2):
        cycle()
    before = endpoint.pss_bytes()
    for _ in range(10):
        cycle()
    assert endpoint.pss_bytes() < 1.05 * before + 2**21
    assert endpoint.processes() == []
    assert list((endpoint.server.base / "tmp").glob("serving-*/models/*")) == []


def test_one_name_from_many_threads(endpoint):
    url = endpoint.model("wanted", factor=5)
    seen = {"load": set(), "invoke": set(), "unload": set()}

    def play(number):
        for _ in range(3):
            seen["load"].add(endpoint.load("wanted", url).status_code)
            answer = endpoint.invoke("wanted", [number])
            seen["invoke"].add(answer.status_code)
            assert answer.status_code != 200 or answer.json() == [5 * number]
            seen["unload"].add(endpoint.unload("wanted").status_code)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(play, range(4)))
    assert seen["load"] <= {200, 409}
    assert seen["invoke"] <= {200, 404, 503}
    assert seen["unload"] <= {200, 404}
    assert all(200 in statuses for statuses in seen.values())
    if endpoint.get("wanted").status_code == 200:
        assert endpoint.unload("wanted").status_code == 200
    assert endpoint.processes() == []


def test_an_unload_waits_for_what_the_model_is_at(endpoint):
    assert endpoint.load("slow", endpoint.model("slow", factor=1)).status_code == 200
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(endpoint.invoke, "slow", {"sleep": 1.5})
        while endpoint.server.metrics()["inference_in_flight_requests"] == 0:
            time.sleep(0.02)
        assert endpoint.unload("slow").status_code == 200
        assert answer.result().json() == [1.5]


def test_a_model_that_dies_is_gone_and_no_other(endpoint):
    for name in ("dying", "living"):
        assert endpoint.load(name, endpoint.model(name, factor=7)).status_code == 200
    for pid in endpoint.processes():
        if b"/dying/" in Path(f"/proc/{pid}/environ").read_bytes():
            os.kill(pid, signal.SIGKILL)
    answer = endpoint.invoke("dying", [1])
    assert answer.status_code in (404, 500)
    assert endpoint.invoke("dying", [1]).status_code == 404
    assert endpoint.invoke("living", [1]).json() == [7]
    assert [model["modelName"] for model in endpoint.listed()["models"]] == ["living"]
    assert endpoint.load("dying", endpoint.model("dying", factor=8)).status_code == 200
    assert endpoint.invoke("dying", [1]).json() == [8]
    for name in ("dying", "living"):
        assert endpoint.unload(name).status_code == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_endpoint(start_endpoint, number):
    endpoint = start_endpoint()
    assert endpoint.load("left", endpoint.model("left", factor=1)).status_code == 200
    left = endpoint.processes()
    assert left
    if number == signal.SIGTERM:
        endpoint.server.process.terminate()
        assert endpoint.server.exit_code() == 0
    else:  # of the process that has the table: the endpoint is of no use without it
        os.kill(endpoint.server.children()[0], signal.SIGKILL)
        assert endpoint.server.exit_code() == 1
        assert "the worker that knew the models died" in endpoint.server.log
    end = time.monotonic() + 10
    while any(Path(f"/proc/{pid}/cmdline").exists() for pid in left):
        assert time.monotonic() < end
        time.sleep(0.05)
