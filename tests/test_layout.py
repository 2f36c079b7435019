"""Arrows between the rooms, sizes of files and functions, encodings of text files, and no address of a machine."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "cartoonlib"
MODULES = sorted(LIBRARY.rglob("*.py"))
SOURCES = [*MODULES, *sorted((ROOT / "tests").rglob("*.py"))]
METHOD_LINES, FILE_LINES, FUNCTION_LINES, COLUMNS = 1735, 300, 50, 120
LIBRARY_LINES = 8993  # what it has, so that it grows no more; 6000 is what it should come to

# Put together here, so that this file does not name them itself.
REGISTRIES = [f"{name}.org" for name in ("pypi", "pythonhosted", "npmjs", "anaconda")]
FOLDERS = [f"/{name}/" for name in ("home", "root", "work", "opt", "Users")]


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def places(found: list[str]) -> str:
    """Where something was found, one place a line, for the message of a test."""
    return "\n" + "\n".join(found)


# --- arrows --------------------------------------------------------------------------------------------------------


def lint_imports(folder: Path) -> subprocess.CompletedProcess:
    """Import-linter on the package in a folder, by the contracts of its pyproject.toml."""
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True, no_logo=True))"
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, encoding="utf-8")


def test_the_rooms_import_each_other_in_one_direction():
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "module, line",
    [
        ("losses.py", "from .dataset import sets"),  # the method looks into a room
        ("networks.py", "from . import step"),  # against the method's own order
        ("media/pictures.py", "from ..dataset import sets"),
        ("dataset/sets.py", "from ..runs import store"),
        ("runs/store.py", "from ..report import tables"),
        ("report/tables.py", "from ..bench import timing"),
        ("report/tables.py", "from ..photos import draw"),
        ("photos/draw.py", "from ..dataset import sets"),
        ("bench/steps.py", "from ..web import __main__"),
        ("somewhere.py", "from . import files"),  # a new module that the contracts do not name
    ],
)
def test_an_arrow_the_wrong_way_is_found(module, line, tmp_path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(LIBRARY, tmp_path / "cartoonlib", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "cartoonlib" / module).open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1 and Path(module).stem in done.stdout, done.stdout + done.stderr


# --- sizes ---------------------------------------------------------------------------------------------------------


def count(path: Path) -> int:
    return len(read(path).splitlines())


def test_the_method_is_thin():
    assert sum(map(count, LIBRARY.glob("*.py"))) <= METHOD_LINES


def test_the_library_is_thin():
    rooms = {folder.name: sum(map(count, folder.rglob("*.py"))) for folder in LIBRARY.iterdir() if folder.is_dir()}
    assert sum(map(count, MODULES)) <= LIBRARY_LINES, rooms


def test_no_file_of_the_library_is_long():
    found = {path.relative_to(ROOT).as_posix(): count(path) for path in MODULES}
    assert max(found.values()) <= FILE_LINES, places([f"{name}: {n}" for name, n in found.items() if n > FILE_LINES])


def test_no_function_is_long():
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(read(path))):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno + 1 > FUNCTION_LINES:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert not found, places(found)


def test_no_line_is_wide():
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in SOURCES
        for number, line in enumerate(read(path).splitlines(), start=1)
        if len(line) > COLUMNS
    ]
    assert not found, places(found)


# --- text ----------------------------------------------------------------------------------------------------------


def is_text_without_encoding(call: ast.Call) -> bool:
    """Whether a call opens, reads or writes a text file and leaves its encoding to the machine."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if any(keyword.arg in ("encoding", None) for keyword in call.keywords):
        return False
    if name in ("read_text", "write_text"):
        return True
    if name != "open":
        return False
    given = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    modes = [a.value for a in given if isinstance(a, ast.Constant) and re.fullmatch("[rwaxbt+]{1,3}", str(a.value))]
    owner = call.func.value if isinstance(call.func, ast.Attribute) else None
    if isinstance(owner, ast.Attribute) and owner.attr == "Image":  # PIL.Image.open
        return False
    others = ("cls", "Image", "os", "av", "tarfile", "zipfile", "Run", "PIL", "formats")  # that open no text
    if isinstance(owner, ast.Name) and owner.id in others:
        return False
    return not any("b" in mode for mode in modes)


def test_every_text_file_is_opened_with_an_encoding():
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(ast.parse(read(path)))
        if isinstance(node, ast.Call) and is_text_without_encoding(node)
    ]
    assert not found, places(found)


@pytest.mark.parametrize(
    "code, wrong",
    [
        ("open(path)", True),
        ("path.open('w')", True),
        ("path.read_text()", True),
        ("path.write_text(text)", True),
        ("open(path, 'rb')", False),
        ("path.open('wb')", False),
        ("path.open('w', encoding='utf-8')", False),
        ("path.read_text(encoding='utf-8')", False),
        ("Image.open(path)", False),
    ],
)
def test_a_text_file_without_an_encoding_is_found(code, wrong):
    assert is_text_without_encoding(ast.parse(code).body[0].value) is wrong


def test_no_text_names_a_registry_or_a_folder_of_a_machine():
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, encoding="utf-8")
    if tracked.returncode:
        pytest.skip("needs a clone: outside of one nobody says which files are tracked")
    found = []
    for name in filter(None, tracked.stdout.split("\0")):
        try:
            text = read(ROOT / name)
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue  # no text, or deleted and not yet committed
        hosts = [host for host in REGISTRIES if host in text]
        # At the start of a word: a path such as /home/..., not the end of a longer one or of a web address.
        folders = [folder for folder in FOLDERS if re.search(rf"(?<![\w.)}}*/-]){re.escape(folder)}\w", text)]
        found += [f"{name}: {what}" for what in hosts + folders]
    assert not found, places(found)
