"""launch.py invoke, transform and cost, against moto_server."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from launching.invoke import summary

ROLE = "arn:aws:iam::123456789012:role/sagemaker"
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/surface-normals-serve@sha256:" + "0" * 64
INVOCATIONS = "POST /endpoints/normals/invocations"


def test_invoke_writes_the_answer_where_it_was_called(aws, launch, tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "photo.jpg").write_bytes(b"\xff\xd8 a picture")
    aws.answers["POST /endpoints/normals/invocations"] = [b"\x89PNG lilac"]
    answer = launch("invoke", "--endpoint", "normals", tmp_path / "pictures/photo.jpg")
    assert answer.returncode == 0, answer.stderr
    assert (tmp_path / "photo-normals.png").read_bytes() == b"\x89PNG lilac"
    assert answer.stdout == "photo-normals.png: image/png, 10 bytes\n"
    assert aws.requests == [("POST /endpoints/normals/invocations", b"\xff\xd8 a picture")]


def test_invoke_asks_for_what_the_output_file_is(launch, tmp_path):
    (tmp_path / "photo.webp").write_bytes(b"a picture")
    [call] = json.loads(
        launch("invoke", "--endpoint", "e", tmp_path / "photo.webp", "--output", "n.npy", "--dry-run").stdout
    )
    assert call == {
        "client": "sagemaker-runtime",
        "method": "invoke_endpoint",
        "arguments": {
            "EndpointName": "e",
            "ContentType": "image/webp",
            "Accept": "application/x-npy",
            "Body": "<9 bytes>",
        },
    }


def test_invoke_shows_the_models_own_words(aws, refused, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"not a picture")
    aws.answers["POST /endpoints/normals/invocations"] = [
        {
            "status": 424,
            "__type": "ModelError",
            "Message": "Received client error (400) from primary",
            "OriginalStatusCode": 400,
            "OriginalMessage": json.dumps({"error": "bad_request", "message": "not a JPEG, PNG or WebP"}),
        }
    ]
    said = refused("invoke", "--endpoint", "normals", tmp_path / "photo.jpg")
    assert said == "launch: the model answered 400: not a JPEG, PNG or WebP"
    assert not (tmp_path / "photo-normals.png").exists()


def test_invoke_refuses_before_any_call(aws, refused, tmp_path):
    (tmp_path / "big.jpg").write_bytes(bytes(26 * 2**20))
    (tmp_path / "photo.tif").write_bytes(b"x")
    assert "an endpoint takes 25 MB" in refused("invoke", "--endpoint", "e", tmp_path / "big.jpg")
    assert "--content-type" in refused("invoke", "--endpoint", "e", tmp_path / "photo.tif")
    assert "No such file" in refused("invoke", "--endpoint", "e", tmp_path / "none.jpg")
    assert "EndpointName" in refused(
        "invoke", "--endpoint", "a_b", tmp_path / "photo.tif", "--content-type", "image/tiff"
    )
    assert aws.requests == []


def test_invoke_sends_a_folder_and_keeps_its_folders(aws, launch, tmp_path):
    for name in ("a.jpg", "room/a.png", "room/notes.txt", "room/.hidden.jpg"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    aws.answers[INVOCATIONS] = [b"\x89PNG"] * 2
    result = launch("invoke", "--endpoint", "normals", "in", "--output-dir", "out")
    assert result.returncode == 0, result.stderr
    written = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png")}
    assert written == {"a-normals.png", "room/a-normals.png"}
    assert "2 pictures in" in result.stdout
    for figure in ("p50", "p90", "p99", "largest"):
        assert figure in result.stdout


def test_invoke_writes_normals_and_the_picture_of_them(aws, launch, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"a picture")
    normals = np.zeros((4, 6, 3), np.float16)
    normals[..., 2] = -1  # facing the camera
    file = io.BytesIO()
    np.save(file, normals)
    aws.answers[INVOCATIONS] = [{"raw": file.getvalue(), "type": "application/x-npy;dtype=float16"}]
    result = launch("invoke", "--endpoint", "normals", "photo.jpg", "--normals")
    assert result.returncode == 0, result.stderr
    assert np.array_equal(np.load(tmp_path / "photo-normals.npy"), normals)
    picture = np.asarray(Image.open(tmp_path / "photo-normals.png"))
    assert picture.shape == (4, 6, 3)
    assert np.abs(picture[0, 0].astype(int) - (128, 128, 255)).max() <= 1  # the usual lilac


def busy(status):
    return {
        "status": 424,
        "__type": "ModelError",
        "Message": "Received server error",
        "OriginalStatusCode": status,
        "OriginalMessage": json.dumps({"error": "busy", "message": "the queue is full"}),
    }


def test_invoke_tries_again_when_the_container_is_busy(aws, launch, tmp_path):
    """boto3 does not: for it the answer is no fault of the service."""
    (tmp_path / "photo.jpg").write_bytes(b"x")
    aws.answers[INVOCATIONS] = [busy(503), busy(429), b"\x89PNG"]
    assert launch("invoke", "--endpoint", "normals", "photo.jpg").returncode == 0
    assert len(aws.requests) == 3


def test_invoke_of_several_goes_on_after_a_failure_and_tells_it(aws, launch, tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.jpg").write_bytes(b"x")
    aws.answers[INVOCATIONS] = [busy(400), b"\x89PNG"]
    result = launch("invoke", "--endpoint", "normals", "a.jpg", "b.jpg", "--concurrency", "1")
    assert result.returncode == 1
    assert "a.jpg: the model answered 400: the queue is full" in result.stderr
    assert (tmp_path / "b-normals.png").is_file()


def test_a_refusal_of_one_of_several_is_no_end(aws, launch, tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.jpg").write_bytes(b"x")
    refusal = {"status": 400, "__type": "ValidationError", "message": "Endpoint is busy with itself"}
    aws.answers[INVOCATIONS] = [
        refusal,
        b"\x89PNG",
        *[None] * 3,
    ]  # the last one's line is cut; boto3 tries 3 times
    result = launch("invoke", "--endpoint", "normals", "a.jpg", "b.jpg", "c.jpg", "--concurrency", "1")
    assert result.returncode == 1
    assert "1 pictures in" in result.stdout
    assert "a.jpg: AWS refused InvokeEndpoint: ValidationError" in result.stderr
    assert "c.jpg: Connection was closed" in result.stderr
    assert (tmp_path / "b-normals.png").is_file()


@pytest.mark.parametrize(
    ("milliseconds", "said"),
    [
        (
            range(100, 0, -1),
            "100 pictures in 2.0 s (50.0 a second); latency in ms: p50 50, p90 90, p99 99, largest 100",
        ),
        ([7], "1 pictures in 2.0 s (0.5 a second); latency in ms: p50 7, p90 7, p99 7, largest 7"),
        (
            [10, 20, 30],
            "3 pictures in 2.0 s (1.5 a second); latency in ms: p50 20, p90 30, p99 30, largest 30",
        ),
    ],
)
def test_the_latency_that_so_many_per_cent_stay_within(milliseconds, said):
    assert summary([value / 1000 for value in milliseconds], 2.0) == said


def test_invoke_async_gives_a_request_an_hour_and_shows_the_upload(launch, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"a picture")
    words = ("invoke", "--endpoint", "normals", "--async", "s3://bucket/in", "photo.jpg", "--dry-run")
    upload, ask = json.loads(launch(*words).stdout)
    assert upload["method"] == "upload_file"
    assert upload["arguments"] == {
        "Filename": "photo.jpg",
        "Bucket": "bucket",
        "Key": "in/photo-normals.png.jpg",
    }
    assert ask["arguments"]["InvocationTimeoutSeconds"] == 3600


def test_invoke_async_sends_the_picture_through_s3(aws, launch, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"a picture")
    s3 = aws.client("s3")
    s3.create_bucket(Bucket="bucket")
    s3.put_object(Bucket="bucket", Key="answers/1.out", Body=b"\x89PNG", ContentType="image/png")
    s3.put_object(Bucket="bucket", Key="failures/2.out", Body=b"not a picture")
    operation = "POST /endpoints/normals/async-invocations"
    places = ("x-amzn-sagemaker-outputlocation", "x-amzn-sagemaker-failurelocation")
    aws.answers[operation] = [
        {
            "status": 202,
            "headers": dict(zip(places, ("s3://bucket/answers/1.out", "s3://bucket/f"), strict=True)),
        },
        {
            "status": 202,
            "headers": dict(zip(places, ("s3://bucket/o", "s3://bucket/failures/2.out"), strict=True)),
        },
    ]
    words = ("invoke", "--endpoint", "normals", "--async", "s3://bucket/in", "photo.jpg")
    result = launch(*words)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "photo-normals.png").read_bytes() == b"\x89PNG"
    assert s3.get_object(Bucket="bucket", Key="in/photo-normals.png.jpg")["Body"].read() == b"a picture"
    assert "the model answered: not a picture" in launch(*words).stderr


# transform


TRANSFORM = (
    *("transform", "--role", ROLE, "--image", IMAGE, "--model-data", "s3://bucket/model.tar.gz"),
    *(
        "--input",
        "s3://bucket/in",
        "--output",
        "s3://bucket/out",
        "--name",
        "batch",
        "--poll-seconds",
        "0.05",
    ),
)


def test_transform_runs_with_a_driver_for_the_image_and_removes_its_model(aws, launch):
    settings = ("--error-records", "--instance-usd-per-hour", "1.408")
    result = launch(*TRANSFORM, "--concurrency", "4", "--payload-mb", "25", *settings)
    assert result.returncode == 0, result.stderr
    job = aws.sent("CreateTransformJob")
    assert job["TransformResources"]["TransformAmiVersion"] == "al2-ami-sagemaker-batch-gpu-535"
    assert job["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"] == "s3://bucket/in/"
    assert (job["MaxConcurrentTransforms"], job["MaxPayloadInMB"]) == (4, 25)
    assert aws.sent("CreateModel")["PrimaryContainer"]["Environment"] == {
        "METRICS_PROJECT": "surface-normals",
        "ENDPOINT_NAME": "batch",
        "VARIANT_NAME": "transform",
        "INSTANCE_USD_PER_HOUR": "1.408",
        "ERROR_RECORDS": "on",
    }
    assert not aws.client("sagemaker").list_models()["Models"]


def test_transform_removes_its_model_after_a_failure_too(aws, refused):
    aws.answers["DescribeTransformJob"] = [{"TransformJobStatus": "Failed", "FailureReason": "no"}] * 2
    assert "transform job batch is Failed: no" in refused(*TRANSFORM)
    assert not aws.client("sagemaker").list_models()["Models"]


def test_transform_that_is_left_says_that_its_model_stays(aws, launch, refused):
    expired = {"status": 400, "__type": "ExpiredTokenException", "message": "expired"}
    aws.answers["DescribeTransformJob"] = [expired] * 2
    said = refused(*TRANSFORM)
    assert "transform job batch goes on" in said
    assert "its model stays until `launch.py delete batch`" in said
    assert len(aws.client("sagemaker").list_models()["Models"]) == 1
    assert launch("delete", "batch").returncode == 0
    assert not aws.client("sagemaker").list_models()["Models"]
    assert "its model stays" in launch(*TRANSFORM[:-3], "again", "--no-wait").stdout


def test_transform_leaves_the_concurrency_to_the_container_and_takes_lines(launch):
    printed = launch(*TRANSFORM, "--lines", "--accept", "application/json", "--dry-run")
    [job] = [
        row["arguments"] for row in json.loads(printed.stdout) if row["method"] == "create_transform_job"
    ]
    assert "MaxConcurrentTransforms" not in job
    assert job["TransformInput"]["SplitType"] == "Line"
    assert job["TransformOutput"]["AssembleWith"] == "Line"


def test_transform_refuses_what_batch_has_not(aws, refused):
    assert "no driver for CUDA 13" in refused(*TRANSFORM, "--cuda", "13")
    assert "ml.p4d.24xlarge is there for training, endpoints, not for batch transform" in refused(
        *TRANSFORM, "--instance-type", "ml.p4d.24xlarge"
    )
    assert "at most 100 MB together" in refused(*TRANSFORM, "--concurrency", "5", "--payload-mb", "25")
    assert aws.requests == []


# cost


def price(instance_type, usage, usd):
    dimension = {"pricePerUnit": {"USD": str(usd)}}
    return json.dumps(
        {
            "product": {"attributes": {"usagetype": f"USE1-{usage}:{instance_type}"}},
            "terms": {"OnDemand": {"a": {"priceDimensions": {"b": dimension}}}},
        }
    )


def test_cost_tells_what_runs_and_its_price_a_day(aws, launch):
    assert "nothing runs" in launch("cost").stdout
    deploy = ("deploy", "--role", ROLE, "--image", IMAGE, "--model-data", "s3://b/m.tar.gz")
    words = (*deploy, "--instance-type", "ml.g4dn.xlarge", "--instance-count", "2", "--poll-seconds", "0.05")
    assert launch(*words, "--name", "normals").returncode == 0
    prices = [price("ml.g4dn.xlarge", "Host", 0.7), price("ml.g4dn.xlarge", "Train", 0.9)]
    aws.answers["GetProducts"] = [{"status": 200, "PriceList": prices}]
    told = launch("cost").stdout
    assert "2 x ml.g4dn.xlarge: 33.60 USD a day" in told
    assert "together 33.60 USD a day" in told
    aws.answers["GetProducts"] = [{"status": 400, "__type": "AccessDeniedException", "message": "no"}]
    assert "without 1 of unknown price" in launch("cost").stdout


def costs(aws, launch, operation, listed, described):
    """The lines of `cost` when one thing of AWS's answer is so, at 1 USD an hour whatever it is."""
    name = {"ListTrainingJobs": "TrainingJobName", "ListEndpoints": "EndpointName"}[operation]
    member = {"ListTrainingJobs": "TrainingJobSummaries", "ListEndpoints": "Endpoints"}[operation]
    summary = {
        name: "x",
        "TrainingJobArn": "a",
        "EndpointArn": "a",
        "CreationTime": 0,
        "TrainingJobStatus": "s",
    }
    summary |= {"EndpointStatus": "InService", "LastModifiedTime": 0}
    aws.answers[operation] = [{"status": 200, member: [summary] if there else []} for there in listed]
    for look, answer in described.items():
        aws.answers[look] = [{"status": 200, **answer}]
    kinds = [(row, use) for row in ("ml.g5.xlarge", "ml.g6.xlarge") for use in ("Train", "Host")]
    aws.answers["GetProducts"] = [{"status": 200, "PriceList": [price(*kind, 1) for kind in kinds]}] * 3
    result = launch("cost")
    assert result.returncode == 0, result.stderr
    return [" ".join(line.split()) for line in result.stdout.splitlines()]


@pytest.mark.parametrize(
    ("resources", "told"),
    [
        (
            {
                "InstanceGroups": [
                    {"InstanceType": "ml.g5.xlarge", "InstanceCount": 1, "InstanceGroupName": "a"},
                    {"InstanceType": "ml.g6.xlarge", "InstanceCount": 2, "InstanceGroupName": "b"},
                ]
            },
            ["x 1 x ml.g5.xlarge: 24.00 USD a day", "x 2 x ml.g6.xlarge: 48.00 USD a day"],
        ),
        (
            {"SelectedInstanceType": "ml.g6.xlarge", "SelectedInstanceCount": 3},
            ["x 3 x ml.g6.xlarge: 72.00 USD a day"],
        ),
        ({}, []),
    ],
)
def test_cost_of_a_job_on_several_kinds_of_instances(aws, launch, resources, told):
    lines = costs(
        aws, launch, "ListTrainingJobs", (True, False), {"DescribeTrainingJob": {"ResourceConfig": resources}}
    )
    assert lines[:-1] == [f"training job {line}" for line in told]


def test_cost_counts_warm_pools(aws, launch):
    resources = {"InstanceType": "ml.g5.xlarge", "InstanceCount": 2}
    lines = costs(
        aws, launch, "ListTrainingJobs", (False, True), {"DescribeTrainingJob": {"ResourceConfig": resources}}
    )
    assert lines == [
        "warm pool of x 2 x ml.g5.xlarge: 48.00 USD a day",
        "together 48.00 USD a day at list prices",
    ]
    asked = [json.loads(body) for name, body in aws.requests if name == "ListTrainingJobs"]
    assert {"WarmPoolStatusEquals": "Available"} in asked


def test_cost_of_instance_pools_and_serverless(aws, launch):
    pools = [{"InstanceType": "ml.g6.xlarge", "CurrentInstanceCount": 2}]
    there = [{"VariantName": "pooled", "InstancePools": pools}]
    asked = [{"InstanceType": "ml.g5.xlarge", "Priority": 1}, {"InstanceType": "ml.g6.xlarge", "Priority": 2}]
    variants = [
        {"VariantName": "pooled", "ModelName": "m", "InstancePools": asked},
        {
            "VariantName": "other",
            "ModelName": "m",
            "ServerlessConfig": {"MemorySizeInMB": 1024, "MaxConcurrency": 1},
        },
    ]
    described = {
        "DescribeEndpoint": {"EndpointConfigName": "c", "ProductionVariants": there},
        "DescribeEndpointConfig": {"ProductionVariants": variants},
    }
    lines = costs(aws, launch, "ListEndpoints", (True,), described)
    assert lines[:2] == [
        "endpoint x 2 x ml.g6.xlarge: 48.00 USD a day",
        "endpoint x serverless: by the request",
    ]
