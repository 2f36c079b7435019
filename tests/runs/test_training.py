"""Training on a handful of 32 px pictures: resuming, guards, what is written, and where gradients flow."""

import hashlib
import json
import math
import os

import numpy as np
import pytest
import torch
from conftest import TINY, silent
from safetensors import safe_open

from cartoonlib import features, losses
from cartoonlib.dataset.batches import Batches
from cartoonlib.device import pick_dtype
from cartoonlib.files import InputError
from cartoonlib.images import center_crop
from cartoonlib.networks import Generator, count_parameters, load_generator
from cartoonlib.profile import LOSSES
from cartoonlib.report import metrics
from cartoonlib.runs import store
from cartoonlib.runs.guards import TrainingStopped
from cartoonlib.runs.loop import Loop
from cartoonlib.runs.store import Run
from cartoonlib.runs.training import TrainBatches, make_accelerator, pretrain, start, train
from cartoonlib.step import PretrainStep, StartStep, TrainStep, build_generator

STARTED = TINY.replace(start_steps=5, start_rate=1e-4)


@pytest.fixture(autouse=True)
def structures_lie_elsewhere(processed):
    pass


def log_without_seconds(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def snapshot(folder):
    return {str(p): (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(folder.rglob("*")) if p.is_file()}


def break_at(monkeypatch, step: int, channels: int = 3):
    """Training stops short when it asks for the photos of this step, as if Ctrl-C had been pressed.

    channels: 4 waits for structures instead, which pretraining has none of.
    """
    batches = Batches.__call__

    def interrupted(self, at):
        if at == step and self._images.shape[-1] == channels:
            raise KeyboardInterrupt
        return batches(self, at)

    monkeypatch.setattr(Batches, "__call__", interrupted)


def keep_checkpoints(monkeypatch) -> list[dict]:
    """The state of both networks and optimizers when a loop ends, which finish() throws away."""
    states = []
    finish = Loop.finish

    def finish_and_keep(self, *arguments, **about):
        states.append({name: part.state_dict() for name, part in self.parts.items()})
        return finish(self, *arguments, **about)

    monkeypatch.setattr(Loop, "finish", finish_and_keep)
    return states


def assert_equal(a, b, path="state"):
    assert type(a) is type(b), path
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_equal(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, (list, tuple)):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{path}[{i}]")
    else:
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, path


@pytest.fixture(scope="module")
def finished(tmp_path_factory, face_set, cartoon_set):
    """Runs that nobody interrupted, by precision: (folder of runs, run, final state of everything)."""
    made = {}

    def get(precision: str):
        if precision not in made:
            folder = tmp_path_factory.mktemp(precision)
            profile = STARTED.replace(precision=precision)
            with pytest.MonkeyPatch.context() as monkeypatch:
                states = keep_checkpoints(monkeypatch)
                run = train(profile, folder, face_set, cartoon_set, "drawn", progress=silent)
            made[precision] = folder, run, states
        return made[precision]

    return get


# --- resuming ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_a_killed_run_goes_on_to_the_same_bits(precision, finished, tmp_path, monkeypatch, face_set, cartoon_set):
    """Killed at step 5 of 6 of pretraining, at step 4 of 5 of the start and at step 7 of 8 of training.

    Checkpoints: 3, 6; log lines: 2, 4, 6, 8.
    """
    _, whole, states = finished(precision)
    profile = STARTED.replace(precision=precision)

    def again():
        return train(profile, tmp_path, face_set, cartoon_set, "drawn", progress=silent)

    with monkeypatch.context() as patch:
        break_at(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            again()
    (killed,) = tmp_path.glob("[!.]*")
    assert list(killed.glob("checkpoint-*")) and not (killed / "summary.json").exists()
    for ends, channels, first in ((4, 6, [3, 4, 5]), (7, 3, [3, 3, 4, 4])):  # of the start: photos and structures
        with monkeypatch.context() as patch:
            count_steps(patch, steps_done := [])
            break_at(patch, ends, channels)
            with pytest.raises(KeyboardInterrupt):
                again()
        assert steps_done[: len(first)] == first  # it went on after the checkpoint and did not begin anew
    (started,) = tmp_path.glob("start-*")
    assert (started / "summary.json").exists() and len(states) == 3
    with monkeypatch.context() as patch:
        count_steps(patch, steps_done := [])
        resumed_states = keep_checkpoints(patch)
        run = again()
    assert sorted(set(steps_done)) == [6, 7]
    assert len(resumed_states) == 1
    assert_equal(resumed_states[-1], states[-1])  # generator, both discriminators, EMA, both optimizers
    assert run.folder.name == whole.folder.name
    name = "generator.safetensors"
    assert (run.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    assert (started / name).read_bytes() == (whole.folder.parent / started.name / name).read_bytes()
    for folder in (run.folder, started, killed):
        original = whole.folder.parent / folder.name
        log = log_without_seconds(folder)
        assert log == log_without_seconds(original)
        assert [row["step"] for row in log] == sorted({row["step"] for row in log})
    assert {p.name for p in run.folder.iterdir()} == {name, "metrics.jsonl", "summary.json", "samples"}
    assert sorted(run.samples()) == list(range(9))
    assert all(np.array_equal(image, whole.samples()[step]) for step, image in run.samples().items())


def count_steps(monkeypatch, steps: list):
    batches = Batches.__call__

    def counted(self, step):
        steps.append(step)
        return batches(self, step)

    monkeypatch.setattr(Batches, "__call__", counted)


def test_a_finished_run_returns_at_once_and_touches_nothing(finished, face_set, cartoon_set, monkeypatch):
    folder, run, _ = finished("fp32")
    before = snapshot(folder)
    monkeypatch.setattr(Batches, "__call__", None)  # would fail if anything were trained
    again = train(STARTED, folder, face_set, cartoon_set, "drawn", progress=silent)
    other_logs = train(STARTED.replace(log_every=5), folder, face_set, cartoon_set, "drawn", progress=silent)
    assert again.folder == other_logs.folder == run.folder and again.summary == run.summary
    begun = start(STARTED, folder, face_set, silent)
    assert begun.summary["title"] == "structure start" and begun.folder.name.startswith("start-")
    assert snapshot(folder) == before


def test_a_run_of_older_code_is_used_and_said_to_be_so(finished, face_set, cartoon_set, monkeypatch):
    folder, run, _ = finished("fp32")
    monkeypatch.setattr(store, "code_hash", lambda: "newer")
    lines = []
    assert train(STARTED, folder, face_set, cartoon_set, "drawn", progress=lines.append).folder == run.folder
    assert len(lines) == 1 and "another version" in lines[0] and str(run.folder) in lines[0]


def test_what_names_a_run(tmp_path, monkeypatch, face_set, cartoon_set):
    """Another seed, weight or style is another run; rows that differ in loss weights share their pretraining."""
    monkeypatch.setattr(Run, "find", lambda folder, _progress: folder.name)  # names only
    others = TINY.replace(seed=1), TINY.replace(weights={"content": 0.0})
    runs = [(TINY, "drawn"), *((profile, "drawn") for profile in others), (TINY, "other")]
    names = {train(profile, tmp_path, face_set, cartoon_set, style, progress=silent) for profile, style in runs}
    assert len(names) == 4
    base = pretrain(TINY, tmp_path, face_set, silent)
    same = TINY.replace(weights={"content": 0.0, "texture": 3.0}, segments=9, ema=0.9)
    assert pretrain(same, tmp_path, face_set, silent) == base
    changes = [{"seed": 1}, {"skips": False}, {"slope": 0.1}, {"batch": 3}, {"pretrain_steps": 5}]
    others = {pretrain(TINY.replace(**change), tmp_path, face_set, silent) for change in changes}
    assert len(others | {base}) == 6
    looks = {"look": {"ink": 0.1}, "start_steps": 3, "start_rate": 0.1, "decay": 0.1}
    assert pretrain(TINY.replace(**looks), tmp_path, face_set, silent) == base


def test_a_start_is_shared_by_rows_of_one_look(tmp_path, monkeypatch, face_set):
    """Those that differ in weights and in what training alone looks at; none without a start of its own settings."""
    monkeypatch.setattr(Run, "find", lambda folder, _progress: folder.name)  # names only

    def name(**changes):
        return start(STARTED.replace(**changes), tmp_path, face_set, silent)

    same = {"weights": {"anchor": 0.0}, "segments": 9, "tone": False, "gate": False, "train_steps": 3}
    assert name(**same, discriminator_rate=1e-3, log_every=9) == name() != pretrain(STARTED, tmp_path, face_set, silent)
    own = [{"ink": 0.1}, {"flatten": 0.1}, {"flow": 3.0}, {"lift": 0.1}, {"vivid": 2.0}, {"width": 2.0}]
    changes = [{"look": look} for look in (*own, {"coloured": 0.5}, {"flow": 2.0}, {"shade": 0.1}, {"warmth": 0.1})]
    changes += [{"start_steps": 6}, {"start_rate": 0.1}, {"decay": 0.1}, {"ema": 0.9}, {"output_eps": 0.1}]
    changes += [{"output_radius": 1}, {"seed": 1}, {"pretrain_steps": 5}, {"start_batch": 2}]
    assert len({name(), *(name(**change) for change in changes)}) == 1 + len(changes)
    assert name(start_steps=0) == pretrain(STARTED, tmp_path, face_set, silent)


@pytest.mark.parametrize("own, sizes", [(1, [2, 1, 2]), (0, [2, 2, 2])])
def test_the_start_alone_has_a_batch_of_its_own(own, sizes, tmp_path, monkeypatch, face_set, cartoon_set):
    seen = {}
    for kind in (PretrainStep, StartStep, TrainStep):

        def noted(self, photo, *others, kind=kind, call=kind.__call__):
            seen.setdefault(kind, set()).add(len(photo))
            return call(self, photo, *others)

        monkeypatch.setattr(kind, "__call__", noted)
    train(STARTED.replace(start_batch=own), tmp_path, face_set, cartoon_set, "drawn", progress=silent)
    assert [seen[kind] for kind in (PretrainStep, StartStep, TrainStep)] == [{size} for size in sizes]


def test_no_steps_of_the_start_give_the_pretraining(tmp_path, face_set):
    run = start(TINY, tmp_path, face_set, silent)
    assert run.summary["title"] == "pretraining" and run.folder == store.pretrain_folder(TINY, tmp_path, face_set)
    assert not list(tmp_path.glob("start-*"))
    assert start(TINY, tmp_path, face_set, silent).summary == pretrain(TINY, tmp_path, face_set, silent).summary


def test_training_goes_on_from_the_start(finished, face_set):
    """Its first watched pictures are those of the generator that the start has left, which is an average."""
    folder, run, states = finished("fp32")
    begun = start(STARTED, folder, face_set, silent)
    first = metrics.generate(begun.generator(), center_crop(face_set.part("test"), 32))
    assert abs(run.samples()[0].astype(int) - first).max() <= 1
    kept = begun.generator().state_dict()
    assert all(torch.equal(kept[key], states[1]["ema"][key]) for key in kept)
    assert any(not torch.equal(kept[key], states[1]["generator"][key]) for key in kept)
    assert [row["step"] for row in begun.log()] == [2, 4, 5] and set(begun.log()[0]) == {"anchor", "step", "seconds"}
    pretrained = pretrain(STARTED, folder, face_set, silent).generator().state_dict()
    assert any(not torch.equal(kept[key], pretrained[key]) for key in kept)


@pytest.mark.parametrize("decay", [0.5, 0.0])
def test_rates_of_every_stage_but_the_first_fall(decay, tmp_path, monkeypatch, face_set, cartoon_set):
    rates, step_of = [], torch.optim.Adam.step

    def recorded(self, *arguments):
        rates.append(self.param_groups[0]["lr"])
        return step_of(self, *arguments)

    monkeypatch.setattr(torch.optim.Adam, "step", recorded)
    p = STARTED.replace(decay=decay, pretrain_steps=2, start_steps=4, train_steps=4)
    train(p, tmp_path, face_set, cartoon_set, "drawn", progress=silent)
    shares = [1, 1, 1, 0.5] if decay else [1] * 4  # before the last step a quarter is left, half of `decay`
    pairs = [[p.generator_rate * share, p.discriminator_rate * share] for share in shares]
    expected = [p.generator_rate] * 2 + [p.start_rate * share for share in shares] + sum(pairs, [])
    assert rates == pytest.approx(expected)


def test_batches_have_structures_after_a_start_alone(face_set, cartoon_set):
    accelerator = make_accelerator(TINY)
    for start_steps in (0, 5):
        batch = TrainBatches(TINY.replace(start_steps=start_steps), face_set, cartoon_set, accelerator, silent)(3)
        assert [tuple(x.shape) for x in batch[:3]] == [(2, 3, 32, 32)] * 2 + [(1, 3, 1, 1)]
        assert len(batch) == (4 if start_steps else 3)
    photo, structure = batch[0], batch[3]
    assert structure.shape == (2, 6, 32, 32)
    for one, flat in zip(photo, structure[:, :3]):  # cut, turned and lit alike
        assert np.corrcoef(one.flatten(), flat.flatten())[0, 1] > 0.9


def test_a_checkpoint_holds_everything_and_nothing_that_runs_code(tmp_path, monkeypatch, face_set, cartoon_set):
    break_at(monkeypatch, 7)
    with pytest.raises(KeyboardInterrupt):
        train(TINY.replace(pretrain_steps=2), tmp_path, face_set, cartoon_set, "drawn", progress=silent)
    path, state = newest_checkpoint(tmp_path)
    assert path.stem.split("-")[2] == hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    assert {"generator", "d_surface", "d_texture", "ema", "g_optimizer", "d_optimizer", "step", "seconds"} <= set(state)
    assert state["step"] == 6
    assert all(entry["step"] == 6 for entry in state["g_optimizer"]["state"].values())
    assert len(state["d_optimizer"]["state"]) == 2 * (7 + 7 + 3)  # weight and bias: both, and the head on features
    assert any(not torch.equal(state["generator"][k], state["ema"][k]) for k in state["generator"])


def test_a_kill_while_a_checkpoint_is_written_leaves_the_old_one(tmp_path, monkeypatch, face_set):
    replace, saved = os.replace, []

    def killed(source, target):
        if target.name.startswith("checkpoint-"):
            saved.append(target)
            if len(saved) == 2:
                raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        pretrain(TINY.replace(checkpoint_every=2), tmp_path, face_set, silent)
    assert newest_checkpoint(tmp_path, "pretrain")[1]["step"] == 2
    assert sorted(p.name for p in saved[0].parent.iterdir()) == [saved[0].name, "metrics.jsonl"]


def newest_checkpoint(runs, name="drawn"):
    """(path, state) of the last checkpoint of a run of that name."""
    path = max(runs.glob(f"{name}-*/checkpoint-*.pt"))
    return path, torch.load(path, weights_only=True)


def test_a_folder_without_a_finished_run_says_so(tmp_path):
    with pytest.raises(InputError, match="no finished run"):
        Run.open(tmp_path)


# --- what comes out ----------------------------------------------------------------------------------------------


def test_the_faces_that_are_watched_can_be_others(tmp_path, face_set, cartoon_set):
    watched = face_set.images[:3, :32, :32]
    run = train(TINY, tmp_path, face_set, cartoon_set, "drawn", progress=silent, watched=watched)
    assert [len(images) for images in run.samples().values()] == [3] * len(run.samples())
    first = metrics.generate(pretrain(TINY, tmp_path, face_set, silent).generator(), watched)
    assert abs(run.samples()[0].astype(int) - first).max() <= 1


def test_what_a_run_leaves(finished, face_set, cartoon_set):
    folder, run, _ = finished("fp32")
    generator = load_generator(run.folder / "generator.safetensors")
    settings = {"slope": 0.2, "tanh": False, "skips": True, "padding": "replicate"}
    assert generator.settings() == settings | {"filter_eps": 4e-3, "filter_radius": 0}
    assert not generator.training and count_parameters(generator) == 0
    with safe_open(run.folder / "generator.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["about"])["title"] == "drawn, full method"
    summary = json.loads((run.folder / "summary.json").read_text(encoding="utf-8"))
    assert Run.open(run.folder).summary == summary == run.summary
    assert (summary["steps"], summary["dtype"]) == (8, "torch.float32")
    assert summary["data"] == [face_set.hash, cartoon_set.hash]
    assert [row["step"] for row in run.log()] == [2, 4, 6, 8]
    for row in run.log():
        assert set(row) == {*losses_of_a_row(), "step", "seconds"}
        assert all(math.isfinite(value) for value in row.values())
    assert sorted(run.samples()) == list(range(9))
    assert all(images.shape == (2, 32, 32, 3) and images.dtype == np.uint8 for images in run.samples().values())


def losses_of_a_row():
    names = "content anchor structure surface texture total_variation landmark total d_surface d_texture contrast"
    return names.split()


def test_a_style_trains_with_its_own_settings(tmp_path, face_set, cartoon_set):
    own = {"train_steps": 2, "weights": {"content": 0.0, "texture": 0.5}}
    profile = TINY.replace(style_settings={"drawn": own})
    run, plain = (
        train(p, tmp_path, face_set, cartoon_set, "drawn", progress=silent)
        for p in (profile, TINY.replace(**own, style_settings={}))
    )
    assert run.folder == plain.folder == store.train_folder(profile, tmp_path, face_set, cartoon_set, "drawn")
    assert run.summary["steps"] == 2
    (row,) = run.log()
    weights = profile.of("drawn").weights
    assert row["total"] == pytest.approx(sum(getattr(weights, key) * row[key] for key in LOSSES), rel=1e-4)
    folders = [store.train_folder(p, tmp_path, face_set, cartoon_set, "other") for p in (profile, TINY)]
    assert folders[0] == folders[1]


def test_the_averaged_generator_is_the_one_that_is_kept(finished):
    _, run, states = finished("fp32")
    kept = run.generator().state_dict()
    assert all(torch.equal(kept[name], states[-1]["ema"][name]) for name in kept)
    assert any(not torch.equal(kept[name], states[-1]["generator"][name]) for name in kept)


def test_the_total_is_the_weighted_sum(finished):
    _, run, _ = finished("fp32")
    row = run.log()[-1]
    weighted = sum(getattr(TINY.weights, name) * row[name] for name in losses_of_a_row()[:7])
    assert row["total"] == pytest.approx(weighted, rel=1e-4)


def test_precision(finished):
    assert pick_dtype(TINY, torch.device("cpu")) == torch.float32
    assert pick_dtype(TINY.replace(precision="bf16"), torch.device("cpu")) == torch.bfloat16
    _, full, _ = finished("fp32")
    _, auto, _ = finished("auto")
    assert auto.summary["dtype"] == str(pick_dtype(TINY.replace(precision="auto"), torch.device("cpu")))
    for name in ("content", "anchor", "landmark", "surface"):  # the same training, to bf16's three digits
        assert auto.log()[0][name] == pytest.approx(full.log()[0][name], rel=0.1)


def test_pretraining_learns(tmp_path, face_set):
    run = pretrain(TINY.replace(pretrain_steps=60, generator_rate=1e-3, log_every=10), tmp_path, face_set, silent)
    values = [row["pixel_l1"] for row in run.log()]
    assert values[-1] < 0.6 * values[0]


def test_training_without_pretraining_is_possible(tmp_path, face_set):
    run = pretrain(TINY.replace(pretrain_steps=0), tmp_path, face_set, silent)
    untrained = build_generator(TINY).state_dict()
    assert run.log() == [] and all(torch.equal(v, untrained[k]) for k, v in run.generator().state_dict().items())


def test_progress_shows_step_and_time_left(tmp_path, face_set):
    lines = []
    pretrain(TINY, tmp_path, face_set, lines.append)
    assert lines[-1].startswith("pretraining: step 6/6, 0.0 min left") and len(lines) <= 6


# --- guards ------------------------------------------------------------------------------------------------------


def spoil(monkeypatch, from_call: int, value: float):
    """The anchor is not a number from a certain step on."""
    anchor, calls = losses.anchor, []

    def spoiled(*arguments):
        calls.append(1)
        return anchor(*arguments) * (value if len(calls) > from_call else 1)

    monkeypatch.setattr(losses, "anchor", spoiled)


@pytest.mark.parametrize("first_bad", [4, 5, 6])  # between two logs, between checkpoint and log, right after both
def test_a_loss_that_is_no_number_stops_the_run(first_bad, tmp_path, monkeypatch, face_set, cartoon_set):
    profile = TINY.replace(log_every=4, checkpoint_every=3, pretrain_steps=2)
    with monkeypatch.context() as patch:
        spoil(patch, first_bad, math.nan)
        with pytest.raises(TrainingStopped, match="drawn.*the loss \\w+ is not a finite number") as error:
            train(profile, tmp_path, face_set, cartoon_set, "drawn", progress=silent)
    assert "\n" not in str(error.value)
    _, state = newest_checkpoint(tmp_path)
    assert state["step"] == (3 if first_bad < 6 else 6)
    assert all(tensor.isfinite().all() for tensor in state["generator"].values())
    train(profile, tmp_path, face_set, cartoon_set, "drawn", progress=silent)  # goes on from there once it is mended


@pytest.mark.parametrize("optimizer", [0, 1], ids=["generator", "discriminators"])
def test_bad_weights_do_not_overwrite_a_good_checkpoint(optimizer, tmp_path, monkeypatch, face_set, cartoon_set):
    """A finite loss whose gradient is not: the weights are bad one step before a loss shows it."""
    step_of = torch.optim.Adam.step
    steps = []

    def step(self, *arguments):
        step_of(self, *arguments)
        steps.append(1)
        if len(steps) == 2 * 4 - 1 + optimizer:  # at the end of the fourth step, whose losses were finite
            self.param_groups[0]["params"][0].data.fill_(math.inf)

    profile = TINY.replace(checkpoint_every=2, log_every=3, pretrain_steps=0)
    monkeypatch.setattr(torch.optim.Adam, "step", step)
    with pytest.raises(TrainingStopped, match="drawn.*step 6.*not a finite number"):
        train(profile, tmp_path, face_set, cartoon_set, "drawn", progress=silent)
    assert newest_checkpoint(tmp_path)[1]["step"] == 2


def test_a_flat_picture_stops(tmp_path, monkeypatch, face_set, cartoon_set):
    pretrain(TINY, tmp_path, face_set, silent)
    forward = Generator.forward
    monkeypatch.setattr(Generator, "forward", lambda self, x: forward(self, x) * 0.05)
    with pytest.raises(TrainingStopped, match="collapsed to a flat picture.*Pretrain longer") as error:
        train(TINY, tmp_path, face_set, cartoon_set, "drawn", progress=silent)
    assert "\n" not in str(error.value) and issubclass(TrainingStopped, InputError)
    assert not list(tmp_path.glob("drawn-*/summary.json"))


# --- gradients ---------------------------------------------------------------------------------------------------


def leaves(tensor: torch.Tensor) -> set[int]:
    """Ids of the parameters that a backward pass from here would reach."""
    found, seen, stack = set(), set(), [tensor.grad_fn]
    while stack:
        function = stack.pop()
        if function is None or function in seen:
            continue
        seen.add(function)
        if hasattr(function, "variable"):
            found.add(id(function.variable))
        stack += [following for following, _ in function.next_functions]
    return found


def test_each_update_reaches_its_own_networks_only(tmp_path, monkeypatch, face_set, cartoon_set):
    """The original's discriminator updates send gradients through the generator, and VGG19's weights collect them."""
    networks, reached, frozen = {}, {}, []
    begin = Loop.__init__

    def init(self, *arguments):
        begin(self, *arguments)
        networks.update({name: part for name, part in self.parts.items() if isinstance(part, torch.nn.Module)})

    monkeypatch.setattr(Loop, "__init__", init)
    for name in ("content", "structure", "anchor", "total_variation", "landmark", "surface", "texture",
                 "discriminator"):  # fmt: skip

        def spied(*arguments, original=getattr(losses, name), name=name):
            value = original(*arguments)
            reached.setdefault(name, []).append(leaves(value))
            return value

        monkeypatch.setattr(losses, name, spied)
    perceptual = features.PERCEPTUAL["efficientnet_lite0"]

    def build():
        frozen.append(perceptual())
        return frozen[-1]

    monkeypatch.setitem(features.PERCEPTUAL, "efficientnet_lite0", build)
    train(TINY.replace(train_steps=1, pretrain_steps=1), tmp_path, face_set, cartoon_set, "drawn", progress=silent)
    of = {name: {id(p) for p in networks[name].parameters()} for name in ("generator", "d_surface", "d_texture")}
    assert reached.pop("discriminator") == [of["d_surface"], of["d_texture"]]
    assert len(reached) == 7 and all(ids == of["generator"] for calls in reached.values() for ids in calls)
    assert all(p.grad is None for p in frozen[0].parameters()) and not frozen[0].training
