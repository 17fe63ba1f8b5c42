"""push.py as a process: real git, a real engine and registry, images of a few bytes, ECR's own calls to moto."""

import base64
import contextlib
import hashlib
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import uuid
from pathlib import Path

import docker
import pytest
from docker.errors import ImageNotFound

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"
ROLE = "arn:aws:iam::123456789012:role/sagemaker"
DOCKER = os.environ.get("DOCKER", "docker")
ECR_HOST = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
EXIT_CODE = 42


class Checkout:
    """A repository of its own with push.py in it: the script asks the git checkout that it stands in."""

    def __init__(self, root, environment):
        self.root = root
        self.environment = environment
        (root / "scripts").mkdir(parents=True, exist_ok=True)
        for name in ("push.py", "engine.py"):
            shutil.copy(SCRIPTS / name, root / "scripts")
        if not (root / ".gitignore").exists():
            (root / ".gitignore").write_text("*.digest\n__pycache__/\n")
        self.git("init", "--quiet")
        self.commit()

    def git(self, *arguments):
        identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
        command = ["git", "-C", str(self.root), *identity, *arguments]
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=True
        ).stdout.strip()

    def commit(self):
        self.git("add", ".")
        self.git("commit", "--quiet", "--allow-empty", "--message", "a state")

    @property
    def revision(self):
        return self.git("rev-parse", "HEAD")

    def digests(self):
        return {path.stem: path.read_text() for path in self.root.glob("*.digest")}

    def push(self, *arguments):
        command = [sys.executable, str(self.root / "scripts" / "push.py"), "--docker", DOCKER, *arguments]
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )

    def refused(self, *arguments):
        """The one line with which push.py ends, having left no digest."""
        result = self.push(*arguments)
        assert result.returncode == 1, result.stdout
        assert self.digests() == {}
        assert "Traceback" not in result.stderr
        line = result.stderr.splitlines()[-1]
        assert line.startswith("push: ")
        return line


@pytest.fixture
def checkout(environment, tmp_path):
    return Checkout(tmp_path / "checkout", environment)


@pytest.fixture
def images():
    """Makes PROJECT-train:local and PROJECT-serve:local of nothing but a label, under a project of their own."""
    engine = docker.from_env()
    project = f"push-test-{uuid.uuid4().hex[:8]}"
    made = set()

    def make(revision, roles=("train", "serve"), content=b"", processor="amd64", flavor="cu128"):
        for role in roles:
            labels = {"org.opencontainers.image.revision": revision} if revision else {}
            labels["flavor"] = flavor
            archive = saved_image(f"{project}-{role}:local", labels, role.encode() + content, processor)
            made.update(image.id for image in engine.images.load(archive))
        return project

    yield make
    for image_id in made:
        with contextlib.suppress(ImageNotFound):
            engine.images.remove(image_id, force=True)
    engine.close()


def saved_image(name, labels, content, processor):
    """An image of one file, as `docker save` would write it."""
    layer = packed({"program": exits_with(EXIT_CODE), "content": content})
    config = {
        "architecture": processor,
        "os": "linux",
        "config": {"Labels": labels, "Entrypoint": ["/program"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    files = {"config.json": config, "manifest.json": manifest}
    return packed({"layer.tar": layer} | {name: json.dumps(value).encode() for name, value in files.items()})


def packed(files):
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            member.mode = 0o755
            tar.addfile(member, io.BytesIO(data))
    return archive.getvalue()


def exits_with(code):
    """The smallest program that Linux runs: an ELF file of one segment, for x86-64."""
    instructions = (
        b"\xbf" + struct.pack("<I", code) + b"\xb8" + struct.pack("<I", 60) + b"\x0f\x05"
    )  # exit(code)
    header, segment, address = 64, 56, 0x400000
    size = header + segment + len(instructions)
    return (
        struct.pack(
            "<16sHHIQQQIHHHHHH",
            b"\x7fELF\2\1\1",
            2,
            62,
            1,
            address + header + segment,
            header,
            0,
            0,
            header,
            segment,
            1,
            0,
            0,
            0,
        )
        + struct.pack("<IIQQQQQQ", 1, 5, 0, address, address, size, size, 4096)
        + instructions
    )


@pytest.fixture
def log_in(registry, environment):
    """Does what `docker login` does for a machine without a credential store."""

    def log_in(password=registry.password):
        token = base64.b64encode(f"{registry.user}:{password}".encode()).decode()
        folder = Path(environment["DOCKER_CONFIG"])
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"auths": {registry.host: {"auth": token}}}))

    return log_in


def tag_of(checkout, project, role, flavor="cu128", **_):
    """The tag that the local image goes under: its source, its flavour, itself."""
    with contextlib.closing(docker.from_env()) as engine:
        image_id = engine.images.get(f"{project}-{role}:local").id
    return f"{checkout.revision[:12]}-{flavor}-{image_id.removeprefix('sha256:')[:12]}"


def head(registry, repository, tag):
    return registry.request("HEAD", f"{repository}/manifests/{tag}", headers={"Accept": DOCKER_MANIFEST})


# what needs no engine


def test_a_dirty_tree_is_refused_before_anything_else(checkout):
    (checkout.root / "new.py").write_text("a file that git does not know")
    line = checkout.refused("--docker", "no-such-program")
    assert "1 uncommitted change(s), the first 'new.py'" in line
    assert "make push ALLOW_DIRTY=1" in line


def test_outside_of_git_there_is_no_tag(checkout):
    shutil.rmtree(checkout.root / ".git")
    assert "not a git repository" in checkout.refused()


def test_a_missing_docker_client_is_named(checkout):
    assert "no program 'no-such-program'" in checkout.refused("--docker", "no-such-program")


def test_a_project_that_cannot_be_a_repository_is_refused(checkout):
    result = checkout.push("--project", "Surface_Normals")
    assert result.returncode == 2
    assert "--project 'Surface_Normals'" in result.stderr


@pytest.mark.docker(images=False)
def test_an_engine_that_does_not_answer_is_one_line(checkout):
    checkout.environment["DOCKER_HOST"] = "unix:///nowhere.sock"
    assert "no Docker engine answers at unix:///nowhere.sock" in checkout.refused()


# what needs the engine and a registry


@pytest.mark.docker(images=False)
def test_both_images_are_pushed_once_and_their_digests_written(checkout, images, registry, log_in):
    log_in()
    project = images(checkout.revision)
    result = checkout.push("--project", project, "--registry", registry.host)
    assert result.returncode == 0, result.stderr

    written = checkout.digests()
    for role in ("train", "serve"):
        answer = head(registry, f"{project}-{role}", tag_of(checkout, project, role))
        assert answer.headers["Content-Type"] == DOCKER_MANIFEST
        assert (
            written[role]
            == f"{registry.host}/{project}-{role}@{answer.headers['Docker-Content-Digest']} cu128\n"
        )
    assert written["train"] != written["serve"]

    again = checkout.push("--project", project, "--registry", registry.host)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("is there already") == 2
    assert "pushing" not in again.stdout
    assert checkout.digests() == written


@pytest.mark.docker(images=False)
@pytest.mark.parametrize("change", [{"content": b"another MODEL_PACKAGE, base or SLIM"}, {"flavor": "cu130"}])
def test_another_image_of_the_same_revision_is_pushed_beside_the_first(
    checkout, images, registry, log_in, change
):
    log_in()
    project = images(checkout.revision)
    assert checkout.push("--project", project, "--registry", registry.host).returncode == 0
    first = checkout.digests()

    images(checkout.revision, **change)
    other = checkout.push("--project", project, "--registry", registry.host)
    assert other.returncode == 0, other.stderr
    assert other.stdout.count("pushing") == 2
    for role, digest in checkout.digests().items():
        assert digest != first[role]
        answer = head(registry, f"{project}-{role}", tag_of(checkout, project, role, **change))
        assert answer.headers["Docker-Content-Digest"] in digest
        assert digest.endswith(f" {change.get('flavor', 'cu128')}\n")


@pytest.mark.docker(images=False)
def test_what_was_pushed_runs_after_a_pull_by_its_digest(checkout, images, registry, log_in):
    log_in()
    project = images(checkout.revision)
    result = checkout.push("--project", project, "--registry", registry.host)
    assert result.returncode == 0, result.stderr
    with contextlib.closing(docker.from_env()) as engine:
        reference = checkout.digests()["serve"].split()[0]
        for name in (
            f"{project}-serve:local",
            f"{registry.host}/{project}-serve:{tag_of(checkout, project, 'serve')}",
        ):
            engine.images.remove(name)
        assert not engine.images.list(filters={"reference": f"*/{project}-serve"})

        login = {"username": registry.user, "password": registry.password}
        pulled = engine.images.pull(reference, auth_config=login)
        container = engine.containers.create(pulled)
        container.start()
        code = container.wait(timeout=30)["StatusCode"]
        container.remove()
    assert code == EXIT_CODE
    assert pulled.labels["org.opencontainers.image.revision"] == checkout.revision


@pytest.mark.docker(images=False)
def test_a_login_with_ecr_s_password_is_used(checkout, images, registry, aws):
    """As in `aws ecr get-login-password | docker login --username AWS --password-stdin HOST`."""
    [answer] = aws.client("ecr").get_authorization_token()["authorizationData"]
    password = base64.b64decode(answer["authorizationToken"]).decode().partition(":")[2]
    command = [DOCKER, "login", "--username", "AWS", "--password-stdin", registry.host]
    login = subprocess.run(command, input=password, env=checkout.environment, capture_output=True, text=True)
    assert login.returncode == 0, login.stderr

    result = checkout.push("--project", images(checkout.revision), "--registry", registry.host)
    assert result.returncode == 0, result.stderr
    assert set(checkout.digests()) == {"train", "serve"}


@pytest.fixture
def aws_cli():
    """AWS's own command line, in an environment that later runs find again."""
    folder = ROOT / ".build/awscli"
    program = folder / "bin/aws"
    if not program.exists():
        try:
            subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=120)
            install = [folder / "bin/python", "-m", "pip", "install", "-q", "awscli==1.46.3"]
            subprocess.run(install, check=True, capture_output=True, text=True, timeout=300)
        except subprocess.SubprocessError as error:
            shutil.rmtree(folder, ignore_errors=True)
            pytest.skip(f"awscli cannot be installed: {getattr(error, 'stderr', None) or error}")
    return program


@pytest.mark.docker(images=False)
@pytest.mark.long
def test_aws_s_own_login_is_used(checkout, images, registry, aws, aws_cli):
    """The two halves of AWS's own documentation, joined by a pipe, and then `make push REGISTRY=HOST`."""
    password = f"{aws_cli} ecr get-login-password --region us-east-1"
    line = f"{password} | {DOCKER} login --username AWS --password-stdin {registry.host}"
    command = ["bash", "-o", "pipefail", "-c", line]
    login = subprocess.run(command, env=checkout.environment, capture_output=True, text=True, timeout=120)
    assert login.returncode == 0, login.stderr
    assert "Login Succeeded" in login.stdout

    result = checkout.push("--project", images(checkout.revision), "--registry", registry.host)
    assert result.returncode == 0, result.stderr
    assert set(checkout.digests()) == {"train", "serve"}


@pytest.mark.docker(images=False)
def test_no_login_and_a_wrong_password_are_told_apart(checkout, images, registry, log_in):
    project = images(checkout.revision)
    assert "no basic auth credentials" in checkout.refused("--project", project, "--registry", registry.host)
    log_in("wrong")
    line = checkout.refused("--project", project, "--registry", registry.host)
    assert "unauthorized: authentication required" in line
    assert f"docker login {registry.host}" in line


@pytest.mark.docker(images=False)
def test_images_that_are_missing_or_of_another_revision_or_processor_are_refused(checkout, images, registry):
    where = ("--registry", registry.host)
    assert "run `make build` first" in checkout.refused("--project", "never-built", *where)

    project = images(checkout.revision, roles=["train"])
    assert f"no image {project}-serve:local" in checkout.refused("--project", project, *where)

    for label in ("", "unknown", f"{checkout.revision}-dirty"):
        images(label)
        assert "not " + checkout.revision[:12] in checkout.refused("--project", project, *where)
    images(checkout.revision)
    checkout.commit()
    assert "run `make build`" in checkout.refused("--project", project, *where)

    images(checkout.revision, processor="arm64")
    assert "is for arm64" in checkout.refused("--project", project, *where)


@pytest.mark.docker(images=False)
def test_uncommitted_changes_are_pushed_on_demand_under_a_tag_of_their_own(
    checkout, images, registry, log_in
):
    log_in()
    (checkout.root / "new.py").write_text("not committed")
    pushed = set()
    for content in (b"first", b"second"):
        project = images(f"{checkout.revision}-dirty", content=content)
        result = checkout.push("--project", project, "--registry", registry.host, "--allow-dirty")
        assert result.returncode == 0, result.stderr
        pushed.add(checkout.digests()["train"])
    assert len(pushed) == 2
    tags = registry.request("GET", f"{project}-train/tags/list").json()["tags"]
    assert len(tags) == 2
    assert all(tag.startswith(f"{checkout.revision[:12]}-cu128-dirty-") for tag in tags)


@pytest.mark.docker(images=False)
def test_an_oci_manifest_is_refused(checkout, images, registry, log_in):
    log_in()
    project = images(checkout.revision)
    config = b'{"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}'
    digest = f"sha256:{hashlib.sha256(config).hexdigest()}"
    upload = (
        registry.request("POST", f"{project}-train/blobs/uploads/").headers["Location"].partition("/v2/")[2]
    )
    assert registry.request("PUT", f"{upload}&digest={digest}", data=config).status_code == 201
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest,
            "size": len(config),
        },
        "layers": [],
    }
    put = registry.request(
        "PUT",
        f"{project}-train/manifests/{tag_of(checkout, project, 'train')}",
        data=json.dumps(manifest),
        headers={"Content-Type": OCI_MANIFEST},
    )
    assert put.status_code == 201

    line = checkout.refused("--project", project, "--registry", registry.host)
    assert f"is a {OCI_MANIFEST}" in line
    assert "--provenance=false" in line


# ECR


@pytest.mark.docker(images=False)
def test_ecr_gets_its_repositories_and_the_images(checkout, images, registry, aws):
    aws.rewrites[ECR_HOST] = registry.host
    project = images(checkout.revision)
    result = checkout.push("--project", project)
    assert result.returncode == 0, result.stderr

    ecr = aws.client("ecr")
    repositories = {item["repositoryName"]: item for item in ecr.describe_repositories()["repositories"]}
    assert set(repositories) == {f"{project}-train", f"{project}-serve"}
    for item in repositories.values():
        assert item["imageTagMutability"] == "IMMUTABLE"
        assert item["imageScanningConfiguration"] == {"scanOnPush": True}
        policy = ecr.get_lifecycle_policy(repositoryName=item["repositoryName"])["lifecyclePolicyText"]
        [rule] = json.loads(policy)["rules"]
        assert rule["action"] == {"type": "expire"}
        assert rule["selection"] == {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": 20}
    for role, digest in checkout.digests().items():
        answer = head(registry, f"{project}-{role}", tag_of(checkout, project, role))
        assert digest == f"{registry.host}/{project}-{role}@{answer.headers['Docker-Content-Digest']} cu128\n"
    assert not Path(checkout.environment["DOCKER_CONFIG"]).exists()  # the password is kept nowhere

    aws.requests.clear()
    assert checkout.push("--project", project).returncode == 0
    assert not {"CreateRepository", "PutLifecyclePolicy"} & set(aws.operations)


@pytest.mark.docker(images=False)
def test_a_repository_without_a_lifecycle_policy_gets_one_and_yours_is_kept(checkout, images, registry, aws):
    aws.rewrites[ECR_HOST] = registry.host
    project = images(checkout.revision)
    ecr = aws.client("ecr")
    for role in ("train", "serve"):
        ecr.create_repository(repositoryName=f"{project}-{role}")  # as a push that was cut leaves it
    yours = json.dumps(
        {
            "rules": [
                {
                    "rulePriority": 7,
                    "selection": {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": 500},
                    "action": {"type": "expire"},
                }
            ]
        }
    )
    ecr.put_lifecycle_policy(repositoryName=f"{project}-serve", lifecyclePolicyText=yours)

    result = checkout.push("--project", project)
    assert result.returncode == 0, result.stderr
    kept = {}
    for role in ("train", "serve"):
        policy = ecr.get_lifecycle_policy(repositoryName=f"{project}-{role}")["lifecyclePolicyText"]
        kept[role] = [rule["selection"]["countNumber"] for rule in json.loads(policy)["rules"]]
    assert kept == {"train": [20], "serve": [500]}


@pytest.mark.docker(images=False)
def test_ecr_s_password_that_expires_during_a_push_leaves_no_digest(checkout, images, registry, aws):
    aws.rewrites[ECR_HOST] = registry.host
    old = base64.b64encode(b"AWS:of-yesterday").decode()
    aws.answers["GetAuthorizationToken"] = [
        {"authorizationData": [{"authorizationToken": old, "proxyEndpoint": f"https://{ECR_HOST}"}]}
    ]
    line = checkout.refused("--project", images(checkout.revision))
    assert "unauthorized: authentication required" in line
    assert "May your AWS user push there?" in line


@pytest.mark.docker(images=False)
def test_expired_aws_credentials_come_with_their_cure(checkout, images, aws):
    refusal = {"status": 400, "__type": "ExpiredTokenException", "message": "The security token is expired"}
    aws.answers["DescribeRepositories"] = [refusal]
    line = checkout.refused("--project", images(checkout.revision))
    assert "The security token is expired" in line
    assert "`aws sso login`" in line


@pytest.mark.docker(images=False)
def test_what_aws_refuses_is_one_line(checkout, images, aws):
    project = images(checkout.revision)
    refusal = {
        "status": 400,
        "__type": "AccessDeniedException",
        "message": "you may not ecr:CreateRepository",
    }
    aws.answers["CreateRepository"] = [refusal]
    assert "ecr:CreateRepository" in checkout.refused("--project", project)

    del checkout.environment["AWS_ACCESS_KEY_ID"]
    assert "no AWS credentials" in checkout.refused("--project", project)
    del checkout.environment["AWS_REGION"]
    assert "no AWS region" in checkout.refused("--project", project)


# what was pushed, launched


@pytest.mark.docker(images=False)
def test_the_commands_of_the_readme_lead_to_an_endpoint(images, registry, aws, environment, tmp_path):
    """Each line of its block, in order: real images to a real registry, AWS's own calls to its stand-in."""
    block = (ROOT / "README.md").read_text().partition("## On SageMaker\n\n```sh\n")[2].partition("```")[0]
    checkout = clone(tmp_path / "clone", environment)
    aws.rewrites[ECR_HOST] = registry.host
    aws.client("s3").create_bucket(Bucket="my-bucket")
    aws.answers["POST /endpoints/my-normals/invocations"] = [b"\x89PNG lilac"]
    for name in ("train/images", "validation/images", "pretrained"):
        (tmp_path / "my_data" / name).mkdir(parents=True)
        (tmp_path / "my_data" / name / "file.bin").write_bytes(name.encode())
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8 a picture")
    project = images(checkout.revision)
    # Here `make build` has the images already, and AWS answers at once.
    before = 'make() { command make -o build-train -o build-serve -o .venv/installed "$@"; }\nset -eu\n'
    values = {"ROLE_ARN": ROLE, "photo.jpg": tmp_path / "photo.jpg"}

    def run(lines):
        # The stand-in does not know the default's instance type yet.
        text = lines.replace("launch.py deploy", "launch.py deploy --instance-type ml.g4dn.xlarge")
        for name, value in values.items():
            text = text.replace(name, str(value))
        variables = environment | {"PROJECT": project, "DOCKER": DOCKER}
        return subprocess.run(
            ["bash", "-c", before + text],
            cwd=checkout.root, env=variables, capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip

    until_invoked, _, last = block.partition("$python scripts/launch.py delete")
    result = run(until_invoked)
    assert result.returncode == 0, result.stdout + result.stderr
    assert (checkout.root / "photo-normals.png").read_bytes() == b"\x89PNG lilac"

    sagemaker, s3 = aws.client("sagemaker"), aws.client("s3")
    keys = {item["Key"] for item in s3.list_objects_v2(Bucket="my-bucket")["Contents"]}
    folders = ("train/images", "validation/images", "pretrained")
    assert {f"normals/{name}/file.bin" for name in folders} <= keys
    digests = {role: text.split()[0] for role, text in checkout.digests().items()}
    training = sagemaker.describe_training_job(TrainingJobName="normals-1")
    assert training["AlgorithmSpecification"]["TrainingImage"] == digests["train"]
    assert training["HyperParameters"]["epochs"] == "40"
    assert {row["ChannelName"] for row in training["InputDataConfig"]} == {
        "train",
        "validation",
        "pretrained",
    }
    served = sagemaker.describe_model(ModelName="my-normals")["PrimaryContainer"]
    assert served["Image"] == digests["serve"]
    assert served["ModelDataUrl"] == training["ModelArtifacts"]["S3ModelArtifacts"]
    assert sagemaker.describe_endpoint(EndpointName="my-normals")["EndpointStatus"] == "InService"

    result = run("python=.venv/bin/python\n$python scripts/launch.py delete" + last)
    assert result.returncode == 0, result.stderr
    assert not sagemaker.list_endpoints()["Endpoints"]


def clone(folder, environment):
    """A repository with what is committed here, or is about to be, with the environment that is here."""
    files = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in files.stdout.splitlines():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(sys.prefix)
    return Checkout(folder, environment)
