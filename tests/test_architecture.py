"""The rules that keep the rooms apart, checked on the source: who imports whom, and what the images carry."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CONTAINER = ROOT / "container"

# Folder or file -> (ours, third party) that it may import, besides itself and the standard library.
MAY_IMPORT = {
    "train": ({"training"}, set()),
    "serve": ({"driver", "logs", "serving"}, set()),
    "cgroup": (set(), set()),
    "cores": ({"cgroup"}, set()),
    "driver": ({"cgroup"}, set()),
    "logs": (set(), set()),
    "model_api": (set(), set()),
    "training": ({"cores", "driver", "model_api", "logs", "metrics"}, set()),
    "serving": (
        {"cores", "driver", "model_api", "logs", "metrics"},
        {"flask", "gunicorn", "prometheus_client", "werkzeug"},
    ),
    "metrics": (set(), {"pynvml", "boto3", "botocore"}),
    "surface_normals": (set(), {"numpy", "PIL", "safetensors", "torch", "onnxruntime"}),
    "surface_normals.training": (
        {"surface_normals"},
        {"numpy", "PIL", "safetensors", "torch", "matplotlib", "onnxruntime", "webdataset"},
    ),
}
# torchvision and timm cost seconds and 165 MB: only where there is nothing else.
HEAVY = {
    "torchvision": {
        "surface_normals.encoders": "encoders",
        "surface_normals.training.truth_files": "16-bit PNGs",
    },
    "timm": {"surface_normals.encoders": "encoders"},
}
# Where nobody else copies to and from S3.
S3_COPIES = {"training.elsewhere": {"boto3", "botocore"}}
# The contract layer is the standard library's; torch only where processes that train together are started.
LAUNCHES = {"training.launch", "training.process_group"}
# The environment is read in two files, so that the settings can be listed; the third has one variable of CUDA's own.
READ_ENVIRONMENT = {"training.environment", "serving.settings", "surface_normals.device"}

# What each image starts, and what it finds by name at run time: the seam, and the programs it starts.
PROGRAMS = {
    "Dockerfile.train": {
        "train",
        "training.rank",
        "training.launch",
        "training.elsewhere",
        "training.processing",
        "metrics.agent",
        "surface_normals.training",
    },
    "Dockerfile.serve": {
        "serve",
        "serving.gunicorn_conf",
        "serving.app",
        "metrics.agent",
        "surface_normals.predictor",
    },
}


def module_name(path):
    parts = path.relative_to(CONTAINER).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in CONTAINER.rglob("*.py")}
FILES |= {name: CONTAINER / name for name in ("train", "serve")}
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}


def imports_of(name, *, lazy=True):
    """Dotted names that a module imports; without `lazy`, only those that its own import runs."""
    package = name if FILES[name].name == "__init__.py" else name.rpartition(".")[0]
    found, todo = set(), [TREES[name]]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, *filter(None, [node.module])])
            for alias in node.names:
                submodule = f"{base}.{alias.name}"
                found.add(submodule if submodule in FILES else base)
        elif lazy or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            todo.extend(ast.iter_child_nodes(node))
    return found


def room_of(name):
    if name.startswith("surface_normals.training"):
        return "surface_normals.training"
    return name.partition(".")[0]


@pytest.mark.parametrize("name", sorted(FILES))
def test_each_module_imports_only_what_its_room_may(name):
    room = room_of(name)
    ours, third_party = MAY_IMPORT[room]
    for imported in imports_of(name):
        top = imported.partition(".")[0]
        if imported in FILES:
            assert room_of(imported) in {room} | ours, f"{name} imports {imported}"
        elif name in LAUNCHES:
            assert top in sys.stdlib_module_names | {"torch"}, f"{name} imports {imported}"
        elif top in S3_COPIES.get(name, ()):
            continue
        elif top in HEAVY:
            assert name in HEAVY[top], f"{name} imports {imported}"
        else:
            assert top in sys.stdlib_module_names | third_party, f"{name} imports {imported}"


def test_no_module_imports_itself_in_a_circle():
    finished = set()

    def visit(name, path):
        assert name not in path, " -> ".join([*path, name])
        if name not in finished:
            for imported in imports_of(name) & FILES.keys():
                visit(imported, [*path, name])
            finished.add(name)

    for name in FILES:
        visit(name, [])


def closure(roots):
    found, todo = set(), list(roots)
    while todo:
        name = todo.pop()
        if name in FILES and name not in found:
            found.add(name)
            todo.extend(imports_of(name))
            todo.append(name.rpartition(".")[0])
    return {FILES[name] for name in found}


def copied_into(dockerfile):
    """The files that the COPY lines take from container/, by the word that took them."""
    text = (ROOT / dockerfile).read_text().replace("\\\n", " ").replace("${MODEL_PACKAGE}", "surface_normals")
    taken = {}
    for line in re.findall(r"^COPY ((?!--from).*)$", text, flags=re.MULTILINE):
        for word in line.split()[:-1]:
            if word.startswith("container/requirements/"):
                continue
            matches = list(ROOT.glob(word)) or pytest.fail(f"{dockerfile}: COPY {word} finds nothing")
            taken[word] = {
                file
                for match in matches
                for file in (match.rglob("*") if match.is_dir() else [match])
                if file.is_file() and "__pycache__" not in file.parts
            }
    return taken


@pytest.mark.parametrize("dockerfile", PROGRAMS)
def test_an_image_carries_what_its_program_imports_and_nothing_else(dockerfile):
    needed, taken = closure(PROGRAMS[dockerfile]), copied_into(dockerfile)
    missing = needed - set().union(*taken.values())
    assert not missing, f"not copied: {sorted(str(path) for path in missing)}"
    for word, files in taken.items():
        assert files & needed, f"COPY {word} brings nothing that is imported"
    if dockerfile == "Dockerfile.serve":
        left_over = set().union(*taken.values()) - needed
        assert not left_over, f"copied for nothing: {sorted(str(path) for path in left_over)}"


@pytest.mark.parametrize("name", sorted(set(FILES) - READ_ENVIRONMENT))
def test_the_environment_is_read_where_the_settings_are(name):
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
            assert node.attr not in ("environ", "getenv"), f"{name} line {node.lineno}"


def run_python(code, tmp_path):
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(CONTAINER), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)


def test_importing_does_nothing(tmp_path):
    # gunicorn_conf is a configuration file, which Gunicorn runs; the two programs are run, too.
    modules = sorted(set(FILES) - {"train", "serve", "serving.gunicorn_conf"})
    code = f"""
import importlib, logging, threading
for name in {modules}:
    importlib.import_module(name)
assert not logging.getLogger().handlers, "logging was set up"
assert threading.active_count() == 1, threading.enumerate()
"""
    result = run_python(code, tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "code", ["import training.job", "import serving.app", "import surface_normals.training"]
)
def test_what_checks_input_does_not_wait_for_torch(code, tmp_path):
    result = run_python(
        f"{code}\nimport sys\nassert not {{'torch', 'numpy', 'boto3'}} & set(sys.modules)", tmp_path
    )
    assert result.returncode == 0, result.stderr


def test_a_checkout_on_windows_has_the_line_ends_of_linux(tmp_path):
    """Git for Windows writes carriage returns unless told otherwise, and Linux finds no program behind `#!...\\r`."""
    source, checkout = tmp_path / "source", tmp_path / "checkout"
    (source / "container").mkdir(parents=True)
    for name in (".gitattributes", "container/train", "Makefile"):
        shutil.copy(ROOT / name, source / name)
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    for arguments in (("init", "--quiet"), ("add", "."), (*identity, "commit", "--quiet", "-m", "a state")):
        subprocess.run(["git", "-C", source, *arguments], check=True)
    clone = ["git", "-c", "core.autocrlf=true", "clone", "--quiet", source, checkout]
    subprocess.run(clone, check=True)
    for name in ("container/train", "Makefile"):
        assert b"\r" not in (checkout / name).read_bytes()
