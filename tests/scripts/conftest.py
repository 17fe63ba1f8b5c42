"""Stand-ins for what push and launch talk to: AWS (moto behind a recorder) and a registry with a password."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import boto3
import pytest
import requests

import launch as launch_script
from metrics.cloudwatch import NAMESPACE

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(command, url, log: Path, deadline_seconds=60, **variables):
    """A server process that answers at `url`; the caller ends it."""
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=os.environ | variables
        )
    deadline = time.monotonic() + deadline_seconds
    while True:
        try:
            requests.get(url, timeout=5)
            return server
        except requests.ConnectionError:
            if server.poll() is not None or time.monotonic() > deadline:
                server.kill()
                pytest.fail(f"{command[0]} did not come up: {log.read_text()[-2000:]}")
            time.sleep(0.1)


# What these answer unless a test says otherwise.
UNKNOWN_TO_MOTO = {
    "ListInferenceComponents": {"InferenceComponents": []},
    "StopTrainingJob": {},
    "StopTransformJob": {},
    "CreateInferenceComponent": {
        "InferenceComponentArn": "arn:aws:sagemaker:us-east-1:1:inference-component/c"
    },
    "DescribeInferenceComponent": {"InferenceComponentStatus": "InService"},
    "DeleteInferenceComponent": {},
    "DeleteModelPackage": {},
    "DeleteModelPackageGroup": {},
    "UpdateEndpoint": {"EndpointArn": "arn:aws:sagemaker:us-east-1:123456789012:endpoint/e"},
}


IAM_SERVICES = {"monitoring": "cloudwatch"}  # where it is not the name that requests are signed for
S3_ACTIONS = {"GET": "GetObject", "HEAD": "GetObject", "PUT": "PutObject", "POST": "PutObject"}


def iam_action(headers, operation, body):
    """What the user's IAM policy must allow for a request, as in `sagemaker:CreateModel`."""
    scope = re.search(r"Credential=[^/]+/\d+/[^/]+/([^/]+)/", headers.get("Authorization", ""))
    service = IAM_SERVICES.get(scope[1], scope[1])
    if service == "s3":
        return "s3:ListBucket" if "list-type" in operation else f"s3:{S3_ACTIONS[operation.split(' ')[0]]}"
    if operation.endswith("/invocations"):
        return "sagemaker:InvokeEndpoint"
    if operation.endswith("/async-invocations"):
        return "sagemaker:InvokeEndpointAsync"
    if action := re.search(rb"(?:^|&)Action=(\w+)", body):
        return f"{service}:{action[1].decode()}"
    return f"{service}:{operation}"


class Recorder(BaseHTTPRequestHandler):
    """Passes requests on to moto, remembers them, and lays what a test wants over single answers."""

    protocol_version = "HTTP/1.1"

    def forward(self):
        aws = self.server.aws
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        target = self.headers.get("X-Amz-Target")
        operation = target.rpartition(".")[2] if target else f"{self.command} {self.path}"
        if self.headers.get("Authorization"):
            aws.actions.append((iam_action(self.headers, operation, body), operation, body))
        for action, text in aws.xml_answers.items():
            if f"Action={action}&".encode() in body + b"&":
                self.answer(200, {"Content-Type": "text/xml"}, text.encode())
                return
        aws.requests.append((operation, body))
        laid_over = aws.answers[operation].pop(0) if aws.answers.get(operation) else {}
        if operation in UNKNOWN_TO_MOTO and not laid_over:
            laid_over = {"status": 200, **UNKNOWN_TO_MOTO[operation]}
        if laid_over is None:
            self.close_connection = True
            return
        if isinstance(laid_over, bytes):
            self.answer(200, {"Content-Type": "image/png"}, laid_over)
            return
        if "raw" in laid_over:
            self.answer(200, {"Content-Type": laid_over["type"]}, laid_over["raw"])
            return
        if "status" in laid_over:
            headers = {"Content-Type": "application/json"} | laid_over.get("headers", {})
            self.answer(laid_over["status"], headers, json.dumps(laid_over).encode())
            return
        headers = {name: value for name, value in self.headers.items() if name != "Expect"}
        real = requests.request(
            self.command, aws.moto_url + self.path, data=body, headers=headers, timeout=30
        )
        content = json.dumps(real.json() | laid_over).encode() if laid_over else real.content
        for old, new in aws.rewrites.items():
            content = content.replace(old.encode(), new.encode())
        about_the_body = ("content-length", "content-encoding", "transfer-encoding", "connection", "date")
        kept = {name: value for name, value in real.headers.items() if name.lower() not in about_the_body}
        self.answer(real.status_code, kept, content)

    def answer(self, status, headers, content):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward  # noqa: N815

    def log_message(self, *arguments):
        pass


class Aws:
    """AWS as the scripts see it.

    `answers`: operation -> what its next requests get, one each: members to lay over moto's JSON; with a
    `status`, which is HTTP's (and perhaps `headers`), as bytes, or as `raw` bytes of a `type`, moto is not asked;
    None hangs up. `rewrites`: text -> text, in every answer.
    `xml_answers`: operation of a service that speaks XML -> all its answers.
    """

    def __init__(self, moto_url):
        self.moto_url = moto_url
        self.requests: list[tuple[str, bytes]] = []
        self.actions: list[tuple[str, str, bytes]] = []
        self.answers: dict[str, list[dict | bytes | None]] = {}
        self.rewrites: dict[str, str] = {}
        self.xml_answers: dict[str, str] = {}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
        self.server.aws = self
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def operations(self):
        return [operation for operation, _ in self.requests]

    def sent(self, operation):
        """The arguments of the one request of this operation."""
        [body] = [body for name, body in self.requests if name == operation]
        return json.loads(body)

    def client(self, service):
        """A client of moto itself, past the recorder."""
        return boto3.client(
            service,
            endpoint_url=self.moto_url,
            region_name="us-east-1",
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )

    def publish(self, metric, values, dimensions, namespace=NAMESPACE, end=None):
        """A value for each of the minutes before `end`, a time of UTC; the last one now."""
        end = end or datetime.now(timezone.utc)
        data = [
            {
                "MetricName": metric,
                "Dimensions": [{"Name": name, "Value": value} for name, value in dimensions.items()],
                "Timestamp": end - timedelta(minutes=len(values) - 1 - number),
                "Value": value,
            }
            for number, value in enumerate(values)
        ]
        self.client("cloudwatch").put_metric_data(Namespace=namespace, MetricData=data)


@pytest.fixture(scope="session")
def moto_url(tmp_path_factory):
    url = f"http://127.0.0.1:{free_port()}"
    log = tmp_path_factory.mktemp("moto") / "log"
    command = [sys.executable, "-m", "moto.server", "-p", url.rpartition(":")[2]]
    server = start(command, f"{url}/moto-api/data.json", log, MOTO_S3_DEFAULT_MAX_KEYS="3")
    yield url
    server.terminate()
    server.wait(60)


@pytest.fixture
def aws(moto_url):
    requests.post(f"{moto_url}/moto-api/reset", timeout=30)
    aws = Aws(moto_url)
    yield aws
    aws.server.shutdown()
    aws.server.server_close()


@pytest.fixture
def environment(aws, tmp_path):
    """A user's environment: keys and region of the stand-in, nothing of the machine's own AWS or Docker settings."""
    kept = {name: os.environ[name] for name in ("PATH", "DOCKER_HOST", "LANG") if name in os.environ}
    return kept | {
        "HOME": str(tmp_path),
        "DOCKER_CONFIG": str(tmp_path / "docker-config"),
        "AWS_ENDPOINT_URL": aws.url,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@pytest.fixture
def script(environment, tmp_path):
    """Run one of the other scripts as a user does."""

    def run(name, *arguments, **changes):
        variables = {key: value for key, value in (environment | changes).items() if value is not None}
        command = [sys.executable, str(SCRIPTS / name), *map(str, arguments)]
        return subprocess.run(
            command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=120, check=False
        )

    return run


@pytest.fixture
def launch_process(environment, tmp_path):
    """Start launch.py as a user does in a terminal, also where the tests were started by nohup."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with contextlib.ExitStack() as started:

        def start(*arguments, **changes):
            variables = {name: value for name, value in (environment | changes).items() if value is not None}
            command = [sys.executable, str(SCRIPTS / "launch.py"), *map(str, arguments)]
            before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
            try:
                process = started.enter_context(
                    subprocess.Popen(command, cwd=tmp_path, env=variables, **pipes)
                )
            finally:
                signal.signal(signal.SIGHUP, before)
            started.callback(process.kill)  # before it is waited for
            return process

        yield start


@pytest.fixture
def launch(environment, monkeypatch, capsys, tmp_path):
    """Run launch.py's main in this process, which is faster: there are many commands to try."""

    def run(*arguments, **changes):
        with monkeypatch.context() as patch:
            patch.chdir(tmp_path)
            for name in [*os.environ]:
                patch.delenv(name)
            for name, value in (environment | changes).items():
                if value is not None:
                    patch.setenv(name, value)
            capsys.readouterr()
            code, said = 0, ""
            try:
                launch_script.main([str(argument) for argument in arguments])
            except SystemExit as end:  # with a text Python prints it and exits with 1
                code, said = (1, f"{end.code}\n") if isinstance(end.code, str) else (end.code, "")
        output, errors = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, output, errors + said)

    return run


@pytest.fixture
def refused(launch):
    """What launch.py says before it ends with status 1."""

    def run(*arguments):
        result = launch(*arguments)
        assert result.returncode == 1, result.stdout
        assert result.stderr.splitlines()[-1]
        return result.stderr[result.stderr.index("launch: ") :].rstrip()

    return run


@dataclass(frozen=True)
class Registry:
    """A registry on loopback, which engines reach without TLS, with the one user that moto's ECR hands out."""

    host: str
    user: str = "AWS"
    password: str = "123456789012-auth-token"
    password_bcrypt: str = "$2b$04$mU7k7vLLCtI6ds4jBKZujeKxsy/aYlh97VgEVpoxtd2LMG/6LD7UO"

    def request(self, method, path, **options):
        """One request of the registry's own protocol, logged in."""
        auth = (self.user, self.password)
        return requests.request(method, f"http://{self.host}/v2/{path}", auth=auth, timeout=30, **options)


@pytest.fixture(scope="session")
def registry(tmp_path_factory):
    program = shutil.which("docker-registry")
    if program is None:
        reason = "needs the program docker-registry (Debian package docker-registry)"
        if os.environ.get("REQUIRE_DOCKER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("registry")
    registry = Registry(f"127.0.0.1:{free_port()}")
    (folder / "users").write_text(f"{registry.user}:{registry.password_bcrypt}\n")
    settings = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": registry.host},
        "auth": {"htpasswd": {"realm": "test", "path": str(folder / "users")}},
    }
    (folder / "settings.yml").write_text(json.dumps(settings))  # JSON is YAML
    server = start(
        [program, "serve", str(folder / "settings.yml")], f"http://{registry.host}/v2/", folder / "log"
    )
    yield registry
    server.terminate()
    server.wait(60)
