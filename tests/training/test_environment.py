"""The trees that SageMaker, its SDK's local modes and plain Docker leave, as the first step reads them."""

import json
import os
import re
from pathlib import Path

import pytest

from training import channels
from training.environment import rank_environ, read_environment, visible_gpus

REAL_RESOURCES = {
    "current_host": "algo-1",
    "current_instance_type": "ml.g5.xlarge",
    "current_group_name": "homogeneousCluster",
    "hosts": ["algo-1"],
    "instance_groups": [
        {"instance_group_name": "homogeneousCluster", "instance_type": "ml.g5.xlarge", "hosts": ["algo-1"]}
    ],
    "network_interface_name": "eth0",
    "topology": None,
}
FILE_CHANNEL = {
    "training": {
        "TrainingInputMode": "File",
        "S3DistributionType": "FullyReplicated",
        "RecordWrapperType": "None",
    }
}
# What stands in input/config, by who made it. None: not even the folder.
TREES = {
    "plain docker": None,
    "empty folder": {},
    "one real host": {
        "hyperparameters.json": {"factor": "3"},
        "resourceconfig.json": REAL_RESOURCES,
        "inputdataconfig.json": FILE_CHANNEL,
    },
    "version 2 local mode": {
        "hyperparameters.json": {"factor": "3", "verbose": "True"},
        "resourceconfig.json": {"current_host": "algo-1-ab3cd", "hosts": ["algo-1-ab3cd"]},
        "inputdataconfig.json": {"training": {"TrainingInputMode": "File"}},
    },
    "version 3 local mode": {
        "hyperparameters.json": {"factor": 3, "verbose": True},
        "resourceconfig.json": {
            "current_host": "algo-1",
            "current_instance_type": "local",
            "hosts": ["algo-1"],
            "network_interface_name": "ethwe",
        },
        "inputdataconfig.json": FILE_CHANNEL,
    },
    "Studio local mode": {
        "hyperparameters.json": {},
        "resourceconfig.json": {"current_host": "sagemaker-local", "hosts": ["sagemaker-local"]},
        "inputdataconfig.json": FILE_CHANNEL,
    },
    "EFS channel": {"inputdataconfig.json": FILE_CHANNEL, "resourceconfig.json": REAL_RESOURCES},
    "unknown files": {
        "inputdataconfig.json": {
            "training": FILE_CHANNEL["training"] | {"DatasetSource": {}, "ContentType": "x"}
        },
        "resourceconfig.json": REAL_RESOURCES | {"new_key": [1]},
        "init-config.json": {"a": 1},
        "metric-definition-regex.json": [],
        "debughookconfig.json": {},
        "profilerconfig.json": "not JSON at all",
        "trainingjobconfig.json": {},
        "upstreamoutputdataconfig.json": [],
    },
    "tuning job": {
        "hyperparameters.json": {"factor": "4", "rate": "0.0123", "_tuning_objective_metric": "val_mean_deg"},
        "resourceconfig.json": REAL_RESOURCES,
        "inputdataconfig.json": FILE_CHANNEL,
    },
    "framework estimator": {
        "hyperparameters.json": {
            "factor": "4",
            "fail": '"no"',
            "verbose": "false",
            "sagemaker_program": '"train.py"',
            "sagemaker_submit_directory": '"s3://bucket/job/source/sourcedir.tar.gz"',
            "sagemaker_container_log_level": "20",
            "sagemaker_job_name": '"job-1"',
            "sagemaker_region": '"eu-west-1"',
        },
        "resourceconfig.json": REAL_RESOURCES,
        "inputdataconfig.json": FILE_CHANNEL
        | {"code": {"TrainingInputMode": "File"}, "sm_drivers": {"TrainingInputMode": "File"}},
    },
}


def lay_out(job, files):
    folder = job.channel("training", "a.jpg", "nested/b.PNG")
    (folder.parent / "training-manifest").mkdir()
    for name, value in (files or {}).items():
        job.config(name, value)


def read(job, **environ):
    return read_environment({"SAGEMAKER_BASE_DIR": str(job.root)} | environ)


@pytest.mark.parametrize("name", TREES)
def test_every_tree_trains(job, name):
    lay_out(job, TREES[name])
    ended = job.run("train")
    assert ended.code == 0, ended.err
    assert "training (2 files)" in ended.err
    hyperparameters = (TREES[name] or {}).get("hyperparameters.json", {})
    assert job.model["factor"] == int(hyperparameters.get("factor", 2))
    assert not job.failure_file.exists()


@pytest.mark.parametrize("name", TREES)
def test_every_tree_has_the_one_channel(job, name):
    lay_out(job, TREES[name])
    assert read(job).channels == {"training": job.root / "input" / "data" / "training"}


def test_nothing_of_sagemakers_there_at_all(job):
    environment = read(job)
    assert environment.hosts == ("algo-1",)
    assert environment.channels == {}
    assert environment.hyperparameters == {}
    assert environment.job_name == "local"
    assert environment.checkpoint_dir == job.root / "checkpoints"
    assert not job.root.exists()  # reading makes nothing


def test_default_places():
    tree = read_environment({"SAGEMAKER_BASE_DIR": ""}).tree
    assert [
        str(path)
        for path in (tree.config_dir, tree.data_dir, tree.model_dir, tree.output_dir, tree.failure_file)
    ] == [
        "/opt/ml/input/config",
        "/opt/ml/input/data",
        "/opt/ml/model",
        "/opt/ml/output/data",
        "/opt/ml/output/failure",
    ]


def test_hosts_stand_in_the_order_of_their_numbers(job):
    hosts = sorted(f"algo-{number}" for number in range(1, 13))
    job.config("resourceconfig.json", REAL_RESOURCES | {"hosts": hosts, "current_host": "algo-10"})
    environment = read(job)
    assert environment.hosts == tuple(f"algo-{number}" for number in range(1, 13))
    assert environment.current_host == "algo-10"


def test_several_hosts_are_refused_at_once(job):
    hosts = ["algo-2", "algo-10", "algo-1"]
    groups = [
        {"instance_group_name": "big", "instance_type": "ml.p4d.24xlarge", "hosts": ["algo-10", "algo-2"]},
        {"instance_group_name": "small", "instance_type": "ml.g5.xlarge", "hosts": ["algo-1"]},
    ]
    resources = {
        "hosts": hosts,
        "current_host": "algo-2",
        "current_group_name": "big",
        "instance_groups": groups,
    }
    job.config("resourceconfig.json", REAL_RESOURCES | resources)
    ended = job.run("train")
    assert ended.code == 1
    assert job.failure.startswith("ClientError: the job has 3 hosts (algo-1, algo-2, algo-10)")
    assert "InstanceCount to 1" in job.failure


def test_a_host_that_is_not_among_the_hosts_is_named(job):
    job.config("resourceconfig.json", {"current_host": "algo-3", "hosts": ["algo-1", "algo-2"]})
    with pytest.raises(ValueError, match=r"resourceconfig\.json: current_host 'algo-3' is not among hosts"):
        read(job)


@pytest.mark.parametrize("file", ["hyperparameters.json", "resourceconfig.json", "inputdataconfig.json"])
@pytest.mark.parametrize("text", ['{"factor": "3"', "", "[1]", "null"])
def test_a_malformed_file_is_named(job, file, text):
    job.config(file, text)
    with pytest.raises(ValueError, match=re.escape(f"{job.root / 'input' / 'config' / file} ")):
        read(job)


def test_a_malformed_file_ends_the_job_with_that_text(job):
    job.config("hyperparameters.json", '{"factor": "3"')
    ended = job.run("train")
    assert ended.code == 1
    assert "hyperparameters.json is not JSON: Expecting ',' delimiter: line 1 column 15" in job.failure
    assert job.failure.startswith("ClientError: ")
    assert job.failure == ended.last_line
    assert ended.out == ""


def test_a_file_that_is_no_utf8_is_named(job):
    job.config("hyperparameters.json", "{}")
    (job.root / "input" / "config" / "hyperparameters.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ValueError, match=r"hyperparameters\.json is not JSON"):
        read(job)


def test_a_byte_order_mark_is_no_fault(job):
    job.config("hyperparameters.json", "\ufeff" + json.dumps({"factor": "3"}))
    assert read(job).hyperparameters == {"factor": "3"}


def test_another_checkpoint_folder(job, tmp_path):
    job.config("checkpointconfig.json", {"S3Uri": "s3://bucket/x", "LocalPath": str(tmp_path / "elsewhere")})
    ended = job.run("train")
    assert ended.code == 0
    assert (tmp_path / "elsewhere" / "step").read_text() == "3"
    assert not (job.root / "checkpoints").exists()
    assert "not copied to S3" not in ended.err


def test_without_checkpointconfig_checkpoints_are_written_and_said_to_be_lost(job):
    ended = job.run("train")
    assert (job.root / "checkpoints" / "step").read_text() == "3"
    assert f"checkpoints in {job.root}/checkpoints are not copied to S3" in ended.err


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({"TRAINING_JOB_NAME": "job-7"}, "job-7"),
        ({"TRAINING_JOB_ARN": "arn:aws:sagemaker:eu-west-1:123456789012:training-job/job-8"}, "job-8"),
        ({}, "local"),
    ],
)
def test_job_name(job, environ, name):
    assert read(job, **environ).job_name == name


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            {"STOP_GRACE_SECONDS": "soon"},
            "STOP_GRACE_SECONDS must be a number of seconds above 0, not 'soon'",
        ),
        ({"STOP_GRACE_SECONDS": "0"}, "above 0, not '0'"),
        ({"STOP_GRACE_SECONDS": "nan"}, "above 0, not 'nan'"),
        ({"PROCESSES_PER_HOST": "0"}, "PROCESSES_PER_HOST must be a whole number from 1 to 1024, not '0'"),
        ({"RENDEZVOUS_PORT": "70000"}, "RENDEZVOUS_PORT must be a whole number from 1 to 65535, not '70000'"),
        ({"GPU_METRICS": "maybe"}, "GPU_METRICS must be on or off, not 'maybe'"),
    ],
)
def test_bad_settings_are_named(job, environ, message):
    with pytest.raises(ValueError, match=message):
        read(job, **environ)


@pytest.mark.parametrize(
    ("chosen", "count"),
    [
        (None, 2),
        ("", 0),
        ("0", 1),
        ("1,0", 2),
        ("0,-1,1", 1),
        ("-1", 0),
        ("GPU-8a1b, GPU-77", 2),
        ("0,1,2", 2),
    ],
)
def test_gpus_are_those_that_torch_would_find(tmp_path, chosen, count):
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "nvidia-caps"):
        (tmp_path / name).touch()
    assert visible_gpus({} if chosen is None else {"CUDA_VISIBLE_DEVICES": chosen}, tmp_path) == count
    assert visible_gpus({}, tmp_path / "nowhere") == 0


def test_region_reaches_the_rank_under_both_names():
    assert rank_environ({"AWS_REGION": "eu-west-1"})["AWS_DEFAULT_REGION"] == "eu-west-1"
    assert rank_environ({"AWS_REGION": "a", "AWS_DEFAULT_REGION": "b"})["AWS_DEFAULT_REGION"] == "b"
    assert "AWS_DEFAULT_REGION" not in rank_environ({})


def test_channels_without_inputdataconfig_are_the_folders(job):
    for name in ("training", "with.dots-and-dashes", "code", "sm_drivers", ".hidden"):
        job.channel(name, "a.jpg")
    data_dir = job.root / "input" / "data"
    os.mkfifo(data_dir / "training_0")
    (data_dir / "training-manifest").write_text("[]")
    (data_dir / "README").write_text("no channel")
    assert list(read(job).channels) == ["training", "with.dots-and-dashes"]


def test_a_declared_channel_may_have_any_name(job):
    job.channel("my-manifest", "a.jpg")
    job.config("inputdataconfig.json", {"my-manifest": {"TrainingInputMode": "FastFile"}})
    assert list(read(job).channels) == ["my-manifest"]


def test_counting_leaves_out_what_is_hidden_and_stops_at_a_limit(job):
    folder = job.channel("training", "a.jpg", "b/c.jpg", ".DS_Store", ".git/config")
    os.mkfifo(folder / "pipe")
    assert channels.check("training", folder) == 2
    for number in range(channels.COUNT_LIMIT + 5):
        (folder / f"{number}.txt").touch()
    assert channels.check("training", folder) == channels.COUNT_LIMIT


def test_pipe_mode_is_refused_at_once(job):
    job.config("inputdataconfig.json", {"training": FILE_CHANNEL["training"] | {"TrainingInputMode": "Pipe"}})
    Path(job.root / "input" / "data").mkdir()
    os.mkfifo(job.root / "input" / "data" / "training_0")
    ended = job.run("train")
    assert ended.code == 1
    assert job.failure.startswith("ClientError: channel 'training' is in Pipe mode")
    assert "File or FastFile" in job.failure


@pytest.mark.parametrize(
    ("file", "found"),
    [(None, "found no file"), (".DS_Store", "found no file"), ("_SUCCESS", "only empty files (1)")],
)
def test_an_empty_channel_is_named(job, file, found):
    folder = job.channel("training")
    if file:
        (folder / file).touch()
    with pytest.raises(ValueError, match=f"channel 'training' is empty: looked in {folder}, ") as refusal:
        channels.check("training", folder)
    assert found in str(refusal.value)


@pytest.mark.parametrize("declared", [True, False])
def test_an_empty_channel_ends_the_job_with_the_likely_causes(job, declared):
    job.channel("training")
    if declared:
        job.config("inputdataconfig.json", FILE_CHANNEL)
    assert job.run("train").code == 1
    assert job.failure.startswith("ClientError: channel 'training' is empty: looked in ")
    for cause in ("channel name", "S3 prefix", "role"):
        assert cause in job.failure


def test_a_declared_channel_that_is_missing_is_named(job):
    job.config("inputdataconfig.json", FILE_CHANNEL)
    assert job.run("train").code == 1
    assert "no such folder" in job.failure
    assert str(job.root / "input" / "data" / "training") in job.failure


def test_a_file_in_place_of_a_channel_is_named(job):
    job.config("inputdataconfig.json", FILE_CHANNEL)
    (job.root / "input" / "data").mkdir()
    (job.root / "input" / "data" / "training").write_text("x")
    assert job.run("train").code == 1
    assert "a file in place of the folder" in job.failure


# pods of Kubernetes


@pytest.mark.parametrize(
    ("told", "rank"),
    [
        ({"RANK": "0"}, 0),
        ({"RANK": "10"}, 10),  # PyTorchJob
        ({"JOB_COMPLETION_INDEX": "2"}, 2),  # an indexed Job
        ({"RANK": "1", "JOB_COMPLETION_INDEX": "0"}, 1),
    ],
)
def test_pods_that_are_told_of_each_other_train_together(tmp_path, told, rank):
    base = {"SAGEMAKER_BASE_DIR": str(tmp_path), "WORLD_SIZE": "11", "MASTER_ADDR": "job-master-0"}
    environment = read_environment({**base, **told, "MASTER_PORT": "23456"})
    assert (environment.host_rank, len(environment.hosts)) == (rank, 11)
    assert (environment.hosts[0], environment.rendezvous_port) == ("job-master-0", 23456)
    assert read_environment({**base, **told, "RENDEZVOUS_PORT": "5"}).rendezvous_port == 5


def test_what_sagemaker_wrote_counts_more_than_variables(tmp_path):
    (tmp_path / "input/config").mkdir(parents=True)
    (tmp_path / "input/config/resourceconfig.json").write_text(json.dumps(REAL_RESOURCES))
    told = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "other"}
    assert read_environment({"SAGEMAKER_BASE_DIR": str(tmp_path), **told}).hosts == ("algo-1",)


@pytest.mark.parametrize("told", [{}, {"JOB_COMPLETION_INDEX": "0"}, {"WORLD_SIZE": "1", "RANK": "0"}])
def test_a_pod_may_be_alone(tmp_path, told):
    environment = read_environment({"SAGEMAKER_BASE_DIR": str(tmp_path), **told})
    assert (environment.hosts, environment.rendezvous_port) == (("algo-1",), 7777)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"JOB_COMPLETION_INDEX": "1"}, "pod 1 .* WORLD_SIZE says that there are 1"),
        ({"RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "a"}, "pod 2 .* there are 2"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR, the address of the first pod, is missing"),
        ({"RANK": "first", "WORLD_SIZE": "2"}, "RANK must be a whole number, not 'first'"),
    ],
)
def test_pods_that_would_train_by_themselves_are_refused(tmp_path, told, said):
    with pytest.raises(ValueError, match=said):
        read_environment({"SAGEMAKER_BASE_DIR": str(tmp_path), **told})
