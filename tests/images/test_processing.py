"""The training image as SageMaker starts it for a Processing job: another entrypoint, a script from S3, folders."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
    # Where SageMaker looks for the reason of a failure.
    folders["message"] = tmp_path / "message"
    folders["message"].mkdir()
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
            if name != "message"
        }
        volumes[str(job["message"])] = {"bind": "/opt/ml/output", "mode": "rw"}
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


def test_depth_of_a_camera_becomes_normals(process, job, tmp_path):
    for name in ("depth", "camera"):
        (tmp_path / name).mkdir()
        job[name] = tmp_path / name
    job["data"] = tmp_path / "pictures"
    job["data"].mkdir()
    Image.new("RGB", (64, 48), "grey").save(job["data"] / "a.png")
    np.save(job["depth"] / "a.npy", np.full((48, 64), 2.0, np.float32))  # a wall that the camera faces
    (job["camera"] / "camera.json").write_text('{"fx": 60, "fy": 60, "cx": 32, "cy": 24}')

    ended = process("convert", processing.convert_arguments())
    assert ended.exit_code == 0, ended.stderr
    [file] = (job["output"] / "normals").glob("a.*")
    normals = np.load(file)
    normals = normals[normals.files[0]] if file.suffix == ".npz" else normals
    assert normals[24, 32] == pytest.approx([0, 0, -1], abs=1e-2)  # rdf: towards the camera
    assert (job["output"] / "dataset.json").is_file()


def test_what_is_no_model_is_said_in_the_last_line_and_in_the_job_s_message(process, job):
    (job["model"] / "model.tar.gz").write_bytes(b"not an archive")
    ended = process("evaluate", processing.evaluate_arguments())
    assert ended.exit_code == 1
    assert ended.stderr.splitlines()[-1].startswith("evaluate: ")
    assert (job["message"] / "message").read_text() == ended.stderr.splitlines()[-1]
