"""Around a training job outside SageMaker (AWS Batch, ECS, Kubernetes): what SageMaker does there itself.

`docker run IMAGE python3 -m training.elsewhere` writes the configuration files from the environment, fetches the
channels and checkpoints from S3, runs `train`, sends checkpoints while it runs and the results when it has ended, and
ends as `train` did.
"""

import json
import logging
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

import logs
from training.environment import PROGRAM_DIR, Elsewhere, Tree, host_of, read_elsewhere, read_tree

logger = logging.getLogger("training.elsewhere")

SECONDS_BETWEEN_CHECKPOINTS = 60.0
DOWNLOADS = 16
"""Files fetched at once: small ones would else wait for each other."""
S3_ERRORS = (Boto3Error, BotoCoreError, ClientError, OSError)


def main() -> int:
    """The exit code: that of `train`, or 1 when S3 gave nothing or took nothing."""
    logs.configure()
    logging.getLogger("botocore").setLevel(logging.WARNING)  # else it tells where it found credentials
    # Process 1 of a container loses a signal it has no handler for; `run` puts another in its place.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    tree = read_tree()
    try:
        told = read_elsewhere()
        prepare(told, tree)
    except (ValueError, *S3_ERRORS) as error:
        logger.error("ClientError: before training: %s", " ".join(str(error).split()))
        return 1
    code = run(told, tree)
    try:
        if told.output and told.node_index == 0:
            send_model(tree.model_dir, told.output)
            send(tree.root / "output", f"{told.output.rstrip('/')}/output", {})
    except S3_ERRORS as error:
        logger.error("the results are not in %s: %s", told.output, error)
        return code or 1
    return code


def prepare(told: Elsewhere, tree: Tree) -> None:
    """SageMaker's files and folders, as it would have made them. Raises ValueError for an empty channel."""
    tree.config_dir.mkdir(parents=True, exist_ok=True)
    if told.hyperparameters:
        _write(tree.config_dir / "hyperparameters.json", told.hyperparameters)
    if told.num_nodes > 1:
        _write(tree.config_dir / "resourceconfig.json", resources(told))
    for name, uri in told.channels.items():
        if not fetch(uri, tree.data_dir / name):
            raise ValueError(f"channel {name!r}: there is nothing below {uri}")
    if told.checkpoints:
        fetch(told.checkpoints, tree.root / "checkpoints")
        _write(tree.config_dir / "checkpointconfig.json", {"S3Uri": told.checkpoints})


def resources(told: Elsewhere) -> dict[str, Any]:
    """resourceconfig.json of a multi-node job, the same order on every node: the main node's address leads.

    Only that address is known everywhere, and only it has to be.
    """
    main = told.main_node_address or _own_address()
    hosts = [host_of(main, index) for index in range(told.num_nodes)]
    return {"current_host": hosts[told.node_index], "hosts": hosts}


def _own_address() -> str:
    """The one that a packet to anywhere would leave from; none is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])


def run(told: Elsewhere, tree: Tree) -> int:
    """`train` to its end; a stop is passed on to it."""
    process = subprocess.Popen([sys.executable, str(PROGRAM_DIR / "train"), "train"])
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: process.send_signal(number))
    ended = threading.Event()
    sent: dict[str, float] = {}
    place = told.checkpoints if told.node_index == 0 else None
    sender = threading.Thread(target=_send_now_and_then, args=(place, tree, sent, ended), daemon=True)
    sender.start()
    code = process.wait()
    ended.set()
    sender.join()
    return code if code >= 0 else 128 - code  # as a shell says that a signal ended it


def _send_now_and_then(place: str | None, tree: Tree, sent: dict[str, float], ended: threading.Event) -> None:
    """A checkpoint is whole whenever it has its name: it is written under another one."""
    while place:
        is_last = ended.wait(SECONDS_BETWEEN_CHECKPOINTS)
        try:
            send(tree.root / "checkpoints", place, sent)
        except S3_ERRORS as error:
            logger.warning("checkpoints are not in %s, trying again: %s", place, error)
        if is_last:
            return


def fetch(uri: str, folder: Path) -> int:
    """Everything below an S3 prefix to `folder`; how many files. Raises ValueError for a way out of the folder."""
    bucket, prefix = _split(uri)
    s3 = boto3.client("s3", config=Config(max_pool_connections=DOWNLOADS))
    folder.mkdir(parents=True, exist_ok=True)
    paths: dict[str, Path] = {}
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", ()):
            name = item["Key"].removeprefix(prefix)
            if not name or name.endswith("/"):
                continue
            path = folder / name
            if not path.resolve().is_relative_to(folder.resolve()):
                raise ValueError(f"the object {item['Key']!r} would be written outside {folder}")
            path.parent.mkdir(parents=True, exist_ok=True)
            paths[item["Key"]] = path

    def download(key: str) -> None:
        # One file in one thread: as many as there are at once are enough.
        s3.download_file(
            bucket, key, str(paths[key]), Config=TransferConfig(use_threads=len(paths) < DOWNLOADS)
        )

    with ThreadPoolExecutor(DOWNLOADS) as pool:
        for _ in pool.map(download, paths):
            pass
    logger.info("%d files fetched from %s to %s", len(paths), uri, folder)
    return len(paths)


def send_model(folder: Path, uri: str) -> None:
    """The model's files, if there are any, as one model.tar.gz below an S3 prefix: what an endpoint takes."""
    bucket, prefix = _split(uri)
    if not any(folder.iterdir()):
        return
    with tempfile.TemporaryFile() as file:
        with tarfile.open(
            fileobj=file, mode="w:gz", compresslevel=1
        ) as archive:  # weights hardly get smaller
            archive.add(folder, arcname=".")
        file.seek(0)
        boto3.client("s3").upload_fileobj(file, bucket, f"{prefix}model.tar.gz")


def send(folder: Path, uri: str, sent: dict[str, float]) -> None:
    """The folder's files below an S3 prefix. `sent`: what went there before and when it was changed; kept up to date.

    What has gone from the folder goes from the prefix too.
    """
    bucket, prefix = _split(uri)
    s3 = boto3.client("s3")
    there = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        there[name] = path.stat().st_mtime
        if sent.get(name) != there[name]:
            s3.upload_file(str(path), bucket, prefix + name)
            sent[name] = there[name]
    for name in sent.keys() - there.keys():
        s3.delete_object(Bucket=bucket, Key=prefix + name)
        del sent[name]


def _split(uri: str) -> tuple[str, str]:
    """Bucket and prefix; a prefix that is not empty ends with a slash."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    prefix = prefix.strip("/")
    return bucket, f"{prefix}/" if prefix else ""


def _write(path: Path, content: Any) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(content))
    temporary.rename(path)


if __name__ == "__main__":
    sys.exit(main())
