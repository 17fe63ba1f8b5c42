"""`make push`: the two images that `make build` left go to the registry, and their digests to two files.

The tag is the git revision, the flavour and the beginning of the image's id: it can be traced to its source, and
another image of the same revision (another MODEL_PACKAGE, base or SLIM) has another tag. `train.digest` and
`serve.digest` at the top of the checkout hold `HOST/REPOSITORY@sha256:... FLAVOUR`, and `launch.py` sends
those to hosts with a driver for them, so that what was tested is what runs. Nothing else is written: ECR's password is
used and forgotten.
"""

import argparse
import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import docker
import requests
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError
from docker.errors import APIError, DockerException, ImageNotFound
from tqdm import tqdm

from engine import NoEngine, connect

ROOT = Path(__file__).resolve().parent.parent
ROLES = ("train", "serve")
REVISION_LABEL = "org.opencontainers.image.revision"
# SageMaker's CreateModel refuses OCI manifests and indexes, which today's buildx makes by default.
ACCEPTED_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
# Each image is gigabytes that somebody pays for.
LIFECYCLE_POLICY = {
    "rules": [
        {
            "rulePriority": 1,
            "description": "the last 20 images",
            "selection": {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": 20},
            "action": {"type": "expire"},
        }
    ]
}
EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired"}
"""What AWS answers to credentials of yesterday."""

Auth = dict[str, str] | None
"""A registry's user name and password; None: what `docker login` left."""


class PushError(Exception):
    """Nothing, or not everything, was pushed; the text says why and what to do."""


def main() -> None:
    options = parse_options()
    try:
        push_images(options)
    except (PushError, NoEngine) as error:
        sys.exit(f"push: {error}")
    except NoCredentialsError:
        sys.exit("push: no AWS credentials: run `aws configure` or `aws sso login`, or set AWS_PROFILE")
    except NoRegionError:
        sys.exit("push: no AWS region: give --region, or set AWS_REGION")
    except ClientError as error:
        cure = ": run `aws sso login`, or get new keys" if error.response["Error"]["Code"] in EXPIRED else ""
        sys.exit(f"push: {error}{cure}")
    except (BotoCoreError, DockerException, requests.RequestException) as error:
        sys.exit(f"push: {' '.join(str(error).split())}")


def push_images(options: argparse.Namespace) -> None:
    """Check, log in, push both images, and only when both are there write both digests."""
    revision, is_dirty = read_revision(options.allow_dirty)
    engine = connect(options.docker)
    names = {role: f"{options.project}-{role}" for role in ROLES}
    images = {role: find_image(engine, f"{names[role]}:local", revision, is_dirty) for role in ROLES}

    auth: Auth = None
    host = options.registry
    if not host:
        host, auth = open_ecr(options.region, list(names.values()))

    digests = {}
    for role, image in images.items():
        flavor = image.labels["flavor"]
        dirty = "-dirty" if is_dirty else ""
        tag = f"{revision[:12]}-{flavor}{dirty}-{image.id.removeprefix('sha256:')[:12]}"
        repository = f"{host}/{names[role]}"
        digests[role] = f"{repository}@{push_image(engine, image, repository, tag, auth)} {flavor}"
    for role, digest in digests.items():
        write_digest(ROOT / f"{role}.digest", digest)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Push the images of `make build`; write down their digests.")
    add = parser.add_argument
    add("--project", default="surface-normals", help="PROJECT-train and PROJECT-serve are pushed")
    add("--docker", default="docker", help="the client whose context names the engine")
    add("--registry", metavar="HOST[:PORT]", help="push here, with your own `docker login`, not to ECR")
    add(
        "--region",
        default=os.environ.get("AWS_REGION") or None,
        help="of ECR; default: what your AWS profile says",
    )
    add("--allow-dirty", action="store_true", help="push images of uncommitted changes, tagged so")
    options = parser.parse_args()
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", options.project):
        parser.error(f"--project {options.project!r}: small letters and digits, with single hyphens between")
    return options


def read_revision(allow_dirty: bool) -> tuple[str, bool]:
    """The commit checked out here, and whether files differ from it."""
    changed = git("status", "--porcelain").splitlines()
    if changed and not allow_dirty:
        raise PushError(
            f"{len(changed)} uncommitted change(s), the first {changed[0][3:]!r}: the images would not be"
            " what their tag says. Commit, run `make build`, push again; or push them with `make push ALLOW_DIRTY=1`"
        )
    return git("rev-parse", "HEAD").strip(), bool(changed)


def git(*arguments: str) -> str:
    answer = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    if answer.returncode:
        raise PushError(
            f"the tag is the git revision, but `git {arguments[0]}` says: {answer.stderr.strip()}"
        )
    return answer.stdout


def find_image(engine: docker.DockerClient, name: str, revision: str, is_dirty: bool) -> Any:
    """The local image, if it was built from this revision, for SageMaker's processors."""
    try:
        image = engine.images.get(name)
    except ImageNotFound:
        raise PushError(f"no image {name} on this machine: run `make build` first") from None
    label = image.labels.get(REVISION_LABEL, "")
    built_from = label.removesuffix("-dirty") if is_dirty else label
    if len(built_from) < 7 or not revision.startswith(built_from):
        raise PushError(
            f"{name} was built from revision {label or 'unknown'}, not {revision[:12]}: run `make build`"
        )
    if image.attrs["Architecture"] != "amd64":
        raise PushError(f"{name} is for {image.attrs['Architecture']}: build it with --platform linux/amd64")
    return image


def open_ecr(region: str | None, repositories: list[str]) -> tuple[str, Auth]:
    """Make the repositories that are missing; return the registry's host and a password for it.

    A repository without a lifecycle policy gets ours, whoever made it: a push that was cut after the making left none.
    """
    ecr = boto3.client("ecr", region_name=region)
    for name in repositories:
        try:
            ecr.describe_repositories(repositoryNames=[name])
        except ecr.exceptions.RepositoryNotFoundException:
            ecr.create_repository(
                repositoryName=name,
                imageTagMutability="IMMUTABLE",
                imageScanningConfiguration={"scanOnPush": True},
            )
            print(f"created repository {name}", flush=True)
        try:
            ecr.get_lifecycle_policy(repositoryName=name)
        except ecr.exceptions.LifecyclePolicyNotFoundException:
            ecr.put_lifecycle_policy(repositoryName=name, lifecyclePolicyText=json.dumps(LIFECYCLE_POLICY))
            print(f"{name} keeps its last 20 images", flush=True)
    answer = ecr.get_authorization_token()["authorizationData"][0]
    username, password = base64.b64decode(answer["authorizationToken"]).decode().split(":", 1)
    return answer["proxyEndpoint"].split("://")[-1], {"username": username, "password": password}


def push_image(engine: docker.DockerClient, image: Any, repository: str, tag: str, auth: Auth) -> str:
    """Push `image` unless its tag is there already; return the digest that the registry gives it."""
    reference = f"{repository}:{tag}"
    if is_in_registry(engine, reference, auth):
        print(f"{reference} is there already", flush=True)
    else:
        print(f"pushing {reference}, {image.attrs['Size'] / 1e9:.2f} GB before compression", flush=True)
        image.tag(repository, tag)
        send(engine, repository, tag, auth)

    descriptor = engine.images.get_registry_data(reference, auth_config=auth).attrs["Descriptor"]
    if descriptor["mediaType"] != ACCEPTED_MANIFEST:
        raise PushError(
            f"{reference} is a {descriptor['mediaType']}; SageMaker takes only {ACCEPTED_MANIFEST}. Delete"
            " that tag in the registry, build with --provenance=false and oci-mediatypes=false, push again"
        )
    return str(descriptor["digest"])


def is_in_registry(engine: docker.DockerClient, reference: str, auth: Auth) -> bool:
    try:
        engine.images.get_registry_data(reference, auth_config=auth)
    except APIError:
        # Registries answer 401, 403 or 404 for a repository that is not there yet: the push that
        # follows tells a wrong password from a new repository.
        return False
    return True


def send(engine: docker.DockerClient, repository: str, tag: str, auth: Auth) -> None:
    """Push with one progress bar over all layers. Raises PushError with the registry's words."""
    sizes: dict[str, int] = {}
    sent: dict[str, int] = {}
    every = 0.5 if sys.stderr.isatty() else 15  # seconds; a log file wants few lines
    with tqdm(desc=tag, unit="B", unit_scale=True, mininterval=every) as bar:
        for event in engine.api.push(repository, tag, stream=True, decode=True, auth_config=auth):
            if "error" in event:
                who = "your AWS user" if auth else f"the user of `docker login {repository.split('/')[0]}`"
                raise PushError(f"{repository}:{tag}: {event['error'].strip()}. May {who} push there?")
            progress = event.get("progressDetail") or {}
            if "current" in progress:
                sent[event["id"]] = progress["current"]
                sizes[event["id"]] = max(progress.get("total", 0), progress["current"])
                bar.total = sum(sizes.values())
                bar.update(sum(sent.values()) - bar.n)


def write_digest(path: Path, digest: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(f"{digest}\n")
    temporary.rename(path)
    print(f"{path.name}: {digest}", flush=True)


if __name__ == "__main__":
    main()
