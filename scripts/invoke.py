"""`make invoke-local`: one picture to the server of `make serve-local`, its normal map to a file.

Needs no packages, so that it answers at once on a machine where nothing is set up.
"""

import argparse
import http.client
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path

MEDIA_TYPES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}
TIMEOUT_SECONDS = 70  # SageMaker gives a request 60 s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", help="JPEG, PNG or WebP")
    parser.add_argument("--port", type=int, default=8080, help="where the server listens on this machine")
    parser.add_argument("--output-dir", type=Path, default=Path(), help="folder for NAME-normals.png")
    options = parser.parse_args()

    if not options.picture:
        sys.exit("invoke: name a picture, as in: make invoke-local IMAGE_FILE=photo.jpg")
    path = Path(options.picture)
    media_type = MEDIA_TYPES.get(path.suffix.lower())
    if media_type is None:
        sys.exit(f"invoke: {path} is none of {', '.join(MEDIA_TYPES)}")
    try:
        picture = path.read_bytes()
    except OSError as error:
        sys.exit(f"invoke: {path} cannot be read: {error.strerror}")

    normals = invoke(picture, media_type, options.port)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    output = options.output_dir / f"{path.stem}-normals.png"
    temporary = output.with_suffix(".tmp")
    temporary.write_bytes(normals)
    temporary.rename(output)
    print(f"invoke: the normal map of {path} is {output}")


def invoke(picture: bytes, media_type: str, port: int) -> bytes:
    """The server's PNG for `picture`; ends the program with the server's own words if it sends none."""
    request = urllib.request.Request(
        f"http://localhost:{port}/invocations",
        data=picture,
        headers={"Content-Type": media_type, "Accept": "image/png"},
    )
    try:
        # No proxy: one that the environment names is not for this machine itself.
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(request, timeout=TIMEOUT_SECONDS) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        sys.exit(f"invoke: the server answers {error.code}: {message_of(error.read())}")
    except (urllib.error.URLError, ConnectionError, TimeoutError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        sys.exit(
            f"invoke: no answer on port {port} ({reason}): start `make serve-local` in another terminal,"
            " or name its port with PORT="
        )


def message_of(body: bytes) -> str:
    """The `message` of the server's JSON error, else the start of the text."""
    text = body.decode(errors="replace")
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text[:500]


if __name__ == "__main__":
    main()
