"""How flowprep is put together: which room may import which, who may touch which library, and what nobody writes.

Every rule reads the source with ``ast``; nothing of flowprep is imported here. The tables are meant to be amended:
a new module gets its place in ROOMS, a new dependency its line in FOREIGN.
"""

from __future__ import annotations

import ast
import configparser
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "flowprep"

# A room imports rooms above it, never below. Inside a room (a folder) imports are free.
ROOMS = (
    "errors",
    "wording",
    "types",
    "versions",
    "processes",
    "libcuda",
    "devices",
    "nvidia",
    "schema",
    "config",
    "records",
    "annotations",
    "plan",
    "opencv",  # loads cv2
    "matroska",
    "video",
    "flow",
    "quantise",
    "gpu",  # the process that computes for many
    "codecs",
    "store",
    "encode",
    "extract",  # one video: what runs inside the sandbox's child
    "stacks",
    "derive",  # one video of a dataset made from a dataset: runs there, too
    "child",  # of a sandbox: does that
    "sandbox",
    "shard",
    "run",
    "submit",
    "synthetic",
    "show",
    "train",
    "demo",
    "doctor",
    "__init__",  # the front door; only __version__ may be imported from anywhere
    "cli",
    "__main__",
)

# Module: (its distribution in setup.cfg, the files and folders that may import it; "" is everywhere).
FOREIGN = {
    "av": ("av", ["video.py"]),
    "click": ("click", ["cli/"]),
    "cv2": ("opencv-contrib-python", ["opencv.py"]),
    "cuda": ("cuda-bindings", ["flow/cuda/driver.py", "flow/cuda/launch.py"]),
    "dask": ("dask", ["run/dask.py"]),
    "distributed": ("distributed", ["run/dask.py"]),
    "google_crc32c": ("google-crc32c", ["codecs/", "store/"]),
    "jinja2": ("jinja2", ["train/report/"]),
    "imagecodecs": ("imagecodecs", ["codecs/"]),
    "llvmlite": ("llvmlite", ["flow/cpu/"]),
    "numba": ("numba", ["flow/cpu/", "flow/cuda/"]),  # numba.cuda is of numba-cuda
    "numcodecs": ("numcodecs", ["codecs/"]),
    "numpy": ("numpy", [""]),
    "PIL": ("pillow", ["codecs/", "show/", "train/report/"]),
    "psutil": ("psutil", ["doctor.py"]),
    "safetensors": ("safetensors", ["train/weights.py"]),
    "sklearn": ("scikit-learn", ["train/fusion.py"]),
    "tensorboard": ("tensorboard", ["train/curves.py"]),
    "torch": ("torch", ["stacks/torch_loader.py", "train/"]),
    "yaml": ("pyyaml", ["cli/training.py", "config/", "submit/", "train/run_folder.py"]),
    "zarr": ("zarr", ["store/"]),
}

MAX_LINES = 400


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """Path below flowprep/, with '/' between parts."""
    return path.relative_to(PACKAGE).as_posix()


def imports(name: str, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, dotted module or member) of every import in the file ``name``, wherever in the file it stands.

    A text "flowprep.room.module:Class", as in a table of classes to load later, counts as well, and so does
    ``import_module("library")``.
    """
    folder = ["flowprep", *name.split("/")[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = folder[: len(folder) - node.level + 1] if node.level else []
            source = ".".join([*parent, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and called(node) in {"import_module", "importlib.import_module", "__import__"}:
            texts = [str(argument.value) for argument in node.args if isinstance(argument, ast.Constant)]
            yield from ((node.lineno, text) for text in texts if not text.startswith("flowprep."))
        elif isinstance(node, ast.Constant):
            match = re.fullmatch(r"(flowprep\.\w+)[\w.:]*", str(node.value))
            if match and room_of(match[1]) != "__init__":
                yield node.lineno, match[1]


def called(call: ast.Call) -> str:
    """Name of what is called, as written: "yaml.load"."""
    return ast.unparse(call.func)


def room_of(dotted: str) -> str:
    """Room of "flowprep.store.verify" (store); a member of the package itself, as flowprep.open, is "__init__"."""
    part = dotted.removeprefix("flowprep.").split(".")[0]
    return part if part in ROOMS else "__init__"


def wrong_imports(name: str, tree: ast.AST) -> list[str]:
    """What breaks ROOMS and FOREIGN in the file ``name``, each with what to do."""
    own = name.split("/")[0].removesuffix(".py")
    if own not in ROOMS:
        return [f"flowprep/{name} is in no room: give {own!r} its place in ROOMS of {Path(__file__).name}"]
    complaints = ((line, dotted, wrong_import(name, own, dotted)) for line, dotted in imports(name, tree))
    return [f"flowprep/{name}:{line} imports {dotted}, {text}" for line, dotted, text in complaints if text]


def wrong_import(name: str, own: str, dotted: str) -> str:
    """Why the file ``name`` of the room ``own`` may not import ``dotted``; "" where it may."""
    top = dotted.split(".")[0]
    if top == "flowprep":
        room = room_of(dotted)
        if dotted != "flowprep.__version__" and ROOMS.index(room) > ROOMS.index(own):
            return (
                f"but {own!r} stands above {room!r} in ROOMS: take the value as an argument, or move it to a room above"
            )
    elif top not in sys.stdlib_module_names:
        if top not in FOREIGN:
            return f"but FOREIGN in {Path(__file__).name} has no {top!r}: add it there and to setup.cfg, or do without"
        places = FOREIGN[top][1]
        if not name.startswith(tuple(places)):
            return f"but {top!r} belongs to {' and '.join(places)}: call a function of flowprep there"
    return ""


def banned(name: str, tree: ast.AST) -> list[str]:
    """Constructs that run foreign code or hide errors, each with what to write instead."""
    found = [
        (line, f"imports {dotted}: reading it can run code; write JSON or arrays")
        for line, dotted in imports(name, tree)
        if dotted.split(".")[0] in {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (instead := forbidden_call(node)):
            found.append((node.lineno, f"calls {called(node)}: {instead}"))
        elif isinstance(node, ast.ExceptHandler):
            if node.type is None:
                found.append((node.lineno, "has a bare except, which also catches Ctrl-C: name the errors"))
            elif catches_all(node.type) and all(is_idle(line) for line in node.body):
                found.append((node.lineno, "swallows every error: name the errors that may pass, or let them out"))
    return [f"flowprep/{name}:{line} {text}" for line, text in found]


def forbidden_call(call: ast.Call) -> str:
    """What to write instead, or "" where the call is allowed."""
    options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    function = called(call)
    if function in {"eval", "exec", "builtins.eval", "builtins.exec"}:
        return "it runs text as code; parse the text"
    if re.fullmatch(r"yaml\.(?!safe_)\w*load\w*", function):
        return "it can build any object; use yaml.safe_load"
    if options.get("allow_pickle", "False") != "False":
        return "allow_pickle runs code from the file; leave it out"
    if function == "torch.load" and options.get("weights_only") != "True":
        return "it unpickles; say weights_only=True"
    if function in {"suppress", "contextlib.suppress"} and any(catches_all(argument) for argument in call.args):
        return "it swallows every error; name those that may pass"
    return ""


def catches_all(node: ast.expr) -> bool:
    names = node.elts if isinstance(node, ast.Tuple) else [node]
    return any(ast.unparse(name) in {"Exception", "BaseException"} for name in names)


def is_idle(node: ast.stmt) -> bool:
    return isinstance(node, (ast.Pass, ast.Continue)) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    )


# --- the package ---


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_and_bans(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    complaints = wrong_imports(name_of(path), tree) + banned(name_of(path), tree)
    assert not complaints, "\n" + "\n".join(complaints)


def test_names_and_lengths() -> None:
    files = [path for folder in ("flowprep", "tests", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]
    assert files
    utils = [path for path in files if path.stem in {"utils", "util", "helpers", "misc", "common"}]
    assert not utils, f"name the file after what is in it: {utils}"
    lines = {path.relative_to(ROOT): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    long = {str(path): count for path, count in lines.items() if count > MAX_LINES}
    assert not long, f"over {MAX_LINES} lines, so it has a second reason to change: split it there: {long}"


def test_foreign_libraries_are_the_declared_ones() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    required = "\n".join([setup["options"]["install_requires"], extras["train"], extras["cuda"]])
    declared = {re.split(r"[<>=!~;\[ ]", line, maxsplit=1)[0] for line in required.split("\n") if line}
    assert declared == {distribution for distribution, _ in FOREIGN.values()} | {"numba-cuda"}, (
        "install_requires and the extras train and cuda in setup.cfg must name the distributions that FOREIGN in this "
        "file names, and numba-cuda, which takes the place of numba.cuda"
    )


# --- the rules themselves ---


@pytest.mark.parametrize(
    ("name", "code", "expected"),
    [
        ("video.py", "from flowprep.store.dataset import Dataset", "stands above 'store'"),
        ("video.py", "from flowprep import cli", "stands above 'cli'"),
        ("flow/cpu/tvl1.py", "def f():\n    from ...run import window", "stands above 'run'"),
        ("config.py", "if TYPE_CHECKING:\n    from .plan import Plan", "stands above 'plan'"),
        ("errors.py", "import flowprep.types", "stands above 'types'"),
        ("plan.py", "from flowprep import open", "stands above '__init__'"),
        ("show/sheet.py", "import flowprep", "stands above '__init__'"),
        ("plan.py", "LATER = {'x': 'flowprep.cli.demo:Demo'}", "stands above 'cli'"),
        ("plan.py", "importlib.import_module('av')", "'av' belongs to video.py"),
        ("store/dataset.py", "import dask.array", "'dask' belongs to run/dask.py"),
        ("cli/show.py", "from PIL import Image", "'PIL' belongs to codecs/ and show/"),
        ("video.py", "import requests", "has no 'requests'"),
        ("attic.py", "", "is in no room"),
    ],
)
def test_wrong_imports_are_found(name: str, code: str, expected: str) -> None:
    (complaint,) = wrong_imports(name, ast.parse(code))
    assert expected in complaint


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("cli/extract.py", "import click, flowprep\nfrom flowprep.run import window\nfrom flowprep import __version__"),
        ("flow/__init__.py", "BACKENDS = {'dis': 'flowprep.flow.opencv:Dis'}\nfrom .files import read_flo"),
        ("run/dask.py", "import dask\nfrom distributed import Client\nfrom flowprep.shard import extract_shard"),
        ("__init__.py", "def open(path):\n    from flowprep.store.dataset import Dataset"),
        ("plan.py", "NAME = 'flowprep.json'\nimport numpy as np, json"),
    ],
)
def test_right_imports_pass(name: str, code: str) -> None:
    assert wrong_imports(name, ast.parse(code)) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from marshal import loads",
        "import dill as d",
        "eval(text)",
        "exec(text)",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "yaml.full_load_all(text)",
        "np.load(path, allow_pickle=True)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "try:\n    f()\nexcept:\n    g()",
        "try:\n    f()\nexcept Exception:\n    pass",
        "try:\n    f()\nexcept (OSError, Exception) as error:\n    ...",
        "with contextlib.suppress(Exception):\n    f()",
        "for i in x:\n    try:\n        f()\n    except BaseException:\n        continue",
    ],
)
def test_banned_constructs_are_found(code: str) -> None:
    assert len(banned("video.py", ast.parse(code))) == 1


@pytest.mark.parametrize(
    "code",
    [
        "yaml.safe_load(text)",
        "json.load(file)",
        "model.eval()",
        "ast.literal_eval(text)",
        "np.load(path)",
        "torch.load(path, weights_only=True)",
        "try:\n    f()\nexcept OSError:\n    pass",
        "try:\n    f()\nexcept Exception as error:\n    raise VideoError(verdict, str(error)) from error",
    ],
)
def test_harmless_constructs_pass(code: str) -> None:
    assert banned("video.py", ast.parse(code)) == []
