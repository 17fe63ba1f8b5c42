"""The program that SageMaker starts: what it accepts, how it ends, what it leaves."""

import os

import pytest


def test_a_job_from_start_to_end(job):
    job.channel("training", "a.jpg", "b.jpg")
    job.hyperparameters(factor=5, steps=2)
    ended = job.run("train", TRAINING_JOB_NAME="job-1", GPU_METRICS="on")
    assert ended.code == 0
    assert job.model == {"factor": 5, "steps": 2}
    assert ended.out.splitlines()[:2] == ["step=1; train_loss=1;", "step=2; train_loss=0.5;"]
    assert "job job-1 on algo-1, channels: training (2 files), Python 3." in ended.err
    assert ended.err.count('hyperparameters of doubling: {"factor": 5, "steps": 2,') == 1
    assert "training complete" in ended.last_line
    assert sorted(path.name for path in job.root.iterdir()) == ["checkpoints", "input", "model", "output"]
    assert [path.name for path in (job.root / "model").iterdir()] == ["model.json"]
    assert list((job.root / "output").iterdir()) == [job.root / "output" / "data"]


def test_without_a_word_it_trains_too(job):
    assert job.run().code == 0
    assert job.model == {"factor": 2, "steps": 3}


def test_ignored_names_are_said(job):
    job.hyperparameters(sagemaker_program="train.py", _tuning_objective_metric="loss")
    ended = job.run("train")
    assert ended.code == 0
    assert (
        "ignored, as this image trains its own model: _tuning_objective_metric, sagemaker_program"
        in ended.err
    )


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("serve",), "there is no such program"),
        (("evaluate", "now"), "there is no such program"),
        (("--help",), "there is no such program"),
        (("",), "there is no such program"),
        (("train", "--epochs", "3"), "hyperparameters come from hyperparameters.json"),
    ],
)
def test_another_command_says_what_is_accepted(job, words, reason):
    ended = job.run(*words)
    assert ended.code == 2
    assert ended.last_line.startswith(f"ClientError: cannot run {' '.join(words)!r}: ")
    assert reason in ended.last_line
    assert "trains with the command `train` or with none" in ended.last_line
    assert len(ended.err.splitlines()) == 1
    assert not job.root.exists()


def test_on_sagemaker_a_wrong_command_is_in_the_failure_file_too(job):
    job.config("inputdataconfig.json", {})
    ended = job.run("train", "--epochs", "3")
    assert ended.code == 2
    assert job.failure == ended.last_line


def test_a_program_that_is_none(job, tmp_path):
    broken = tmp_path / "broken"
    broken.write_text("no program")
    broken.chmod(0o755)
    ended = job.run(str(broken))
    assert ended.code == 2
    assert "Exec format error" in ended.last_line


def test_a_program_is_run(job):
    ended = job.run("bash", "-c", "echo $0 $1 here; exit 7", "a b")
    assert (ended.code, ended.out) == (7, "a b here\n")
    assert job.run("python3", "-c", "import os, signal; os.kill(os.getpid(), signal.SIGTERM)").code == -15


@pytest.mark.parametrize(
    ("fail", "first_line"),
    [
        ("data", "ClientError: picture training/b.jpg is not a picture"),
        ("bug", "AlgorithmError: KeyError: 'nobody expected this'"),
        (
            "kill",
            "AlgorithmError: the training process was killed by signal 9 (SIGKILL); likely out of memory",
        ),
    ],
)
def test_a_failure_names_its_cause(job, fail, first_line):
    job.channel("training", "a.jpg")
    job.hyperparameters(fail=fail)
    ended = job.run("train")
    assert ended.code == 1
    assert job.failure.splitlines()[0].startswith(first_line)
    assert ended.last_line == job.failure.splitlines()[0]
    if fail != "kill":
        assert "doubling/training.py" in job.failure.splitlines()[1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stpes": 3}, "hyperparameter 'stpes' is unknown; did you mean 'steps'?"),
        ({"steps": "many"}, "hyperparameter 'steps' must be an integer, not 'many'"),
        ({"factor": 11}, "hyperparameter 'factor' must be at most 10, not '11'"),
        ({"fail": "perhaps"}, "hyperparameter 'fail' must be one of no, data, bug, kill"),
    ],
)
def test_a_bad_hyperparameter_is_refused_before_any_work(job, values, message):
    job.hyperparameters(**values)
    ended = job.run("train", GPU_METRICS="on")
    assert ended.code == 1
    assert job.failure.startswith("ClientError: " + message)
    assert ended.last_line == job.failure
    assert ended.out == ""  # neither a rank nor the metrics agent was started
    assert not list((job.root / "checkpoints").iterdir())


MODEL = """
import os, sys
from dataclasses import dataclass

@dataclass(frozen=True)
class Config:
    pass

def train(config, *, model_dir, **_):
    {body}
"""


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        ("os._exit(7)", "AlgorithmError: the training process ended with exit code 7 and no message"),
        ("os.abort()", "AlgorithmError: the training process was killed by signal 6 (SIGABRT)"),
        ("sys.exit(0)", "AlgorithmError: SystemExit: 0"),
        ("import no_such_module", "AlgorithmError: ModuleNotFoundError: No module named 'no_such_module'"),
        ("pass", "AlgorithmError: RuntimeError: the model's train() returned and wrote nothing to "),
        ("raise ValueError('語' * 3000)", "ClientError: 語語語"),
        ("raise ValueError('odd name \\udcff')", "ClientError: odd name \\udcff"),
    ],
)
def test_no_end_of_the_model_counts_as_success(job, body, cause):
    ended = job.run("train", **job.package(MODEL.format(body=body)))
    assert ended.code == 1
    assert job.failure.startswith(cause)
    assert len(job.failure_file.read_bytes()) <= 1024
    assert job.failure.splitlines()[0] in ended.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("import no_such_module", "AlgorithmError: ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise ValueError('odd')", "AlgorithmError: ImportError: mine.training cannot be imported: odd"),
        ("def train(): pass", "AlgorithmError: ModelPackageError: mine.training offers no `Config`"),
    ],
)
def test_a_broken_package_is_not_the_callers_fault(job, source, cause):
    ended = job.run("train", **job.package(source))
    assert ended.code == 1
    assert job.failure.startswith(cause)
    assert "Traceback" in ended.err


def test_a_missing_package_is_named(job):
    ended = job.run("train", MODEL_PACKAGE="mine")
    assert ended.code == 1
    assert "no module 'mine.training': MODEL_PACKAGE is 'mine'" in ended.last_line


def test_the_text_of_an_earlier_failure_goes(job):
    job.root.joinpath("output").mkdir(parents=True)
    job.failure_file.write_text("AlgorithmError: yesterday")
    assert job.run("train").code == 0
    assert not job.failure_file.exists()


@pytest.mark.parametrize("folder", ["model", "output/data", "checkpoints"])
def test_a_folder_that_cannot_be_written_is_named(job, folder):
    path = job.root / folder
    path.parent.mkdir(parents=True)
    path.write_text("a file in place of the folder")
    ended = job.run("train")
    assert ended.code == 1
    assert ended.last_line.startswith(f"ClientError: cannot write to {path}: ")
    assert job.failure == ended.last_line
    assert ended.out == ""


@pytest.mark.parametrize("folder", ["model", "output/data", "checkpoints"])
def test_a_folder_that_takes_no_file_is_named(job, folder):
    path = job.root / folder
    path.parent.mkdir(parents=True)
    path.symlink_to("/proc")  # takes no file from anybody, root included, as a read-only mount
    ended = job.run("train")
    assert ended.code == 1
    assert job.failure.startswith(f"ClientError: cannot write to {path}: ")
    assert ended.out == ""


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (".", "resourceconfig.json cannot be read: Not a directory"),
        ("output", "output: File exists; it must be a folder, mounted read-write"),
    ],
)
def test_where_not_even_the_failure_can_be_written_the_log_has_it(job, file, message):
    path = job.root / file
    path.parent.mkdir(parents=True)
    path.write_text("a file in place of the folder")
    ended = job.run("train")
    assert ended.code == 1
    assert ended.last_line.startswith("ClientError: ")
    assert message in ended.last_line
    assert "Traceback" not in ended.err


def test_the_rank_sees_this_jobs_region_and_no_buffer(job):
    body = (
        "print(os.environ['AWS_DEFAULT_REGION'], os.environ['PYTHONUNBUFFERED']); (model_dir / 'm').touch()"
    )
    ended = job.run("train", AWS_REGION="eu-west-1", **job.package(MODEL.format(body=body)))
    assert (ended.code, ended.out) == (0, "eu-west-1 1\n")


def test_it_runs_from_any_folder_and_with_a_relative_tree(job, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    relative = os.path.relpath(job.root, tmp_path)
    assert job.run("train", SAGEMAKER_BASE_DIR=relative).code == 0
    assert job.model == {"factor": 2, "steps": 3}
