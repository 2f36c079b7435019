"""Nothing lost: damaged checkpoints, two runs at once, divergence, discriminators that win, memory that runs out."""

import math
import os
import signal
import subprocess
import sys

import pytest
import torch
from conftest import TINY, silent
from test_training import assert_equal, break_at, keep_checkpoints, newest_checkpoint, spoil

from cartoonlib import files, losses
from cartoonlib.dataset.batches import Batches
from cartoonlib.dataset.folders import whole_folder
from cartoonlib.files import InputError
from cartoonlib.report import __main__ as command
from cartoonlib.runs import guards, store
from cartoonlib.runs.guards import TrainingStopped
from cartoonlib.runs.loop import Loop
from cartoonlib.runs.store import Run
from cartoonlib.runs.training import pretrain, start, train
from cartoonlib.step import StartStep, TrainStep

OFTEN = TINY.replace(pretrain_steps=2, checkpoint_every=2)


@pytest.fixture
def run(tmp_path, face_set, cartoon_set):
    """Train in tmp_path; a profile and whom to tell."""

    def run(profile=OFTEN, progress=silent):
        return train(profile, tmp_path, face_set, cartoon_set, "drawn", progress=progress)

    return run


def note_loaded(monkeypatch) -> list[int]:
    """The steps of the checkpoints from which runs go on, in a list that grows."""
    steps, resume = [], Loop._resume

    def noted(self, state):
        steps.append(state["step"])
        resume(self, state)

    monkeypatch.setattr(Loop, "_resume", noted)
    return steps


# --- checkpoints ---------------------------------------------------------------------------------------------------


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1000])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip, empty])
def test_a_damaged_checkpoint_is_told_and_the_one_before_it_is_used(damage, run, tmp_path, monkeypatch):
    whole_states = keep_checkpoints(monkeypatch)
    whole = run(OFTEN.replace(log_every=4))  # the folder's name does not depend on log_every
    expected = (whole.folder / "generator.safetensors").read_bytes()
    for path in whole.folder.rglob("*"):
        path.is_file() and path.unlink()
    with monkeypatch.context() as patch:
        break_at(patch, 7)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert len(list(whole.folder.glob("checkpoint-*"))) == store.KEPT
    path, state = newest_checkpoint(tmp_path)
    assert state["step"] == 6
    damage(path)
    lines, loaded = [], note_loaded(monkeypatch)
    again = run(progress=lines.append)
    assert loaded == [4] and any(f"{path.name} is damaged" in line for line in lines)
    (event,) = again.events()
    assert (event["step"], event["halved"]) == (6, []) and "is damaged" in event["event"]
    assert (again.folder / "generator.safetensors").read_bytes() == expected
    assert_equal(whole_states[-1], whole_states[1])
    assert not list(again.folder.glob("checkpoint-*"))


def test_when_no_checkpoint_is_whole_the_run_begins_anew(run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        break_at(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            run()
    for path in tmp_path.glob("drawn-*/checkpoint-*"):
        truncate(path)
    again = run()
    assert len(again.events()) == 2 and [row["step"] for row in again.log()] == [2, 4, 6, 8]


def test_a_damaged_generator_is_not_used(run):
    finished = run()
    path = finished.folder / "generator.safetensors"
    flip(path)
    with pytest.raises(InputError, match="missing or damaged: delete .*drawn-.* to train it again"):
        finished.generator()
    path.unlink()
    with pytest.raises(InputError, match="missing or damaged"):
        finished.generator()


def test_a_checkpoint_cannot_run_code(tmp_path):
    """A pickle that would, under the right name."""

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "evil"),)

    store.save_checkpoint(tmp_path, 1, {"state": Evil()})
    with pytest.raises(Exception, match="[Ww]eights.only"):
        store.load_checkpoint(tmp_path, lambda *_: None)
    assert not (tmp_path / "evil").exists()


# --- one process at a time -----------------------------------------------------------------------------------------


def hold(path):
    """Another process that holds a lock until it is killed."""
    code = (
        "import sys, time; from pathlib import Path; from cartoonlib import files\n"
        "with files.lock(Path(sys.argv[1])): print(1, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "1\n"
    return process


def test_a_run_that_another_process_trains_is_left_alone(run, tmp_path, face_set, cartoon_set):
    folder = store.train_folder(OFTEN, tmp_path, face_set, cartoon_set, "drawn")
    with hold(folder.with_name(f".{folder.name}.lock")) as other:
        try:
            with pytest.raises(InputError, match=f"Another process is training in {folder}: wait"):
                run()
            assert not folder.exists()
        finally:
            other.kill()
    assert run().folder == folder  # no lock outlives its process


def test_a_report_that_another_process_makes_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["report", "reproduce", "smoke"])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with hold(tmp_path / "smoke" / ".lock") as other:
        try:
            with pytest.raises(SystemExit, match=f"^\nAnother process is making {tmp_path / 'smoke'}: wait"):
                command.main()
        finally:
            other.kill()
    assert [path.name for path in (tmp_path / "smoke").iterdir()] == [".lock"]


def test_what_a_killed_process_left_of_a_folder_is_deleted(tmp_path):
    (tmp_path / ".set-abc").mkdir()
    (tmp_path / ".set-abc" / "images.npy").write_bytes(b"half")
    folder = whole_folder(tmp_path / "set", lambda made: (made / "images.npy").write_bytes(b"whole"))
    assert (folder / "images.npy").read_bytes() == b"whole"
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".lock") == ["set"]


# --- divergence ----------------------------------------------------------------------------------------------------


def test_a_run_that_diverges_goes_back_with_half_its_rates(run, tmp_path, monkeypatch):
    rates = []
    step = torch.optim.Adam.step

    def recorded(self, *arguments):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *arguments)

    profile = OFTEN.replace(on_divergence="back_off", log_every=1)
    monkeypatch.setattr(torch.optim.Adam, "step", recorded)
    anchor, calls = losses.anchor, []

    def once(*arguments):
        calls.append(1)
        return anchor(*arguments) * (math.nan if len(calls) == 6 else 1)

    monkeypatch.setattr(losses, "anchor", once)
    finished = run(profile)
    (event,) = finished.events()
    assert event["step"] == 6 and event["halved"] == ["generator_rate", "discriminator_rate"]
    assert "not a finite number: gone back to before step 6, with half of generator_rate" in event["event"]
    g, d = profile.generator_rate, profile.discriminator_rate
    # After pretraining: 6 steps, the last one in the half of the run in which rates fall; back to step 4, the other 4.
    shares = [1, 1, 1, 1, 1, 0.75] + [share / 2 for share in (1, 0.75, 0.5, 0.25)]
    assert rates[2:] == pytest.approx([rate * share for share in shares for rate in (g, d)])
    assert [row["step"] for row in finished.log()] == list(range(1, 9))
    assert all(math.isfinite(row["total"]) for row in finished.log())


def test_a_start_that_diverges_goes_back_with_half_its_own_rate(tmp_path, monkeypatch, face_set, processed):
    rates, calls, step, anchor = [], [], torch.optim.Adam.step, losses.anchor

    def recorded(self, *arguments):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *arguments)

    def once(*arguments):
        calls.append(1)
        return anchor(*arguments) * (math.nan if len(calls) == 4 else 1)

    monkeypatch.setattr(torch.optim.Adam, "step", recorded)
    monkeypatch.setattr(losses, "anchor", once)
    profile = OFTEN.replace(on_divergence="back_off", log_every=1, pretrain_steps=0, start_steps=4, decay=0.0)
    (event,) = start(profile, tmp_path, face_set, silent).events()
    assert event["step"] == 4 and event["halved"] == ["start_rate"]
    assert rates == pytest.approx([profile.start_rate * share for share in (1, 1, 1, 1, 0.5, 0.5)])


def test_it_goes_back_before_the_checkpoints_that_were_written_since_all_was_well(run, monkeypatch):
    """Logged at 4 and 8, checkpoints at 2, 4 and 6: found wrong at 8, the one of 6 may be wrong too."""
    check, found, loaded = guards.check, [], note_loaded(monkeypatch)

    def once(row, before, profile):
        if row["step"] == 8 and not found:
            found.append(row)
            raise guards.Diverged(8, "it fell apart", "Mend it.", before[-1]["step"], ("generator_rate",))
        check(row, before, profile)

    monkeypatch.setattr(guards, "check", once)
    assert run(OFTEN.replace(on_divergence="back_off", log_every=4)).events()[0]["step"] == 8
    assert loaded == [4]


def test_it_does_so_three_times_at_most(run, monkeypatch):
    spoil(monkeypatch, 3, math.nan)
    with pytest.raises(TrainingStopped, match="drawn.*stopped at step 4: the loss \\w+ is not a finite number"):
        run(OFTEN.replace(on_divergence="back_off"))


def test_it_goes_on_to_the_same_bits_when_it_is_killed_after_that(tmp_path, monkeypatch, face_set, cartoon_set):
    """Step 6 is spoilt while the rates are whole; one run is killed in step 8, and remembers that it halved them."""
    profile = OFTEN.replace(on_divergence="back_off", log_every=1)
    anchor, batch, now = losses.anchor, Batches.__call__, {}

    def unlucky(*arguments):
        whole = not list(now["folder"].glob("drawn-*/events.jsonl"))
        return anchor(*arguments) * (math.nan if whole and now["step"] == 5 else 1)

    def counted(self, at):
        now["step"] = at
        return batch(self, at)

    def trained(name):
        now["folder"] = tmp_path / name
        return train(profile, tmp_path / name, face_set, cartoon_set, "drawn", progress=silent)

    monkeypatch.setattr(Batches, "__call__", counted)
    monkeypatch.setattr(losses, "anchor", unlucky)
    whole = trained("whole")
    with monkeypatch.context() as patch:
        break_at(patch, 7)
        with pytest.raises(KeyboardInterrupt):
            trained("killed")
    again = trained("killed")
    assert again.events() == whole.events() and len(whole.events()) == 1
    weights = [(run.folder / "generator.safetensors").read_bytes() for run in (again, whole)]
    assert weights[0] == weights[1]


def rows(values, name="d_texture"):
    """Log rows of every 50th step, with these losses of one discriminator, and 0.2 of the other."""
    base = {"d_surface": 0.2, "d_texture": 0.2, "contrast": 1.0}
    return [base | {"step": 50 * (i + 1), name: value} for i, value in enumerate(values)]


@pytest.mark.parametrize("name", ["surface", "texture"])
def test_a_discriminator_that_wins_for_long_is_noticed(name):
    fine, won = rows([0.2, 0.001, 0.001, 0.001], f"d_{name}"), rows([0.001] * 4, f"d_{name}")
    guards.check(fine[-1], fine[:-1], TINY)
    guards.check(won[2], won[:2], TINY)  # 150 steps are too few to say so
    with pytest.raises(guards.Diverged, match=f"the {name} discriminator has won") as found:
        guards.check(won[-1], won[:-1], TINY)
    assert (found.value.step, found.value.good, found.value.rates) == (200, 0, ("discriminator_rate",))
    guards.check(won[-1], won[:-1], TINY.replace(weights={name: 0.0}))  # no one listens to it


# --- memory --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
@pytest.mark.parametrize("limit, advice", [(3, "`batch: 2` fits: set that"), (0, "set a smaller `batch` or `size`")])
def test_when_memory_runs_out_the_batch_that_fits_is_named(error, limit, advice, run, tmp_path, monkeypatch, face_set):
    profile = OFTEN.replace(batch=8)
    pretrain(profile, tmp_path, face_set, silent)
    call = TrainStep.__call__

    def small(self, photo, *others):
        if len(photo) > limit:
            raise error
        return call(self, photo, *others)

    monkeypatch.setattr(TrainStep, "__call__", small)
    with pytest.raises(InputError, match=f"drawn, full method: memory ran out with `batch: 8`; {advice} in the prof"):
        run(profile)


def test_when_memory_runs_out_in_a_start_with_a_batch_of_its_own_that_is_named(tmp_path, monkeypatch, face_set):
    def small(self, photo, structure):
        if len(photo) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {"anchor": torch.tensor(1.0)}

    monkeypatch.setattr(StartStep, "__call__", small)
    message = "structure start: memory ran out with `start_batch: 4`; `start_batch: 1` fits: set that"
    with pytest.raises(InputError, match=message):
        start(OFTEN.replace(start_steps=2, start_batch=4), tmp_path, face_set, silent)


def test_other_errors_are_not_taken_for_memory(run, monkeypatch):
    def broken(self, *_):
        raise RuntimeError("a defect")

    monkeypatch.setattr(TrainStep, "__call__", broken)
    with pytest.raises(RuntimeError, match="a defect"):
        run()


# --- disks ---------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_one_sentence_and_the_old_file_stays(tmp_path, monkeypatch):
    target = tmp_path / "metrics.json"
    target.write_text("old", encoding="utf-8")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=f"No space is left on the disk of {tmp_path}: free some"):
        files.write_atomic(target, "new")
    assert target.read_text(encoding="utf-8") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_a_disk_that_fills_up_while_training_loses_nothing(run, monkeypatch):
    write = files.write_atomic

    def full(path, content):
        if path.name.startswith("checkpoint-000006"):
            raise InputError("No space is left")
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_atomic", full)
        with pytest.raises(InputError, match="No space"):
            run()
    loaded = note_loaded(monkeypatch)
    assert isinstance(run(), Run) and loaded == [4]
