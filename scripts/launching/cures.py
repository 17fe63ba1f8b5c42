"""When something failed: the likely cure, by the words of AWS or of the log."""

import re
from collections.abc import Sequence

# The first row that fits is the one that is shown. Patterns are looked for in AWS's reason first, then in the log.
CURES = (
    (
        r"ResourceLimitExceeded|account-level service limit",
        "your quota for this instance type is used up or 0: Service Quotas, service Amazon SageMaker, "
        "or another --instance-type",
    ),
    (
        r"CapacityError|InsufficientInstanceCapacity|Unable to provision requested ML compute capacity",
        "AWS has none of these instances free now: another --instance-type or several (A,B,C), another --region, or "
        "later",
    ),
    (
        r"ExpiredToken|RequestExpired|security token included in the request is expired",
        "your AWS credentials have expired: `aws sso login` or new keys; what runs at AWS goes on",
    ),
    (
        r"InvalidClientTokenId|UnrecognizedClient|InvalidSignature|SignatureDoesNotMatch",
        "AWS does not know these credentials: check AWS_PROFILE, and the clock of this machine",
    ),
    (r"Throttling|TooManyRequests|Rate exceeded", "AWS asks for patience: the same command in a minute"),
    (
        r"PassRole",
        "your own user needs iam:PassRole for the role: `launch.py policy VERB` prints what it needs",
    ),
    (
        r"(?i)could not assume role|validate the (execution )?role|assume the role",
        "the role must exist and trust sagemaker.amazonaws.com (sts:AssumeRole in its trust policy)",
    ),
    (
        r"(?i)ResourceInUse|already existing|already exists|must be unique",
        "the name is taken: another --name, or `launch.py delete NAME` first",
    ),
    (
        r"(?i)unsupported manifest media type",
        "SageMaker takes only Docker v2 manifests: push with `make push`, which makes and checks one",
    ),
    (
        r"(?i)exec format error",
        "the image is of another processor's kind: build it with --platform linux/amd64, as `make build` does",
    ),
    (
        r"(?i)AccessDenied|not authorized|Forbidden|403",
        "a permission is missing: `launch.py policy VERB` prints what you need; the execution role needs its "
        "buckets and ecr:BatchGetImage",
    ),
    (
        r"NoSuchBucket|NoSuchKey|(?i:no S3 objects found|S3 prefix .* not|Could not find model data)",
        "the S3 location has nothing under it: check its spelling, and that the bucket is of this region",
    ),
    (
        r"(?i)PermanentRedirect|wrong region|must be addressed using the specified endpoint",
        "the bucket is in another region: give --region, or use a bucket of this one",
    ),
    (r"(?i)Artifact upload failed", "the role may not write to --output, or its KMS key: see its policy"),
    (
        r"MaxRuntimeExceeded",
        "the time was up: raise --max-runtime; with --checkpoint the next job goes on where this one was",
    ),
    (
        r"MaxWaitTimeExceeded",
        "no spare capacity in all that time: without --spot, another --instance-type, or a longer --max-wait",
    ),
    (
        r"CUDA (error: )?out of memory|OutOfMemoryError|GPU's memory is full",
        "the GPU's memory is too small: hyperparameter batch_size=auto or accumulate=4, or a larger --instance-type",
    ),
    (
        r"Bus error|/dev/shm",
        "the shared memory is small: hyperparameter workers=2, or a larger --instance-type",
    ),
    (
        r"(?i)driver.*(too old|insufficient)|CUDA driver version|inference-gpu-",
        "the host's driver does not suit the image: --inference-ami, and --cuda as the image was built",
    ),
    (
        r"(?i)ping health check",
        "the container ran but /ping was not ready in time: --startup-timeout 1800, or the cause is in the log",
    ),
    (r"No space left on device|disk is full", "the disk is full: a larger --volume-size"),
    (
        r"(?i)hyperparameter '|^ClientError",
        "the job's input is at fault: the reason names it; scripts/check_dataset.py looks at data before they go up",
    ),
)


def cure(reason: str, log: Sequence[str] = ()) -> str | None:
    """What to do about it, where that is known."""
    for text in (reason, "\n".join(log)):
        for pattern, words in CURES:
            if re.search(pattern, text):
                return words
    return None
