"""launch.py upload and download, against moto_server."""

import json

import pytest

from surface_normals.training.synthetic import write_dataset


@pytest.fixture
def folder(tmp_path):
    for name in (
        "train/images/a.jpg",
        "train/normals/a.png",
        "dataset.json",
        ".git/config",
        "train/.DS_Store",
    ):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "data"


def test_upload_keeps_the_folders_and_sends_a_file_once(aws, launch, folder):
    s3 = aws.client("s3")
    s3.create_bucket(Bucket="bucket")

    first = launch("upload", "--no-check", folder, "s3://bucket/some/prefix/")
    assert first.returncode == 0, first.stderr
    assert "3 files" in first.stdout
    keys = {item["Key"] for item in s3.list_objects_v2(Bucket="bucket")["Contents"]}
    assert keys == {
        f"some/prefix/{name}" for name in ("train/images/a.jpg", "train/normals/a.png", "dataset.json")
    }
    body = s3.get_object(Bucket="bucket", Key="some/prefix/train/images/a.jpg")["Body"].read()
    assert body == b"train/images/a.jpg"

    (folder / "dataset.json").write_bytes(b"longer than before")
    aws.requests.clear()
    second = launch("upload", "--no-check", folder, "s3://bucket/some/prefix")
    assert "1 files" in second.stdout
    assert "2 were there already" in second.stdout
    assert sum(operation.startswith("PUT") for operation in aws.operations) == 1


def test_upload_looks_through_every_page_of_what_is_there(aws, launch, tmp_path):
    s3 = aws.client("s3")
    s3.create_bucket(Bucket="bucket")
    (tmp_path / "many").mkdir()
    for number in range(8):  # the stand-in lists 3 at once
        (tmp_path / "many" / str(number)).write_bytes(b"x")
        s3.put_object(Bucket="bucket", Key=f"many/{number}", Body=b"x")
    assert "8 were there already" in launch("upload", tmp_path / "many", "s3://bucket/many").stdout


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("bucket/prefix", "s3://BUCKET/PREFIX"),
        ("s3://Bucket_1/x", "s3://BUCKET/PREFIX"),
        ("s3://bucket/" + "k" * 1020, "1024"),
    ],
)
def test_upload_refuses_a_bad_target_before_any_call(aws, refused, folder, target, said):
    assert said in refused("upload", folder, target)
    assert aws.requests == []


def test_upload_refuses_a_folder_that_is_not_there_or_holds_nothing_or_would_lose_files(
    aws, refused, tmp_path
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "images").symlink_to(tmp_path / "empty")
    assert "is not a folder" in refused("upload", tmp_path / "missing", "s3://bucket/x")
    assert "no files in" in refused("upload", tmp_path / "empty", "s3://bucket/x")
    assert "linked/images is a link" in refused("upload", tmp_path / "linked", "s3://bucket/x")
    assert aws.requests == []


def test_upload_to_a_missing_bucket_names_the_reason(refused, folder):
    assert "NoSuchBucket" in refused("upload", "--no-check", folder, "s3://nowhere/x")


def test_upload_knows_a_changed_file_of_the_same_length(aws, launch, folder):
    """As .npy files of one picture size are."""
    aws.client("s3").create_bucket(Bucket="bucket")
    launch("upload", "--no-check", folder, "s3://bucket/x")
    (folder / "dataset.json").write_bytes(b"DATASET.JSON")
    assert "1 files" in launch("upload", "--no-check", folder, "s3://bucket/x").stdout
    body = aws.client("s3").get_object(Bucket="bucket", Key="x/dataset.json")["Body"].read()
    assert body == b"DATASET.JSON"


def test_upload_and_download_of_a_file_in_parts(aws, launch, tmp_path):
    (tmp_path / "models").mkdir()
    content = bytes(range(256)) * (17 * 2**12)  # 17 MiB: two parts
    (tmp_path / "models" / "model.tar.gz").write_bytes(content)
    aws.client("s3").create_bucket(Bucket="bucket")
    assert launch("upload", "models", "s3://bucket/models").returncode == 0
    assert "1 were there already" in launch("upload", "models", "s3://bucket/models").stdout
    assert launch("download", "s3://bucket/models/model.tar.gz", "back").returncode == 0
    assert (tmp_path / "back" / "model.tar.gz").read_bytes() == content
    assert "1 were there already" in launch("download", "s3://bucket/models", "back").stdout


def test_upload_looks_at_the_data_set_first(aws, refused, launch, tmp_path):
    for _ in write_dataset(tmp_path / "train", count=3, width=48, height=32, seed=1, kind="rooms"):
        pass
    aws.client("s3").create_bucket(Bucket="bucket")
    description = json.loads((tmp_path / "train" / "dataset.json").read_text())
    (tmp_path / "train" / "dataset.json").write_text(json.dumps(description | {"axes": "lub"}))
    aws.requests.clear()
    said = refused("upload", tmp_path / "train", "s3://bucket/train")
    assert "REFUSED" in said
    assert "--no-check copies it all the same" in said
    assert aws.requests == []
    (tmp_path / "train" / "dataset.json").write_text(json.dumps(description))
    assert launch("upload", tmp_path / "train", "s3://bucket/train").returncode == 0


# download


def test_download_keeps_the_folders_and_goes_on_where_it_was(aws, launch, tmp_path):
    s3 = aws.client("s3")
    s3.create_bucket(Bucket="bucket")
    for key in ("out/a.txt", "out/deep/b.txt", "out/folder/", "output/other.txt"):
        s3.put_object(Bucket="bucket", Key=key, Body=b"" if key.endswith("/") else key.encode())
    assert "2 files" in launch("download", "s3://bucket/out", "here").stdout
    assert {path.relative_to(tmp_path).as_posix() for path in (tmp_path / "here").rglob("*.*")} == {
        "here/a.txt",
        "here/deep/b.txt",
    }
    (tmp_path / "here" / "a.txt").write_bytes(b"cut")
    again = launch("download", "s3://bucket/out/", "here")
    assert "1 files" in again.stdout
    assert (tmp_path / "here" / "a.txt").read_bytes() == b"out/a.txt"


def test_download_stays_in_its_folder(aws, refused, tmp_path):
    s3 = aws.client("s3")
    s3.create_bucket(Bucket="bucket")
    s3.put_object(Bucket="bucket", Key="x/../../escaped", Body=b"x")
    assert "outside" in refused("download", "s3://bucket/x", "here")
    assert "nothing under" in refused("download", "s3://bucket/y", "here")
    assert not list(tmp_path.glob("**/escaped"))
