"""The README says what the code does: every setting, hyperparameter, metric, target and folder."""

import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest

from launch import VERBS
from launching.calls import Call
from launching.limits import check_limits
from metrics.catalogue import METRICS
from metrics.cloudwatch import NAMESPACE
from serving.settings import Settings
from surface_normals.predictor import SurfaceNormalPredictor
from surface_normals.training import Config
from training.environment import read_elsewhere, read_environment

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def hyperparameter_row(row):
    given = row.metadata
    if "choices" in given:
        allowed = ", ".join(f"`{choice}`" for choice in given["choices"])
    elif row.type in (bool, "bool"):
        allowed = "`true`, `false`"
    elif row.type in (str, "str"):
        allowed = "a name"
    else:
        allowed = (
            f"{given['minimum']:g} to {given['maximum']:g}"
            if "maximum" in given
            else f"from {given['minimum']:g}"
        )
        words = [word for part in get_args(row.type) for word in get_args(part)]
        allowed = ", ".join([*(f"`{word}`" for word in words), allowed])
    default = str(row.default).lower() if isinstance(row.default, bool) else row.default
    shown = "" if default == "" else f"`{default}`"
    return f"| `{row.name}` | {shown} | {allowed} | {given['help']} |"


def setting_row(row):
    default = (
        "" if row.default is None else {True: "`on`", False: "`off`"}.get(row.default, f"`{row.default}`")
    )
    return f"| `{row.metadata['name']}` | {default} | {row.metadata['help']} |"


@pytest.mark.parametrize("row", fields(Config), ids=lambda row: row.name)
def test_every_hyperparameter_is_in_its_table(row):
    assert hyperparameter_row(row) in README.splitlines()


@pytest.mark.parametrize("row", fields(Settings), ids=lambda row: row.metadata["name"])
def test_every_serving_setting_is_in_its_table(row):
    assert setting_row(row) in README.splitlines()


def test_the_tables_hold_nothing_else():
    section = README.partition("## Hyperparameters")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)`", section, re.MULTILINE)) == {row.name for row in fields(Config)}
    section = README.partition("## Settings when serving")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)`", section, re.MULTILINE)) == {
        row.metadata["name"] for row in fields(Settings)
    }


def test_every_training_variable_is_there_with_its_default(tmp_path):
    environment = read_environment({"SAGEMAKER_BASE_DIR": str(tmp_path)})
    defaults = {
        "MODEL_PACKAGE": environment.model_package,
        "STOP_GRACE_SECONDS": f"{environment.stop_grace_seconds:g}",
        "PROCESSES_PER_HOST": "auto",
        "RENDEZVOUS_PORT": str(environment.rendezvous_port),
        "RENDEZVOUS_TIMEOUT_SECONDS": f"{environment.rendezvous_timeout_seconds:g}",
        "COLLECTIVE_TIMEOUT_SECONDS": f"{environment.collective_timeout_seconds:g}",
        "GPU_METRICS": "on" if environment.gpu_metrics else "off",
        "METRICS_PROJECT": environment.metrics_project,
        "METRICS_LEVEL": environment.metrics_level,
        "METRICS_SINK": environment.metrics_sink,
        "SAGEMAKER_BASE_DIR": "/opt/ml",
    }
    section = README.partition("## Settings when training")[2].partition("\n## ")[0]
    assert dict(re.findall(r"^\| `(\w+)` \| `([^`]+)`", section, re.MULTILINE)) == defaults
    # The program reads no other variable of ours: what it reads is written in capitals in that one file.
    read = set(re.findall(r'"([A-Z][A-Z0-9_]+)"', (ROOT / "container/training/environment.py").read_text()))
    set_by_sagemaker = {"TRAINING_JOB_NAME", "TRAINING_JOB_ARN", "AWS_REGION", "AWS_DEFAULT_REGION"}
    not_ours = {
        "PYTHONPATH",
        "PYTHONUNBUFFERED",
        "OMP_WAIT_POLICY",
        "PASSIVE",
        "CUDA_VISIBLE_DEVICES",
        "LD_LIBRARY_PATH",
    }
    set_by_the_parent = {"METRICS_WORK_ADDRESS", "TRAINING_HOSTS"}
    set_by_torch = {"RANK", "LOCAL_RANK", "WORLD_SIZE"}
    set_by_kubernetes = {"JOB_COMPLETION_INDEX", "MASTER_ADDR", "MASTER_PORT"}
    without_default = {
        "INSTANCE_USD_PER_HOUR",
        "HYPERPARAMETERS",
        "S3_CHANNELS",
        "S3_OUTPUT",
        "S3_CHECKPOINTS",
    }
    set_by_batch = {name for name in read if name.startswith("AWS_BATCH_JOB_")}
    set_by_others = set_by_batch | set_by_kubernetes
    assert read - set_by_others - set_by_sagemaker - set_by_the_parent - set_by_torch - not_ours == {
        *defaults,
        *without_default,
    }
    assert without_default == set(re.findall(r"^\| `(\w+)` \|  \|", section, re.MULTILINE))


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_is_in_its_table(name):
    assert f"| `{name}` | {METRICS[name].unit} | {METRICS[name].help} |" in README.splitlines()
    assert f"`{NAMESPACE}`" in README


@pytest.mark.parametrize(
    "media_type", [*SurfaceNormalPredictor.request_types, *SurfaceNormalPredictor.response_types]
)
def test_every_media_type_is_there(media_type):
    assert f"`{media_type}`" in README


def test_nothing_is_left_to_fill_in_and_every_picture_is_there():
    assert not re.findall(r"[A-Z]+_TABLE|DEMO_[A-Z]+", README)
    for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (ROOT / path).is_file(), path


def test_every_make_target_is_there_and_no_other():
    targets = set(re.findall(r"^([a-z][a-z-]*):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert targets == set(re.findall(r"`?make ([a-z][a-z-]*)", README)) | set()


def test_make_help_prints_every_target():
    printed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in set(re.findall(r"^([a-z][a-z-]*):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)):
        assert re.search(rf"^{target} +\S", printed, re.MULTILINE), target


def drawn_tree():
    """Paths of the README's layout tree."""
    block = README.partition("## Layout")[2].partition("```")[2].partition("```")[0]
    parents, found = [], set()
    for line in block.strip("\n").splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        names = re.match(r"\s*(\S+(?: \S+)*)(?:\s{2,}|$)", line)[1].split()
        parents = [*parents[:depth], names[0]]
        found |= {"".join([*parents[:depth], name]) for name in names}
    return found


def test_the_tree_is_what_is_on_the_disk():
    drawn = drawn_tree()
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    top = {path.partition("/")[0] + ("/" if "/" in path else "") for path in tracked if path}
    inside = {
        "/".join(path.split("/")[:2]) + ("/" if path.count("/") > 1 else "")
        for path in tracked
        if path.startswith("container/")
    }
    visible = {name for name in top if not name.startswith(".")} - {"README.md"}
    assert drawn == visible | inside | {"container/surface_normals/training/"}


def python_blocks():
    return re.findall(r"```python\n# (container/\S+)\n(.*?)```", README, re.DOTALL)


def test_the_readmes_own_model_goes_through_both_contracts(tmp_path):
    package = tmp_path / "my_model"
    package.mkdir()
    (package / "__init__.py").touch()
    for path, code in python_blocks():
        (package / Path(path).name).write_text(code)
    assert sorted(path.name for path in package.iterdir()) == ["__init__.py", "predictor.py", "training.py"]
    base = tmp_path / "ml"
    (base / "input/config").mkdir(parents=True)
    (base / "input/config/hyperparameters.json").write_text(json.dumps({"epochs": "2"}))
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "PYTHONPATH": f"{ROOT / 'container'}:{tmp_path}",
        "MODEL_PACKAGE": "my_model",
        "SAGEMAKER_BASE_DIR": str(base),
        "GPU_METRICS": "off",
    }
    result = subprocess.run(
        [ROOT / "container/train"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["step=0; train_loss=1;", "step=1; train_loss=0.5;"]
    code = (
        "from pathlib import Path; from model_api import load_predictor;"
        f"p = load_predictor('my_model', Path({str(base / 'model')!r}));"
        "print(p.encode(p.predict([p.decode(b'[1, 2]', p.request_types[0])])[0], p.response_types[0]))"
    )
    served = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    assert served.stdout.strip() == "b'[2.0, 4.0]'", served.stderr


@pytest.mark.parametrize("verb", ["upload", "train", "deploy", "invoke"])
def test_the_launch_commands_of_the_readme_are_accepted(verb, tmp_path):
    commands = [
        line
        for line in README.replace("\\\n", " ").splitlines()
        if line.startswith(f"$python scripts/launch.py {verb}")
    ]
    assert commands
    for command in commands:
        words = (
            command.partition("#")[0].replace("ROLE_ARN", "arn:aws:iam::123456789012:role/example").split()
        )
        words = [sys.executable, str(ROOT / words[1]), *words[2:], "--dry-run", "--region", "eu-west-1"]
        if verb in ("train", "deploy"):
            words += ["--image", "123456789012.dkr.ecr.eu-west-1.amazonaws.com/x@sha256:" + "0" * 64]
        if verb == "upload":
            words[3] = str(tmp_path / "my_data")
            (tmp_path / "my_data").mkdir()
            (tmp_path / "my_data" / "a.png").write_bytes(b"x")
        if verb == "invoke":
            (tmp_path / "photo.jpg").write_bytes(b"x")
        result = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert result.returncode == 0, result.stderr


def test_every_verb_of_launch_is_in_its_table():
    section = README.partition("## On SageMaker")[2].partition("\n## ")[0]
    rows = [row for row in section.splitlines() if row.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`([a-z]+)`", row.split("|")[1])]
    assert sorted(named) == sorted(VERBS)


def test_the_batch_example_is_what_aws_batch_takes():
    [example] = re.findall(r"^```json\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    request = {
        "jobDefinitionName": "surface-normals",
        "type": "container",
        "containerProperties": json.loads(example),
    }
    check_limits([Call("batch", "register_job_definition", request)], None)
    variables = {row["name"]: row["value"] for row in request["containerProperties"]["environment"]}
    assert read_elsewhere(variables).hyperparameters == {"epochs": 40}
