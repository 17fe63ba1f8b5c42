"""What is in the images, and what is not."""

import hashlib
import json
import re
from datetime import datetime
from pathlib import Path

import pytest

pytestmark = pytest.mark.docker

CONTAINER = Path(__file__).resolve().parents[2] / "container"
SCRIPTS = CONTAINER.parent / "scripts"
LARGEST_GB = 10  # serverless inference takes no larger image


@pytest.fixture(params=["train", "serve"])
def role(request):
    return request.param


@pytest.fixture
def name(request, role):
    return request.getfixturevalue(f"{role}_image")


@pytest.fixture
def config(engine, name):
    return engine.images.get(name).attrs["Config"]


@pytest.fixture
def shell(containers, name):
    """`shell(text)`: what a shell command in the image prints, without anything of ours running."""

    def run(text):
        ended = containers.run(name, ["-c", text], entrypoint="bash", network_mode="none")
        assert ended.exit_code == 0, ended.stderr
        return ended.stdout

    return run


def test_the_entrypoint_gets_signals_and_the_role_is_the_default_word(config, role):
    assert config["Entrypoint"] == [f"/opt/program/{role}"]  # a list is the exec form: no shell is process 1
    assert config["Cmd"] == [role]
    assert config["User"] in ("", "root", "0")


def test_the_environment_is_made_for_sagemaker(config):
    environment = dict(entry.split("=", 1) for entry in config["Env"])

    assert environment["PATH"].startswith("/opt/program:/opt/venv/bin:")
    assert environment["PYTHONPATH"] == "/opt/program"
    assert environment["PYTHONUNBUFFERED"] == "1"
    assert environment["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert environment["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"
    assert environment["NVIDIA_REQUIRE_CUDA"] == ""
    assert environment["NVIDIA_DISABLE_REQUIRE"] == "true"
    assert environment["MODEL_PACKAGE"] == "surface_normals"
    for cache in ("HOME", "XDG_CACHE_HOME", "TORCH_HOME", "TORCHINDUCTOR_CACHE_DIR"):
        assert environment[cache].startswith("/tmp")


def test_the_labels_say_what_it_is_and_promise_what_is_tested(config, role):
    labels = config["Labels"]

    doing = {"train": "training", "serve": "serving"}[role]
    assert labels["org.opencontainers.image.title"] == f"surface_normals {doing} for Amazon SageMaker"
    assert labels["org.opencontainers.image.licenses"] == "MIT"
    assert re.fullmatch(r"([0-9a-f]{40}(-dirty)?)?", labels["org.opencontainers.image.revision"])
    assert re.fullmatch(r"(https://[^@]+)?", labels["org.opencontainers.image.source"])
    assert datetime.fromisoformat(labels["org.opencontainers.image.created"].replace("Z", "+00:00")).tzinfo
    assert labels["org.opencontainers.image.base.name"]
    promises = {name: value for name, value in labels.items() if name.startswith("com.amazonaws")}
    kept = [
        f"com.amazonaws.sagemaker.capabilities.{name}" for name in ("accept-bind-to-port", "multi-models")
    ]
    assert promises == (dict.fromkeys(kept, "true") if role == "serve" else {})


def test_the_versions_on_the_labels_are_those_inside(shell, config):
    program = "import torch; print(torch.version.cuda, torch.__version__.partition('+')[0])"
    labels = config["Labels"]

    assert shell(f'python -c "{program}"').split() == [labels["cuda.version"], labels["torch.version"]]
    assert labels["flavor"] == "cu" + labels["cuda.version"].replace(".", "")


def test_the_bill_of_materials_names_every_package(containers, name, shell):
    script = {str(SCRIPTS / "bill_of_materials.py"): {"bind": "/bill.py", "mode": "ro"}}
    ended = containers.run(
        name,
        ["/bill.py", "an-image", "a-revision"],
        entrypoint="python3",
        volumes=script,
        network_mode="none",
    )
    assert ended.exit_code == 0, ended.stderr
    bill = json.loads(ended.stdout)

    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    image = bill["metadata"]["component"]
    assert (image["name"], image["version"]) == ("an-image", "a-revision")
    parts = bill["components"]
    assert len({part["bom-ref"] for part in parts}) == len(parts)
    folders = shell("ls -d /opt/venv/lib/python3*/site-packages/*.dist-info | wc -l")
    debian = shell("dpkg-query --show | wc -l")
    counts = [sum(part["purl"].startswith(f"pkg:{kind}/") for part in parts) for kind in ("pypi", "deb")]
    assert counts == [int(folders), int(debian)]
    licences = {part["name"]: part["licenses"][0]["license"]["name"] for part in parts if "licenses" in part}
    assert "BSD" in licences["torch"]
    [of_cudnn] = [licence for name, licence in licences.items() if name.startswith("nvidia-cudnn-cu")]
    assert "NVIDIA" in of_cudnn


def test_it_is_for_sagemaker_s_processors_and_not_too_large(engine, name, record_property):
    image = engine.images.get(name)
    gigabytes = image.attrs["Size"] / 1e9
    record_property("image_gigabytes", round(gigabytes, 2))

    assert (image.attrs["Os"], image.attrs["Architecture"]) == ("linux", "amd64")
    assert gigabytes < LARGEST_GB


def test_a_change_of_code_changes_small_layers_only(engine, name):
    newest_first = [layer["Size"] for layer in engine.images.get(name).history()]
    packages = newest_first.index(max(newest_first))

    assert sum(newest_first[:packages]) < 5e6
    assert newest_first[packages] > 1e9


def test_nothing_is_where_the_platform_mounts(shell):
    assert shell("ls -A /opt/ml 2>/dev/null | wc -l") == "0\n"
    assert shell("ls /opt") == "program\nvenv\n"


def test_every_user_may_read_everything_and_nobody_but_root_may_write(shell):
    assert shell("find /opt ! -type l ! -perm -o=r") == ""
    assert shell("find /opt -type d ! -perm -o=x") == ""
    assert shell("find /opt ! -type l -perm /022") == ""
    assert shell("find /opt ! -user root") == ""


def test_the_program_can_be_executed(shell, role):
    assert shell(f"stat -c %a /opt/program/{role}") == "755\n"
    assert shell(f"head -1 /opt/program/{role}") == "#!/usr/bin/env python3\n"
    assert shell(r"grep -rlI $'\r' /opt/program || true") == ""


def test_the_program_is_this_checkout_s_and_only_what_the_role_needs(shell, role):
    printed = shell("cd /opt/program && find * -name '*.pyc' -prune -o -type f -print0 | xargs -0 sha256sum")
    inside = {path: digest for digest, path in (line.split(maxsplit=1) for line in printed.splitlines())}
    inside.pop("REVISION", None)
    here = {path: hashlib.sha256((CONTAINER / path).read_bytes()).hexdigest() for path in inside}
    folders = {path.split("/")[0] for path in inside if "/" in path}

    assert [path for path in inside if inside[path] != here[path]] == [], "of older code: run `make build`"
    assert folders == {"metrics", "surface_normals", {"train": "training", "serve": "serving"}[role]}
    assert ("surface_normals/training/loop.py" in inside) == (role == "train")


def test_every_module_is_compiled(shell):
    program = (
        "import importlib.util as u, pathlib as p\n"
        # Others are of a newer Python.
        "sources = [s for s in p.Path('/opt').rglob('*.py') if not s.name.startswith('py31')]\n"
        "print(len(sources) > 1000, [str(s) for s in sources if not p.Path(u.cache_from_source(s)).exists()])"
    )

    assert shell(f'python -c "{program}"') == "True []\n"


def test_the_packages_are_those_of_the_lock_and_no_others(shell, role, config):
    listing = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    installed = {
        re.sub(r"[-_.]+", "-", name).lower(): version
        for name, version in json.loads(shell(f"python -c '{listing}'")).items()
    }
    lock = (CONTAINER / f"requirements/{role}-{config['Labels']['flavor']}.lock").read_text()
    locked = {(match[1], match[2]) for match in re.finditer(r"^([\w.-]+)==([^\s;]+)", lock, re.MULTILINE)}

    assert set(installed.items()) <= locked
    assert {"torch", "torchvision", "nvidia-ml-py"} <= set(installed)
    assert ("gunicorn" in installed) == (role == "serve")


def test_torch_computes_without_triton(shell):
    program = (
        "import torch, torchvision, importlib.util as u\n"
        "x = torch.nn.functional.conv2d(torch.ones(1, 3, 8, 8), torch.ones(4, 3, 3, 3))\n"
        "print(int(x.max()), int(torch.linalg.inv(torch.eye(2)).sum()), u.find_spec('triton'))\n"
    )

    assert shell(f'python -c "{program}"') == "27 2 None\n"


def test_nothing_is_left_that_only_developers_of_the_packages_use(shell):
    kinds = (
        "*.a",
        "*.h",
        "*.pyi",
        "*/torch/bin/protoc*",
        "libnvperf_*",
        "nvshmem_transport_*",
        "*/site-packages/*/tests/*.py",
    )
    found = " -o ".join(f"-path '{kind}'" if "/" in kind else f"-name '{kind}'" for kind in kinds)
    assert shell(f"find /opt/venv -type f \\( {found} \\)") == ""


def test_neither_history_nor_environment_holds_a_secret(engine, name, config):
    history = [layer["CreatedBy"] for layer in engine.images.get(name).history()]
    text = "\n".join([*history, *config["Env"], *config["Labels"].values()])

    assert not re.search(r"AKIA[0-9A-Z]{16}|PRIVATE KEY|://[^/\s]+:[^/\s]+@", text)
    assert not re.search(
        r"(?i)(password|passwd|secret|token|credential|api_?key|access_?key)\w*\s*[=:]", text
    )
