"""The training image as SageMaker starts it for a Processing job: another entrypoint, a script from S3, folders."""

import json
import tarfile
from pathlib import Path

import pytest

from launching import processing

pytestmark = pytest.mark.docker

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
PLACES = {
    "image": "i",
    "role": "r",
    "code": "s3://b/c",
    "output": "s3://b/o",
    "inputs": {"data": "s3://b/d", "model": "s3://b/m"},
    "resources": {},
}


@pytest.fixture
def job(trained, tmp_path):
    """SageMaker's folders for a job of one task, filled as it fills them."""
    tree, ended = trained
    assert ended.exit_code == 0, ended.stderr
    for name in ("code", "model", "output"):
        (tmp_path / name).mkdir()
    with tarfile.open(tmp_path / "model" / "model.tar.gz", "w:gz") as archive:
        archive.add(tree.root / "model", arcname=".")
    folders = {name: tmp_path / name for name in ("code", "model", "output")}
    folders["data"] = tree.root / "input/data/validation"
    return folders


@pytest.fixture
def process(containers, train_image, job):
    def run(task, arguments):
        request = processing.job(task, arguments, **PLACES)
        (job["code"] / processing.SCRIPTS[task]).write_bytes(
            (SCRIPTS / processing.SCRIPTS[task]).read_bytes()
        )
        volumes = {
            str(folder): {"bind": f"{processing.BASE}/{name}", "mode": "rw" if name == "output" else "ro"}
            for name, folder in job.items()
        }
        application = request["AppSpecification"]
        return containers.run(
            train_image,
            application["ContainerArguments"],
            entrypoint=application["ContainerEntrypoint"],
            volumes=volumes,
            network_mode="none",
        )

    return run


def test_a_model_is_measured(process, job):
    ended = process("evaluate", processing.evaluate_arguments())
    assert ended.exit_code == 0, ended.stderr
    report = json.loads((job["output"] / "evaluation.json").read_text())
    assert 0 < report["regression_metrics"]["mean_angular_error"]["value"] < 120
    assert len((job["output"] / "per_image.csv").read_text().splitlines()) == 1 + 2


def test_a_data_set_is_checked(process, job):
    ended = process("check", processing.check_arguments())
    assert ended.exit_code == 0, ended.stderr
    assert "facing as" in ended.stdout
    assert (job["output"] / "dataset-check.png").stat().st_size > 1000


def test_what_is_no_model_is_said_in_the_last_line(process, job):
    (job["model"] / "model.tar.gz").write_bytes(b"not an archive")
    ended = process("evaluate", processing.evaluate_arguments())
    assert ended.exit_code == 1
    assert ended.stderr.splitlines()[-1].startswith("evaluate: ")
