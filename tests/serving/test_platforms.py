"""The same image under other platforms' names: SageMaker's toolkits, Vertex AI, Azure ML, Kubernetes."""

import base64
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

TOOLKIT = {  # as the SageMaker SDK's `Model` sets them
    "SAGEMAKER_PROGRAM": "inference.py",
    "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code",
    "SAGEMAKER_REGION": "eu-west-1",
    "SAGEMAKER_STARTUP_TIMEOUT": "600",
    "SAGEMAKER_SAFE_PORT_RANGE": "9000-9010",
    "SAGEMAKER_CONTAINER_LOG_LEVEL": "10",
    "SAGEMAKER_MODEL_SERVER_WORKERS": "2",
    "SAGEMAKER_MODEL_SERVER_TIMEOUT": "1",
    "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT": "text/csv",
}
HEALTH = "/v1/endpoints/7/deployedModels/9"
VERTEX = {"AIP_HEALTH_ROUTE": HEALTH, "AIP_PREDICT_ROUTE": f"{HEALTH}:predict", "AIP_HTTP_PORT": "1"}


def listening_ports(pids):
    """TCP ports that these processes listen on, by address in the kernel's spelling."""
    sockets = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            if link.is_symlink() and str(target := link.readlink()).startswith("socket:["):
                sockets.add(str(target)[8:-1])
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A" and columns[9] in sockets:
                found.add(int(columns[1].rpartition(":")[2], 16))
    return found


def test_the_toolkits_variables_mean_what_they_meant(start_server):
    server = start_server(**TOOLKIT)
    assert len(server.children()) == 2
    assert " DEBUG " in server.log
    assert server.post(b"[1]", {"Content-Type": "application/json"}).headers["Content-Type"] == "text/csv"
    assert "SAGEMAKER_MODEL_SERVER_TIMEOUT" not in server.log
    assert server.invoke({"sleep": 1.5}).status_code == 504
    assert listening_ports([server.process.pid, *server.children()]) == {server.port}


def test_our_own_name_wins_over_the_toolkits(start_server):
    server = start_server(SAGEMAKER_MODEL_SERVER_TIMEOUT=1, REQUEST_TIMEOUT_SECONDS=5)
    assert server.invoke({"sleep": 1.2}).status_code == 200


def test_a_wrong_value_is_blamed_on_the_name_that_has_it(run_serve):
    done = run_serve("serve", SAGEMAKER_MODEL_SERVER_TIMEOUT="soon")
    assert done.returncode == 2
    assert "SAGEMAKER_MODEL_SERVER_TIMEOUT='soon'" in done.stderr


@pytest.mark.parametrize(
    ("settings", "seconds"),
    [
        ({}, "55"),
        ({"SAGEMAKER_BATCH": "true"}, "3600"),
        ({"SAGEMAKER_BATCH": "false"}, "55"),
        ({"SAGEMAKER_BATCH": "true", "SAGEMAKER_MODEL_SERVER_TIMEOUT": "90"}, "90"),
    ],
)
def test_a_deadline_suits_batch_transform_unless_it_is_set(run_serve, settings, seconds):
    code = "from serving.settings import load_settings; print(load_settings().request_timeout_seconds)"
    container = Path(__file__).resolve().parents[2] / "container"
    done = run_serve(sys.executable, "-c", code, PYTHONPATH=container, **settings)
    assert done.stdout.strip() == seconds


def test_batch_transform_sends_whole_objects_in_chunks_if_asked_to(start_server):
    server = start_server(SAGEMAKER_BATCH="true", SAGEMAKER_MAX_PAYLOAD_IN_MB=0)
    assert server.post(iter([b"[1", b"]"]), {"Content-Type": "application/json"}).json() == [2]


def test_healthz_says_that_the_process_lives_whatever_the_model_does(start_server):
    server = start_server(model={"factor": 2, "load_seconds": 2}, ready=False)
    server.wait_for("loading")
    assert requests.get(f"{server.url}/healthz", timeout=5).status_code == 200
    server.wait_for("ready")
    server.invoke({"fail": "CUDA error: device lost"})
    assert server.ping()[0] == 503
    assert requests.get(f"{server.url}/healthz", timeout=5).json() == {"state": "alive"}


def test_healthz_answers_while_every_slot_is_taken(start_server):
    server = start_server(MAX_QUEUE=2)
    with ThreadPoolExecutor() as pool:
        running = [pool.submit(server.invoke, {"sleep": 2}) for _ in range(2)]
        server.wait_for_metric("inference_in_flight_requests", 2)
        assert requests.get(f"{server.url}/healthz", timeout=5).status_code == 200
        assert not any(answer.done() for answer in running)


def test_azures_model_folder_is_found(start_server, tmp_path):
    mounted = tmp_path / "azureml-models" / "my-model" / "3"
    (mounted / "model").mkdir(parents=True)
    (mounted / "model" / "model.json").write_text(json.dumps({"factor": 7}))
    server = start_server(base=tmp_path, model=None, AZUREML_MODEL_DIR=mounted)
    assert server.invoke([1]).json() == [7]


@pytest.fixture(scope="module")
def vertex(start_server):
    return start_server(**VERTEX)


def predict(server, value):
    return requests.post(f"{server.url}{VERTEX['AIP_PREDICT_ROUTE']}", json=value, timeout=30)


def test_vertex_asks_its_own_routes(vertex):
    assert requests.get(f"{vertex.url}{HEALTH}", timeout=5).json()["state"] == "ready"
    answer = predict(vertex, {"instances": [[1, 2], [3]]})
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == {"predictions": [[2, 4], [6]]}
    assert predict(vertex, {"instances": []}).json() == {"predictions": []}
    assert vertex.metrics()['inference_requests_total{code="200"}'] >= 2


def test_vertexs_parameters_choose_the_answer(vertex):
    answer = predict(vertex, {"instances": [[1]], "parameters": {"accept": "text/csv"}})
    (prediction,) = answer.json()["predictions"]
    assert prediction["content_type"] == "text/csv"
    assert base64.b64decode(prediction["b64"]) == b"2.0"
    assert predict(vertex, {"instances": [[1]], "parameters": {"accept": "image/gif"}}).status_code == 406
    assert predict(vertex, {"instances": [[1]], "parameters": {"accept": 3}}).status_code == 400


def test_a_raw_prediction_of_vertex_is_an_ordinary_request(vertex):
    assert predict(vertex, [1, 2]).json() == [2, 4]
    wrong = predict(vertex, {"instances": [[1], ["a"]]})
    assert wrong.status_code == 400
    assert "record 2" in wrong.json()["message"]


def test_elsewhere_instances_are_the_models_own_business(shared_server):
    assert shared_server.invoke({"instances": [[1]]}).status_code == 500


def test_vertexs_port(start_server, run_serve):
    done = run_serve("serve", AIP_HTTP_PORT="eighty")
    assert "AIP_HTTP_PORT='eighty'" in done.stderr
    done = run_serve("serve", AIP_PREDICT_ROUTE="predict")
    assert "AIP_PREDICT_ROUTE='predict' must be a path that begins with /" in done.stderr
