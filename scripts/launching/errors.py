"""What AWS, or the way to it, says when it refuses: in a line for the user, with what likely cures it."""

from boto3.exceptions import Boto3Error
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    LoginError,
    NoCredentialsError,
    NoRegionError,
    SSOError,
    TokenRetrievalError,
)

from launching.calls import LaunchError
from launching.cures import cure

FAULTS = (LaunchError, ClientError, BotoCoreError, Boto3Error, OSError)
"""All that may end a verb, and is no fault of its own."""
EXPIRED = ("ExpiredToken", "RequestExpired")
LOGIN_IS_OVER = (SSOError, TokenRetrievalError, CredentialRetrievalError, LoginError)
"""boto3 itself could get no keys any more: for those of `aws sso login` and `aws login` AWS is not even asked."""


def has_expired(error: BaseException) -> bool:
    """Whether a new login cures it."""
    if isinstance(error, ClientError):
        return bool(error.response["Error"]["Code"].startswith(EXPIRED))
    return isinstance(error, LOGIN_IS_OVER)


def said(error: BaseException) -> str:
    """One line, and a second with the likely cure where one is known."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, NoCredentialsError):
        return "no AWS credentials: run `aws configure` or `aws sso login`, or set AWS_PROFILE"
    if isinstance(error, NoRegionError):
        return "no AWS region: give --region, or set AWS_REGION"
    if isinstance(error, LOGIN_IS_OVER):
        return "your AWS login has expired: run `aws sso login`, or whatever gives you keys"
    if isinstance(error, ClientError):
        return _refusal(error)
    if isinstance(error, LaunchError):
        return str(error)
    return " ".join(str(error).split())


def _refusal(error: ClientError) -> str:
    reason = error.response["Error"]
    text = f"{reason['Code']}: {' '.join(reason.get('Message', '').split())}"
    words = cure(text)
    return f"AWS refused {error.operation_name}: {text}" + (f"\nlikely cure: {words}" if words else "")
