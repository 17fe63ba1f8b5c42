"""`make pin-base`: the Dockerfiles' base images are written down with their digests, asked of their registry.

A tag moves when its image is mended; a digest never does. Run it again to take up what was mended.
"""

import argparse
import re
import sys
from pathlib import Path

from docker.errors import DockerException

from engine import NoEngine, connect

ROOT = Path(__file__).resolve().parent.parent
BASE = re.compile(r"^FROM ([^\s@$]+:[^\s@]+)(?:@\S+)? AS (\S+)$", re.MULTILINE)
"""A base of a flavour: with a tag, and perhaps with the digest of an earlier time."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the digests of the base images into the Dockerfiles.")
    parser.add_argument("--docker", default="docker", help="the client whose context names the engine")
    options = parser.parse_args()
    texts = {path: path.read_text() for path in sorted(ROOT.glob("Dockerfile.*"))}
    names = dict.fromkeys(found[1] for text in texts.values() for found in BASE.finditer(text))
    try:
        engine = connect(options.docker)
        digests = {name: engine.images.get_registry_data(name).id for name in names}
    except (NoEngine, DockerException) as error:
        sys.exit(f"pin-base: nothing is changed: {' '.join(str(error).split())}")
    for name, digest in digests.items():
        print(f"{name}@{digest}")
    for path, text in texts.items():
        temporary = path.with_suffix(".tmp")
        temporary.write_text(
            BASE.sub(lambda found: f"FROM {found[1]}@{digests[found[1]]} AS {found[2]}", text)
        )
        temporary.rename(path)


if __name__ == "__main__":
    main()
