"""What every notebook in notebooks/ must be like, and that nbval notices a changed number."""

import ast
import inspect
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from side_by_side import NBVAL, PYTEST

from cartoonlib import files, losses, representations
from cartoonlib.profile import LOSSES
from cartoonlib.report.execute import notebooks_in

NOTEBOOKS = notebooks_in(files.NOTEBOOKS)
CHECKED, IGNORED = "nbval-check-output", "nbval-ignore-output"


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def numbers(value) -> list[float]:
    """All numbers in nested tuples, lists and dicts."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        return [number for item in value for number in numbers(item)]
    return [value] if type(value) in (int, float) else []


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    content = nbformat.read(request.param, as_version=4)
    nbformat.validate(content)
    return content


@pytest.fixture
def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_notebooks_are_there_in_reading_order():
    names = "01_data 02_losses 03_pretrain 04_train 05_ablations 06_evaluation 07_performance 08_your_photo"
    assert [path.stem for path in NOTEBOOKS] == names.split()


def test_copies_of_notebooks_are_none_of_the_report(tmp_path):
    """As JupyterLab, Finder and people name them; the Makefile lists those of the report in a second way."""
    right = ["04_train.ipynb", "08_your_photo.ipynb"]
    copies = ["04_train-Copy1.ipynb", "04_train copy.ipynb", "04_train (1).ipynb", "Untitled.ipynb", "4_train.ipynb",
              "04_train.running.ipynb", "04_Train.ipynb", ".04_train.ipynb"]  # fmt: skip
    (tmp_path / "notebooks").mkdir()
    for name in right + copies:
        (tmp_path / "notebooks" / name).touch()
    assert [path.name for path in notebooks_in(tmp_path / "notebooks")] == right
    make = ["make", "--no-print-directory", "-f", str(files.ROOT / "Makefile")]
    makefile = [*make, "--eval", "list: ; @echo $(NOTEBOOKS)", "list"]
    listed = subprocess.run(makefile, cwd=tmp_path, capture_output=True, encoding="utf-8").stdout
    assert listed.split() == [f"notebooks/{name}" for name in right]


def test_the_first_code_cell_holds_the_parameters(code):
    assert ["parameters" in tags(cell) for cell in code] == [True] + [False] * (len(code) - 1)
    values = {}
    exec(code[0].source, {}, values)  # nbval cannot inject parameters: these are what it runs
    values.pop("__annotations__", None)
    assert values == {"profile": "smoke", "overrides": {}}


def test_the_kernel_is_named(notebook):
    assert notebook.metadata.kernelspec.name == "python3"


def test_it_is_short_and_starts_with_its_number_and_a_title(notebook, request):
    assert len(notebook.cells) <= 25
    number = int(request.node.callspec.id[:2])
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith(f"# {number}. ")


def test_only_checked_cells_keep_an_output(code):
    for cell in code:
        if CHECKED not in tags(cell):
            assert not cell.outputs, cell.source
        assert "execution" not in cell.metadata and "papermill" not in cell.metadata


def test_one_to_three_cells_are_checked_and_have_something_to_check(code):
    checked = [cell for cell in code if CHECKED in tags(cell)]
    assert 1 <= len(checked) <= 3
    kept = []
    for cell in checked:
        assert "keep_output" in tags(cell)  # nbstripout leaves it
        assert len(cell.outputs) == 1, f"no kept output, run `make outputs`: {cell.source}"
        (output,) = cell.outputs
        assert output.output_type == "execute_result" and set(output.data) == {"text/plain"}  # nbval compares no images
        kept += numbers(ast.literal_eval(output.data["text/plain"]))
    assert kept, "no checked cell of this notebook shows a number"


def test_cells_are_short_and_hold_no_function_class_or_training_loop(code):
    """What a test should hold belongs into cartoonlib; only what buttons and sliders call stands in a cell."""
    has_buttons = any(".on_click(" in cell.source or ".observe(" in cell.source for cell in code)
    for cell in code:
        lines = cell.source.splitlines()
        assert len(lines) <= 15 and max(map(len, lines)) <= 100, cell.source
        starts = ("class ",) if has_buttons else ("class ", "def ")
        assert not any(line.lstrip().startswith(starts) for line in lines), cell.source
        assert ".backward(" not in cell.source and "optimizer" not in cell.source


def test_it_has_a_cell_to_change_and_ends_with_what_was_found(notebook):
    """Findings are made by a template out of the notebook's numbers; after them stands only what nbval checks."""
    titles = [cell.source.splitlines()[0] for cell in notebook.cells]
    change, found = titles.index("## Change this and see"), titles.index("## What was found")
    assert notebook.cells[change + 1].cell_type == "code" and "?" in notebook.cells[change].source
    closing = [cell for cell in notebook.cells[found:] if cell.cell_type == "code"]
    assert any('shown("found_' in cell.source for cell in closing)
    after = [title for title in titles[found + 1 :] if title.startswith("## ")]
    assert found > change and after in ([], ["## Exercises"])


def test_no_path_of_a_machine_is_in_it(notebook):
    text = nbformat.writes(notebook)
    assert not any(word in text for word in ("sys.path", "/home/", "/tmp/", "/root/"))


def test_a_first_choice_that_stands_for_none_is_shown():
    cells = nbformat.read(files.ROOT / "notebooks" / "08_your_photo.ipynb", as_version=4).cells
    (source,) = (cell.source for cell in cells if "widgets.Dropdown(" in cell.source)
    calls = {ast.unparse(call) for call in ast.walk(ast.parse(source)) if isinstance(call, ast.Call)}
    (scale,) = (call for call in calls if "Dropdown(options=scales" in call)
    assert '("by the face", None)' in source
    assert "index=0" in scale  # without it ipywidgets shows nothing in every second process: the order of a set


def test_the_makefile_runs_the_notebooks_of_the_report_alone():
    makefile = (files.ROOT / "Makefile").read_text(encoding="utf-8")
    assert makefile.count("$(NOTEBOOKS)") == 3  # make test, and twice make outputs: no copies and no drafts


def test_a_link_to_a_function_leads_to_its_line():
    content = nbformat.read(files.NOTEBOOKS / "02_losses.ipynb", as_version=4)
    text = "\n".join(cell.source for cell in content.cells if cell.cell_type == "markdown")
    links = re.findall(r"\[`(\w+)\.(\w+)`\]\(\.\./cartoonlib/(\w+)\.py#L(\d+)\)", text)
    assert {name for module, name, _, _ in links if module == "losses"} == set(LOSSES)
    for module, name, file, line in links:
        assert module == file
        function = getattr({"losses": losses, "representations": representations}[module], name)
        assert inspect.getsourcelines(function)[1] == int(line), f"{module}.{name} begins at another line: correct it"


def test_nbval_fails_when_a_checked_number_is_changed(tmp_path):
    for name, kept, mark in (("right", "42", CHECKED), ("changed", "43", CHECKED), ("ignored", "43", IGNORED)):
        cell = new_code_cell("6 * 7", execution_count=1, metadata={"tags": [mark]})
        cell.outputs = [new_output("execute_result", {"text/plain": kept}, execution_count=1)]
        content = new_notebook(cells=[cell], metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
        nbformat.write(content, tmp_path / f"{name}.ipynb")
    options = [option for option in NBVAL if option != "-x"]  # all three
    command = [*PYTEST, *options, "-rA", "--rootdir", str(tmp_path), str(tmp_path)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8")
    lines = [line.split(" - ")[0] for line in result.stdout.splitlines() if line.startswith(("PASSED", "FAILED"))]
    assert result.returncode == 1, result.stdout
    expected = ["FAILED changed", "PASSED ignored", "PASSED right"]
    assert sorted(lines) == [f"{line}.ipynb::Cell 0" for line in expected]


# --- side by side ---------------------------------------------------------------------------------------------------


def both(units: str, notebooks: str, **options) -> subprocess.Popen:
    """Two programs as `make test` runs its two halves."""
    programs = [[sys.executable, "-c", code] for code in (units, notebooks)]
    code = f"import sys, side_by_side; sys.exit(side_by_side.run(*{programs!r}))"
    where = {"cwd": files.ROOT / "tests", "start_new_session": True, "encoding": "utf-8"}
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, **where)


@pytest.mark.parametrize("units, notebooks, status", [(0, 0, 0), (3, 0, 3), (0, 4, 4), (3, 4, 3)])
def test_each_half_of_the_tests_is_heard(units, notebooks, status):
    process = both(f"print('units'); exit({units})", f"print('notebooks'); exit({notebooks})")
    assert sorted(process.communicate()[0].split()) == ["notebooks", "units"] and process.returncode == status


def test_what_the_notebooks_say_follows_the_units():
    process = both("import time; time.sleep(0.5); print('units')", "print('notebooks')")
    assert process.communicate()[0] == "units\nnotebooks\n"


def test_notebooks_that_fail_say_so_at_once(tmp_path):
    path = str(tmp_path / "there")
    code = "import pathlib, time\nend = time.time() + 20\n"
    code += f"while time.time() < end and not pathlib.Path({path!r}).exists(): time.sleep(0.05)\nprint('units')"
    with both(code, "print('notebooks'); exit(1)") as process:
        assert process.stdout.readline() == "notebooks\n"
        Path(path).touch()
        assert process.communicate()[0] == "units\n" and process.returncode == 1


WAITS = """
import pathlib, time
there = pathlib.Path({path!r})
try:
    {first}
    time.sleep(60)
except KeyboardInterrupt:
    print("tidied up")
    exit(2)
"""


@pytest.mark.parametrize("stop", [lambda process: os.killpg(process.pid, signal.SIGINT), subprocess.Popen.terminate])
def test_ctrl_c_and_a_signal_to_end_reach_both_halves_of_the_tests(stop, tmp_path):
    path = str(tmp_path / "there")
    ready = "while not there.exists(): time.sleep(0.05)\n    print('ready', flush=True)"
    with both(WAITS.format(path=path, first=ready), WAITS.format(path=path, first="there.touch()")) as process:
        assert process.stdout.readline() == "ready\n"
        stop(process)
        assert process.communicate(timeout=20)[0] == "tidied up\n" * 2 and process.returncode == 2
