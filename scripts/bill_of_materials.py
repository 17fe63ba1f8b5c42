"""`make build`: what an image holds, as a CycloneDX bill of materials, for scanners and for licence lists.

It runs inside the image, with nothing but Python's standard library: `python3 - NAME REVISION < this file`
lists the Python packages of the environment and Debian's or Ubuntu's packages below them.
"""

import importlib.metadata
import json
import platform
import subprocess
import sys
from urllib.parse import quote

Component = dict[str, object]


def main(name: str, revision: str) -> None:
    components = [*python_packages(), *system_packages()]
    image = {"type": "container", "name": name, "version": revision or "unknown"}
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"bom-ref": "image", **image}},
        "components": sorted(components, key=lambda component: str(component["purl"])),
    }
    json.dump(bill, sys.stdout, indent=1)
    sys.stdout.write("\n")


def python_packages() -> list[Component]:
    return [
        component(
            found.name,
            found.version,
            f"pkg:pypi/{normalised(found.name)}@{quote(found.version)}",
            licence_of(found),
        )
        for found in importlib.metadata.distributions()
    ]


def system_packages() -> list[Component]:
    system = platform.freedesktop_os_release()
    listed = subprocess.run(
        ["dpkg-query", "--show", "--showformat", "${Package}\t${Version}\t${Architecture}\n"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    found = []
    for line in listed.splitlines():
        name, version, architecture = line.split("\t")
        place = f"arch={architecture}&distro={system['ID']}-{system.get('VERSION_ID', '')}"
        purl = f"pkg:deb/{system['ID']}/{quote(name)}@{quote(version)}?{place}"
        found.append(component(name, version, purl))
    return found


def component(name: str, version: str, purl: str, licence: str | None = None) -> Component:
    found: Component = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
    if licence:
        found["licenses"] = [{"license": {"name": licence}}]
    return found


def normalised(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def licence_of(found: importlib.metadata.Distribution) -> str | None:
    """What the package says in one line of its own, or else its classifiers."""
    said = found.metadata.get("License-Expression") or found.metadata.get("License") or ""
    if said and "\n" not in said:
        return said
    classifiers = found.metadata.get_all("Classifier") or []
    kinds = [text.rpartition(" :: ")[2] for text in classifiers if text.startswith("License ::")]
    return ", ".join(kinds) or None


if __name__ == "__main__":
    main(*sys.argv[1:])
