"""Runs as jobs: in processes of Accelerate, from a notebook, and on two Dask workers, on a tiny profile."""

import contextlib
import dataclasses
import itertools
import signal
import subprocess
import sys

import nbformat
import numpy as np
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image

from cartoonlib import files, landmarks
from cartoonlib.dataset import prepare, squares
from cartoonlib.dataset.sets import Sets
from cartoonlib.files import InputError
from cartoonlib.media.faces import CANONICAL, Face
from cartoonlib.report.book import Report
from cartoonlib.report.execute import execute
from cartoonlib.runs import __main__ as command
from cartoonlib.runs import ablations, parallel, training
from cartoonlib.runs.guards import TrainingStopped
from cartoonlib.runs.profiles import load_profile

PROFILE = """
faces: [{folder}/photos]
styles: [{folder}/drawn]
size: 32
test_fraction: 0.5
batch: 2
perceptual_every: 1
perceptual: efficientnet_lite0
segments: 20
pretrain_steps: 4
start_steps: 3
train_steps: 4
ablation_steps: 3
log_every: 2
checkpoint_every: 2
ema: 0.5
precision: fp32
"""
ROWS = """
full: {full method: {}}
others: {no content: {weights: {content: 0}}, dead skips: {skips: false}}
"""
BAD_ROWS = """
bad: {too fast: {discriminator_rate: 1.0e+30}, early: {generator_rate: 1.0e+30}, broken weights: {landmarks: fan}}
"""
COLLAPSE = {"discriminator_rate": 1e30}


def sets() -> Sets:
    return Sets(load_profile("tiny"), silent)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, face_photos, cartoon_set):
    """A folder with profiles/tiny.yaml and its prepared data, which this process and those that it starts use."""
    folder = tmp_path_factory.mktemp("jobs")
    for name in ("photos", "drawn", "profiles", "weights"):
        (folder / name).mkdir()
    pictures = np.concatenate([face_photos, face_photos[:, :, ::-1], face_photos // 4 * 3])
    for kind, images in (("photos", pictures), ("drawn", cartoon_set.images)):
        for i, image in enumerate(images):
            Image.fromarray(image).save(folder / kind / f"{i}.bmp")
    (folder / "weights" / next(iter(landmarks.FAN_FILES))).write_bytes(b"broken")
    (folder / "profiles" / "tiny.yaml").write_text(PROFILE.format(folder=folder), encoding="utf-8")
    (folder / "profiles" / "ablations.yaml").write_text(ROWS, encoding="utf-8")
    face = Face(CANONICAL * 128, np.array([0, 0, 128, 128]), 1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "PROFILES", folder / "profiles")
        for name in ("PROCESSED", "RESULTS", "WEIGHTS"):
            patch.setenv(f"CARTOONLIB_{name}", str(folder / name.lower()))
            patch.setattr(files, name, folder / name.lower())
        with patch.context() as detector:  # here alone: no other process could prepare these photos
            detector.setattr(squares, "detect_faces", lambda picture: [face])
            turns = itertools.cycle(("train", "test"))  # by hash, six photos might all be of one split
            detector.setattr(prepare, "_splits", lambda entries, _: [next(turns) for _ in entries])
            opened = Report("tiny", progress=silent)
            opened.sets.faces, opened.sets.cartoons
        yield folder


@pytest.fixture
def results(tiny, tmp_path, monkeypatch):
    """An empty folder of results, here and in the processes that a test starts."""
    monkeypatch.setenv("CARTOONLIB_RESULTS", str(tmp_path))
    monkeypatch.setattr(files, "RESULTS", tmp_path)
    return tmp_path / "tiny" / "runs"


def silent(_line: str) -> None:
    pass


def weights(folder):
    """Run's name -> bytes of its generator."""
    return {path.parent.name: path.read_bytes() for path in folder.glob("*/generator.safetensors")}


def never(*_arguments, **_keywords):
    raise AssertionError("something was started for a run that is finished")


# --- one process --------------------------------------------------------------------------------------------------


def test_a_job_is_idempotent(results, monkeypatch):
    name = parallel.run(load_profile("tiny"), sets(), "drawn", "full method", silent).folder.name
    assert parallel.run_folder(load_profile("tiny"), sets(), "drawn") == results / name
    assert parallel.run_folder(load_profile("tiny"), sets(), None).name in weights(results)
    monkeypatch.setattr(training, "Batches", never)
    assert parallel.run(load_profile("tiny"), sets(), "drawn", "full method", silent).folder.name == name
    assert parallel.train(load_profile("tiny"), sets(), "drawn", progress=silent).folder == results / name
    assert parallel.pretrain(load_profile("tiny"), sets(), silent).summary["title"] == "pretraining"
    begun = parallel.start(load_profile("tiny"), sets(), "drawn", silent)
    assert begun.summary["title"] == "structure start" and begun.folder == parallel.run_folder(
        load_profile("tiny"), sets(), None
    )


def test_an_unknown_style_or_profile_ends_with_one_sentence(results, monkeypatch):
    with pytest.raises(InputError, match="Profile tiny has no style `oil`: choose of drawn"):
        parallel.train_styles("tiny", ["oil"])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["runs", "ablations", "qick"])
    with pytest.raises(SystemExit, match="There is no profile `qick`: choose one of"):
        command.main()


# --- several processes --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def launched(tiny):
    """(folder of runs, run, progress lines) of a training in two processes."""
    lines = []
    run = parallel.train(load_profile("tiny", {"processes": 2}), sets(), "drawn", progress=lines.append)
    return run.folder.parent, run, lines


def test_processes_train_one_run_together(launched, monkeypatch):
    folder, run, lines = launched
    assert run.summary["processes"] == 2 and run.summary["title"] == "drawn, full method"
    assert run.folder == parallel.run_folder(load_profile("tiny"), sets(), "drawn")  # where one process trains it too
    assert [row["step"] for row in run.log()] == [2, 4] and sorted(run.samples()) == list(range(5))
    assert len(weights(folder)) == 3 and not list(folder.glob("*/checkpoint-*"))
    for title, steps in {"pretraining": 4, "structure start": 3, "drawn, full method": 4}.items():
        assert sum(line.startswith(f"{title}: step {steps}/{steps}") for line in lines) == 1  # by one of the two
    monkeypatch.setattr(subprocess, "Popen", never)
    again = parallel.train(load_profile("tiny", {"processes": 2}), sets(), "drawn", progress=silent)
    assert again.summary == run.summary


def test_processes_stop_with_the_sentence_of_one(results):
    collapsing = load_profile("tiny", COLLAPSE | {"skips": False})  # dead weights, for which nobody must wait
    with pytest.raises(TrainingStopped) as together:
        parallel.train(collapsing.replace(processes=2), sets(), "drawn", progress=silent)
    with pytest.raises(TrainingStopped) as alone:
        parallel.train(collapsing, sets(), "drawn", progress=silent)
    assert str(together.value) == str(alone.value) and "is not a finite number" in str(alone.value)


def test_notebook_launcher_trains_the_same_run(results, launched, tmp_path, monkeypatch):
    """In a new kernel, which has used neither a GPU nor an Accelerator yet, for this launcher forks."""
    settings = load_profile("tiny").model_dump()
    launch = "notebook_launcher(parallel.{}, num_processes=2, use_port=str(get_free_port()))"
    cells = [
        "from pathlib import Path\nimport torch\nfrom cartoonlib import files\n"
        "from cartoonlib.dataset.sets import Sets\nfrom cartoonlib.profile import profile_of\n"
        f"from cartoonlib.runs import parallel\np = profile_of({settings!r})",
        "from accelerate import notebook_launcher\nfrom accelerate.utils.other import get_free_port",
        "torch.set_num_threads(1)\n" + launch.format("run, (p, Sets(p), 'drawn', 'full method')"),
        # What forked processes print comes late: a cell that has ended does not show it.
        f"import time\nfiles.PROFILES = Path({str(files.PROFILES)!r})\n"
        + launch.format("train_styles, ('tiny', [])")
        + "\ntime.sleep(2)",
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    book, executed = tmp_path / "book.ipynb", tmp_path / "executed.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell(cell) for cell in cells], metadata=kernel), book)
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # torch leaves empty folders there
    execute(book, executed, "tiny")
    assert weights(results) == weights(launched[0])
    # The command does the same in the processes that it finds itself in, and its first one speaks.
    said = "".join(output.text for output in nbformat.read(executed, as_version=4).cells[-1].outputs)
    assert said.count(f"drawn: results/tiny/runs/{launched[1].folder.name}\n") == 1


def test_a_crash_is_no_collapse(results, tmp_path, monkeypatch):
    """Processes that end without a word are a defect; their last words are shown."""
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho progress; echo noise; echo killed >&2; exit 1\n", encoding="utf-8")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(RuntimeError, match="pretraining: its 2 processes ended without a result:\nkilled"):
        parallel.pretrain(load_profile("tiny", {"processes": 2}), sets(), silent)


def test_more_processes_than_gpus_are_refused(results, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="`processes: 2` needs as many GPUs, and this machine has 1"):
        parallel.pretrain(load_profile("tiny", {"processes": 2}), sets(), silent)


def test_a_process_ends_with_the_one_that_started_it():
    code = "import threading, time; from cartoonlib.runs import parallel; "
    code += "threading.Thread(target=parallel._end_with_parent).start(); print(1, flush=True); time.sleep(30)"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout.readline() == "1\n"
        process.stdin.close()
        assert process.wait(timeout=20) == 1


# --- workers ------------------------------------------------------------------------------------------------------


def test_two_workers_train_the_rows_of_the_table(results, tiny, monkeypatch, capfd):
    table = tiny / "profiles" / "ablations.yaml"
    table.write_text(ROWS + BAD_ROWS, encoding="utf-8")
    with pytest.raises(InputError, match="These runs failed: broken weights. The same command tries them again"):
        ablations.train_rows("tiny", workers=2)
    out, err = capfd.readouterr()
    assert "7 styles and rows: 4 trained, 2 stopped, 1 failed\n" in out
    assert "too fast: drawn, too fast stopped at step 2: the loss" in out and "broken weights: " in out
    assert "early: pretraining stopped at step" in out  # a row is what became of its pretraining
    assert "7 styles and rows, 7 runs of them to be trained" in err and "\n7/7 " in err
    assert "Traceback" not in out + err

    # The same bits as in this process, and no run beside these.
    spread = weights(results)
    table.write_text(ROWS, encoding="utf-8")
    rows = {k: v for group in ablations.ablation_rows(load_profile("tiny")).values() for k, v in group.items()}
    monkeypatch.setattr(files, "RESULTS", results.parent.parent / "alone")
    for title, row in [("full method", load_profile("tiny")), *rows.items()]:
        parallel.train(row, sets(), "drawn", title, silent)
    assert (
        weights(files.RESULTS / "tiny" / "runs") == spread and len(spread) == 1 + 3 + 2 + 2
    )  # the style, rows, their starts, and the pretraining of these
    monkeypatch.setattr(files, "RESULTS", results.parent.parent)

    # The same command finds them and starts nothing.
    monkeypatch.setattr(ablations, "_client", never)
    ablations.train_rows("tiny", workers=2)
    out, err = capfd.readouterr()
    assert out == "4 styles and rows: 0 trained, 0 stopped, 0 failed\n" and "0 runs of them" in err


@dataclasses.dataclass(frozen=True)
class Future:
    key: str

    def exception(self):
        return None


class Client:
    """One that trains nothing, and says so of nothing; it remembers what each job waits for."""

    id = "client"

    def __init__(self):
        self.first = {}

    def nthreads(self):
        return {"worker": 1}

    def submit(self, _work, _settings, _title, _client, _gpus, _style, after=None, key=None):
        self.first[key] = after and after.key
        return Future(key)


def test_rows_wait_for_the_start_that_they_share_and_starts_for_their_pretraining(results, monkeypatch):
    """Else two workers would train one folder at once."""
    tiny = load_profile("tiny")
    rows = {"one": tiny, "other": tiny.replace(weights={"content": 0}), "architecture": tiny.replace(skips=False)}
    rows |= {"look": tiny.replace(look={"ink": 0.1}), "none": tiny.replace(start_steps=0)}
    monkeypatch.setattr("distributed.as_completed", list)
    client = Client()
    ablations._train_on_workers(client, {title: (row, "drawn", title) for title, row in rows.items()}, sets(), [])
    starts = {title: client.first[parallel.run_folder(row, sets(), "drawn").name] for title, row in rows.items()}
    assert starts == {title: parallel.run_folder(row, sets(), None).name for title, row in rows.items()}
    assert starts["one"] == starts["other"] and len(set(starts.values())) == 4
    before = {title: client.first[start] for title, start in starts.items()}
    assert before.pop("none") is None and starts["none"] == before["one"] == before["look"] != before["architecture"]
    assert len(client.first) == 5 + 3 + 2 and [client.first[first] for first in set(before.values())] == [None, None]


def test_workers_that_do_not_share_the_results_are_found_out(results, monkeypatch, capsys):
    monkeypatch.setattr(ablations, "_client", lambda *_: contextlib.nullcontext(Client()))
    monkeypatch.setattr("distributed.as_completed", list)
    with pytest.raises(InputError, match="These runs failed: style drawn, full method, no content, dead skips"):
        ablations.train_rows("tiny", workers=2)
    assert "the workers must share this results/" in capsys.readouterr().out


def test_a_scheduler_that_does_not_answer(results):
    with pytest.raises(InputError, match="No Dask scheduler answers at nonsense: start one with `dask scheduler`"):
        ablations.train_rows("tiny", workers=2, scheduler="nonsense")
    with pytest.raises(InputError, match="Give 1 worker or more"):
        ablations.train_rows("tiny", workers=0)
