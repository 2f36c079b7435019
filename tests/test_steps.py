"""The step on a GPU that is not there, over several processes, and killed in the middle."""

import copy
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import weakref
from pathlib import Path

import conftest
import numpy as np
import pytest
import torch
from conftest import silent
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cartoonlib import landmarks, looks, losses, representations, superpixels
from cartoonlib.dataset.batches import Batches
from cartoonlib.device import Graphed
from cartoonlib.profile import Profile
from cartoonlib.runs import training
from cartoonlib.runs.store import Run
from cartoonlib.runs.training import train
from cartoonlib.step import PretrainStep, StartStep, TrainStep, _adam, _set_rate

TINY = conftest.TINY.replace(pretrain_steps=2, train_steps=4, checkpoint_every=2)


# --- nothing waits for the device --------------------------------------------------------------------------------


class BetweenDevices(TorchDispatchMode):
    """Notes every operation that touches two devices: a copy, for which the step would wait."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        tensors = [x for x in tree_leaves((arguments, options, result)) if isinstance(x, torch.Tensor)]
        if len({x.device.type for x in tensors}) > 1:
            self.seen.append(str(function))
        return result


def move(network: nn.Module, device: str) -> None:
    """Give every parameter and buffer a fake twin on a device; Module.to cannot."""
    for module in network.modules():
        for name, x in module._parameters.items():
            if x is not None:
                twin = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=device)
                module._parameters[name] = nn.Parameter(twin, requires_grad=x.requires_grad)
        for name, x in module._buffers.items():
            if x is not None:
                module._buffers[name] = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=device)


@pytest.fixture(params=["after a start", "without one"])
def fake_step(request):
    """A function that gives a step and its inputs as fake tensors: they have shape and device, and no values."""
    step = TrainStep(TINY.replace(step="eager"), training.make_accelerator(TINY))

    def move_to(device: str) -> tuple[TrainStep, tuple]:
        step.device = torch.device(device)
        trained = (step.generator, step.d_surface, step.d_texture, step.ema)
        for network in (*trained, step.perceptual, step.landmark_network):
            move(network, device)
        step.g_optimizer = _adam(1e-3, step.generator)
        step.d_optimizer = _adam(1e-3, step.d_surface, step.d_texture)
        photo = torch.empty(2, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
        batch = photo, torch.empty_like(photo), torch.empty(1, 3, 1, 1, device=device)
        if request.param == "after a start":
            batch += (torch.empty(2, 6, 32, 32, device=device).contiguous(memory_format=torch.channels_last),)
        return step, batch

    yield move_to
    for module in (landmarks, looks, losses, representations, superpixels):  # constants that were made as fake tensors
        for function in vars(module).values():
            getattr(function, "cache_clear", lambda: None)()


@pytest.fixture
def fake_gpu(monkeypatch):
    """Backward passes need a real driver: gradients appear without one; the test on the CPU runs them."""

    def backward(tensor):
        for network in networks:
            for parameter in network.parameters():
                parameter.grad = torch.empty_like(parameter)

    networks = []
    monkeypatch.setattr(torch.Tensor, "backward", backward)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 34, 1 << 34))
    return networks


@pytest.mark.filterwarnings("ignore:CUDA is not available")  # autocast
def test_a_step_on_the_gpu_copies_nothing_and_waits_for_nothing(fake_gpu, fake_step):
    """Fake tensors raise where a step asks for a value (.item(), nonzero, a mask) or mixes devices."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        step, inputs = fake_step("cuda")
        fake_gpu += [step.generator, step.d_surface, step.d_texture]
        step(*inputs)  # constants are copied once
        with BetweenDevices() as copies:
            values = step(*inputs)
    assert copies.seen == []
    assert len(values) == 11 and all(x.device.type == "cuda" and x.shape == () for x in values.values())


def test_a_backward_pass_depends_on_no_value(fake_step):
    with FakeTensorMode(allow_non_fake_inputs=True):
        step, inputs = fake_step("cpu")
        assert all(value.shape == () for value in step(*inputs).values())
        assert all(parameter.grad is not None for parameter in step.generator.parameters())


def test_batches_are_made_on_the_gpu_from_bytes_that_lie_there(fake_gpu, face_set):
    with FakeTensorMode(allow_non_fake_inputs=True):
        batches = Batches(face_set, 32, 4, seed=0, device="cuda")
        batches(0)
        with BetweenDevices() as copies:
            batch = batches(1)
    assert copies.seen == [] and batch.device.type == "cuda" and batch.shape == (4, 3, 32, 32)
    assert batches._store.dtype == torch.uint8


def test_bytes_on_the_device_give_the_same_batch(face_set):
    host = Batches(face_set, 32, 4, seed=0)
    device = Batches(face_set, 32, 4, seed=0)
    device._store = torch.from_numpy(face_set.part("train"))
    assert torch.equal(host(3), device(3))


# --- perceptual losses on a part of the batch --------------------------------------------------------------------


def test_the_perceptual_losses_look_at_every_nth_image(monkeypatch, faces_tensor):
    """With the losses of these images, and the other losses as they are."""
    seen = []
    structure = representations.structure

    def spied(images, *rest):
        seen.append(images)
        return structure(images, *rest)

    monkeypatch.setattr(representations, "structure", spied)
    photo = torch.cat([faces_tensor, faces_tensor.flip(-1)])[..., ::4, ::4].contiguous(
        memory_format=torch.channels_last
    )
    grey = torch.full((1, 3, 1, 1), 1 / 3)

    def losses_of(every, images):
        step = TrainStep(TINY.replace(perceptual_every=every), training.make_accelerator(TINY))
        return step(images, images, grey)

    whole, second, third, half = losses_of(1, photo), losses_of(2, photo), losses_of(3, photo), losses_of(1, photo[::2])
    assert [len(images) for images in seen] == [4, 2, 2, 2]
    assert torch.equal(seen[1], seen[0][::2]) and torch.equal(seen[2], seen[0][::3]) and len(third) == len(whole)
    for name in ("content", "structure"):
        assert second[name].item() == pytest.approx(half[name].item(), rel=1e-4) != whole[name].item()
    assert second["anchor"] == whole["anchor"] and second["landmark"] == whole["landmark"]


# --- the anchor and the features that the texture discriminator sees ------------------------------------------


@pytest.fixture
def one_step(faces_tensor, monkeypatch):
    """A function that makes one step from two faces: the step, what went through `early`, and the losses."""

    def run(side=32, **changes):
        step, seen = TrainStep(TINY.replace(size=side, **changes), training.make_accelerator(TINY)), []
        of = step.perceptual.early

        def early(images):
            seen.append(images)
            if images.requires_grad:
                images.retain_grad()
            return of(images)

        monkeypatch.setattr(step.perceptual, "early", early)
        photo = nn.functional.interpolate(faces_tensor, side, mode="area").contiguous(memory_format=torch.channels_last)
        expected = losses.anchor(step.generator(photo).detach(), photo)
        values = step(photo, photo.flip(-1), torch.tensor([0.5, 0.3, 0.2]).view(1, 3, 1, 1))
        assert values["anchor"].item() == pytest.approx(expected.item(), rel=1e-5)
        return step, seen, values

    return run


@pytest.mark.parametrize("side", [32, 45])
def test_the_generator_learns_through_frozen_features_of_the_grey_image(one_step, side):
    silent_losses = dict.fromkeys(("content", "anchor", "structure", "surface", "total_variation", "landmark"), 0.0)
    step, (fake, real), _ = one_step(side, weights=silent_losses)
    assert fake.grad.isfinite().all() and fake.grad.abs().max() > 0 and not real.requires_grad
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in step.d_texture.parameters())
    for images in (fake, real):
        assert images.shape[1] == 3 and torch.equal(images[:, :1].expand_as(images), images)
    assert all(p.grad is None for p in step.perceptual.parameters())


def test_without_features_the_texture_discriminator_sees_the_image_alone(one_step):
    step, seen, values = one_step(texture_features=False)
    assert not seen and step.d_texture.feature_layers is None and values["d_texture"].isfinite()


# --- the structure start --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(faces_tensor):
    """Two photos of 32 px, and themselves with masks and a line as their structures, both in channels_last."""
    photo = nn.functional.interpolate(faces_tensor, 32, mode="area")
    structure = torch.cat([photo, torch.full((2, 3, 32, 32), -1.0)], dim=1)
    structure[:, 3, 12:18, 8:24] = 1
    structure[:, 4, :, 26:28] = 1
    return tuple(x.contiguous(memory_format=torch.channels_last) for x in (photo, structure))


def start_step(**changes) -> tuple[StartStep, dict]:
    """A step of the structure start, and the state that it went on from."""
    profile = TINY.replace(start_steps=8, start_rate=2e-3, **changes)
    begun = PretrainStep(profile.replace(seed=5), training.make_accelerator(profile)).result.state_dict()
    begun = {key: value.clone() for key, value in begun.items()}
    return StartStep(profile, training.make_accelerator(profile), begun), begun


def test_the_structure_start_learns_the_drawing(pair):
    step, begun = start_step(look={"ink": 0.5, "width": 1.5})
    assert all(torch.equal(value, begun[key]) for key, value in step.generator.state_dict().items())
    with torch.no_grad():
        expected = losses.anchor(step.generator(pair[0]), looks.drawn(pair[1], step.profile.look))
    values = [step(*pair) for _ in range(12)]
    assert set(values[0]) == {"anchor"} and values[0]["anchor"].item() == pytest.approx(expected.item(), rel=1e-4)
    assert values[-1]["anchor"] < 0.6 * values[0]["anchor"] and not values[-1]["anchor"].requires_grad


def test_what_the_structure_start_keeps_is_an_average(pair):
    step, begun = start_step(ema=0.75)
    assert step.result is step.parts["ema"] is not step.generator and set(step.parts) == {
        "generator",
        "optimizer",
        "ema",
    }
    step(*pair)
    after, kept = step.generator.state_dict(), step.result.state_dict()
    for key, value in kept.items():
        assert torch.allclose(value, 0.75 * begun[key] + 0.25 * after[key], atol=1e-6)
    assert any(not torch.equal(kept[key], after[key]) for key in kept)
    assert all(p.grad is None and not p.requires_grad for p in step.result.parameters())
    pretraining = PretrainStep(TINY, training.make_accelerator(TINY))
    assert pretraining.result is pretraining.generator


def test_a_large_gradient_is_cut_in_the_structure_start_alone(pair, monkeypatch):
    def norm(step):
        return torch.stack([p.grad.norm() for p in step.generator.parameters()]).norm().item()

    def once(cut):
        monkeypatch.setattr("cartoonlib.step.CLIP", cut)
        start, pretraining = start_step()[0], PretrainStep(TINY, training.make_accelerator(TINY))
        start(*pair), pretraining(pair[0])
        return norm(start), norm(pretraining)

    (whole, plain), (cut, same) = once(1e6), once(1e-3)
    assert cut == pytest.approx(1e-3, rel=1e-3) and whole > 1e-2 and same == plain > 1e-2


def rates(*optimizers) -> list[float]:
    return [float(group["lr"]) for optimizer in optimizers for group in optimizer.param_groups]


@pytest.mark.parametrize("decay, shares", [(0.5, (1, 1, 0.5, 0)), (1.0, (1, 0.5, 0.25, 0)), (0.0, (1, 1, 1, 1))])
def test_rates_fall_to_nothing_in_the_last_part_of_a_run(decay, shares):
    start, _ = start_step(decay=decay)
    profile = TINY.replace(decay=decay, generator_rate=2e-4, discriminator_rate=6e-4)
    train = TrainStep(profile, training.make_accelerator(profile))
    for left, share in zip((1, 0.5, 0.25, 0), shares):
        start.anneal(left), train.anneal(left)
        assert rates(start.optimizer) == pytest.approx([2e-3 * share])
        assert rates(train.g_optimizer, train.d_optimizer) == pytest.approx([2e-4 * share, 6e-4 * share])


def test_a_step_at_no_rate_moves_nothing(pair):
    step, begun = start_step()
    step.anneal(0.0)
    step(*pair)
    assert all(torch.equal(value, begun[key]) for key, value in step.generator.state_dict().items())


def test_a_rate_that_lies_on_the_device_is_changed_in_place():
    """A CUDA graph reads it there: another tensor in its place would be another rate than that of the graph."""
    rate = torch.tensor(1e-3)
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=rate)
    _set_rate(optimizer, 2.5e-4)
    assert optimizer.param_groups[0]["lr"] is rate and rate.item() == pytest.approx(2.5e-4)


@pytest.mark.parametrize("started", [True, False])
def test_terms_hold_to_the_drawing_after_a_start_and_else_to_the_photo(pair, started, monkeypatch):
    seen = {}
    for name in ("anchor", "total_variation"):

        def spied(output, target, original=getattr(losses, name), name=name):
            seen[name] = target
            return original(output, target)

        monkeypatch.setattr(losses, name, spied)
    photo, structure = pair
    look = {"ink": 0.5, "lift": 0.4}
    step = TrainStep(TINY.replace(look=look, perceptual_every=1), training.make_accelerator(TINY))
    perceptual, targets = step.perceptual, []

    def watched(images):
        targets.append(images)
        return perceptual(images)

    watched.early = perceptual.early
    monkeypatch.setattr(step, "perceptual", watched)
    step(photo, photo.flip(-1), torch.full((1, 3, 1, 1), 1 / 3), *([structure] if started else []))
    expected = looks.drawn(structure, step.profile.look) if started else photo
    assert torch.equal(seen["anchor"], expected) and torch.equal(seen["total_variation"], expected)
    assert torch.equal(targets[0][:2], expected)


@pytest.mark.parametrize("name", ["tone", "gate"])
def test_what_was_added_is_used_where_the_profile_says_so(name, pair, monkeypatch):
    function, called = {"tone": "in_light_of", "gate": "gated"}[name], []

    def spied(images, photos, original=getattr(representations, function)):
        called.append((images, photos))
        return original(images, photos)

    monkeypatch.setattr(representations, function, spied)
    photo = pair[0]
    for on in (True, False):
        step = TrainStep(TINY.replace(**{name: on}), training.make_accelerator(TINY))
        step(photo, photo.flip(-1), torch.full((1, 3, 1, 1), 1 / 3))
        assert len(called) == 1  # once in the first of the two steps, and not in the second
    (images, photos) = called[0]
    assert torch.equal(photos, photo) and torch.equal(images, photo.flip(-1)) == (name == "tone")


def test_the_generator_learns_from_every_loss_by_its_weight(pair):
    """The total is their weighted sum, and each loss alone gives it a gradient; half the weight, half of that."""
    names, photo = losses_of(TINY), pair[0]

    def learn(weights: dict) -> tuple[dict, torch.Tensor]:
        step = TrainStep(TINY.replace(weights=weights), training.make_accelerator(TINY))
        terms = step(photo, photo.flip(-1), torch.full((1, 3, 1, 1), 1 / 3))
        return terms, torch.cat([p.grad.flatten() for p in step.generator.parameters()])

    weights = {name: 2.0**i for i, name in enumerate(names)}
    terms, _ = learn(weights)
    assert terms["total"].item() == pytest.approx(sum(weights[name] * terms[name].item() for name in names), rel=1e-5)
    for name in names:
        half, whole = (learn(dict.fromkeys(names, 0.0) | {name: weight})[1] for weight in (0.5, 1.0))
        assert half.abs().max() > 0 and torch.allclose(2 * half, whole, rtol=1e-3, atol=1e-3 * whole.abs().max().item())


def test_the_gate_is_before_the_texture_branch_alone(pair, monkeypatch):
    """With a gate that lets nothing pass, texture teaches nothing, and surface as much as before."""
    photo = pair[0]
    monkeypatch.setattr(representations, "gated", lambda images, photos: images.detach())
    for name, learns in (("texture", False), ("surface", True)):
        weights = dict.fromkeys(losses_of(TINY), 0.0) | {name: 1.0}
        step = TrainStep(TINY.replace(weights=weights), training.make_accelerator(TINY))
        step(photo, photo.flip(-1), torch.full((1, 3, 1, 1), 1 / 3))
        assert any(p.grad.abs().max() > 0 for p in step.generator.parameters()) == learns


def losses_of(profile: Profile) -> list[str]:
    return list(profile.weights.model_dump())


# --- CUDA graphs -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_a_graph_that_cannot_be_had_is_said_and_done_without():
    said = []
    step = TrainStep(TINY.replace(step="graph"), training.make_accelerator(TINY), progress=said.append)
    assert said == ["no CUDA graph, because there is no GPU: steps run one operation at a time"]
    assert step.execution == "eager"
    TrainStep(TINY, training.make_accelerator(TINY), progress=said.append)  # auto does not complain
    assert len(said) == 1


def run_steps(profile, sets, count=8):
    """A step after some calls, its batches, and the losses of these calls."""
    accelerator = training.make_accelerator(profile)
    step = TrainStep(profile, accelerator, progress=print)
    batches = training.TrainBatches(profile, *sets, accelerator, silent)
    rows = []
    for i in range(count):
        step.anneal(1 - i / count)
        rows.append(torch.stack(list(step(*batches(i)).values())).clone())
    return step, batches, torch.stack(rows)


@pytest.mark.gpu
@pytest.mark.parametrize("start_steps", [0, 1])
def test_a_cuda_graph_does_what_the_eager_step_does(start_steps, face_set, cartoon_set, processed):
    """From the same weights: a GPU adds in any order, and Adam's first steps make whole steps of rounding."""
    step, batches, _ = run_steps(TINY.replace(start_steps=start_steps), (face_set, cartoon_set))
    assert step.execution == "CUDA graph"
    networks = [part for part in step.parts.values() if isinstance(part, nn.Module)]
    weights = [copy.deepcopy(network.state_dict()) for network in networks]
    batch = batches(99)
    assert len(batch) == 3 + start_steps
    replayed = {name: value.clone() for name, value in step(*batch).items()}
    moved = [copy.deepcopy(network.state_dict()) for network in networks]
    for network, before in zip(networks, weights):
        network.load_state_dict(before)  # in place, where the graph has it
    eager = step._update(*batch)
    assert all(torch.allclose(value, eager[name], rtol=0.01, atol=1e-4) for name, value in replayed.items())

    def replay(left):
        """How far the generator's first weights go in a replay at a rate."""
        networks[0].load_state_dict(moved[0])
        step.anneal(left)
        step(*batch)
        return max((value - moved[0][key]).abs().max().item() for key, value in networks[0].state_dict().items())

    assert replay(0.0) == 0 < replay(1.0)  # the graph reads the rate anew each time


def test_a_capture_that_fails_is_said_and_the_step_goes_on(monkeypatch, face_set, cartoon_set, processed):
    """On the CPU with a graph that cannot be captured: the same numbers as without one."""

    class Broken:
        def __init__(self, graph):
            pass

        def __enter__(self):
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(TrainStep, "_can_graph", lambda self, *_: self.profile.step != "eager")
    monkeypatch.setattr(Graphed, "_before_capture", lambda self, function, *inputs: function(*inputs))
    streams = []
    for name in ("Stream", "CUDAGraph"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "the one before")
    monkeypatch.setattr(torch.cuda, "set_stream", streams.append)
    monkeypatch.setattr("cartoonlib.step._adam", lambda *arguments, capturable=False, adam=_adam: adam(*arguments))
    monkeypatch.setattr(torch.cuda, "graph", Broken)
    said = []
    monkeypatch.setattr("builtins.print", said.append)
    started = TINY.replace(start_steps=1)
    broken, _, values = run_steps(started, (face_set, cartoon_set), 6)
    _, _, expected = run_steps(started.replace(step="eager"), (face_set, cartoon_set), 6)
    assert torch.equal(values, expected) and broken.execution == "eager"
    assert len(said) == 1 and "operation not permitted" in said[0] and "\n" not in said[0]
    assert streams == ["the one before"]


def test_a_step_that_is_let_go_is_gone_at_once():
    """It holds no reference to itself: its memory would stay beside that of the next attempt, or of a smaller batch."""
    accelerator = training.make_accelerator(TINY)
    gc.disable()
    try:
        step = TrainStep(TINY, accelerator)
        gone = weakref.ref(step)
        del step
        assert gone() is None
    finally:
        gc.enable()


# --- several processes, and kills --------------------------------------------------------------------------------

JOB = """
import json, os, signal, sys
import numpy as np, torch
from cartoonlib.dataset.prepare import ImageSet
from cartoonlib.profile import profile_of
from cartoonlib.runs import training
from cartoonlib.runs.parallel import leave_the_others
torch.set_num_threads(1)

def image_set(kind):
    images, split = np.load(f"{kind}.npy"), json.load(open(f"{kind}.json"))
    points = np.full((len(images), 5, 2), np.nan, np.float32)
    return ImageSet(kind, kind, kind, "", images, points, [{"split": s} for s in split], [], f"hash of {kind}")

settings, runs, kill_at = json.loads(sys.argv[1]), training.Path(sys.argv[2]), int(sys.argv[3])
step_of, calls = torch.optim.Adam.step, []

def step(self, *arguments):
    calls.append(1)
    if len(calls) == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    return step_of(self, *arguments)

torch.optim.Adam.step = step
sets = image_set("faces"), image_set("cartoons")
training.train(profile_of(settings), runs, *sets, "drawn", progress=lambda line: None)
if torch.distributed.is_initialized():
    leave_the_others()
"""


@pytest.fixture
def job(tmp_path, face_set, cartoon_set):
    """Run a training in processes of its own; `kill_at`: the optimizer step in which each is killed (signal 9)."""
    for kind, images in (("faces", face_set), ("cartoons", cartoon_set)):
        np.save(tmp_path / f"{kind}.npy", images.images)
        (tmp_path / f"{kind}.json").write_text(json.dumps(list(images.split)), encoding="utf-8")
    (tmp_path / "job.py").write_text(JOB, encoding="utf-8")

    def run(profile: Profile, runs: Path, processes: int = 1, kill_at: int = 0) -> int:
        launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
        launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
        launch += ["--main_process_port", "0"]
        settings = json.dumps(profile.model_dump())
        command = [sys.executable, *(launch if processes > 1 else []), "job.py", settings, str(runs), str(kill_at)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(command, cwd=tmp_path, env=environment, timeout=240).returncode

    return run


def distance(a: dict, b: dict, start: dict) -> float:
    """How far two trained generators are from each other, of the way that the first has gone."""
    flat = [torch.cat([state[key].flatten() for key in a]) for state in (a, b, start)]
    return float((flat[0] - flat[1]).norm() / (flat[0] - flat[2]).norm())


def test_a_run_killed_in_mid_step_goes_on_to_the_same_bits(job, tmp_path, face_set, cartoon_set):
    """Optimizer steps: 2 of pretraining, then 2 per step; the 9th is the generator's in step 4, after a checkpoint."""
    whole = train(TINY, tmp_path / "whole", face_set, cartoon_set, "drawn", progress=silent)
    assert job(TINY, tmp_path / "killed", kill_at=10) == -signal.SIGKILL  # generator updated, discriminators not
    (folder,) = (tmp_path / "killed").glob("drawn-*")
    assert [path.name.split("-")[1] for path in folder.glob("checkpoint-*")] == ["000002"]
    assert job(TINY, tmp_path / "killed") == 0
    resumed = Run.open(folder)
    assert resumed.folder.name == whole.folder.name
    name = "generator.safetensors"
    assert (folder / name).read_bytes() == (whole.folder / name).read_bytes()
    rows = [[row | {"seconds": 0} for row in run.log()] for run in (resumed, whole)]
    assert rows[0] == rows[1]


def test_two_processes_are_one_with_the_doubled_batch(job, tmp_path, face_set, cartoon_set):
    """Two processes of 2 photos each, killed in step 4 and resumed as two and as one, against one process with 4.

    Sums are rounded in another order, which now and then gives a pixel to another superpixel; Adam's first steps are
    as long for small gradients as for large ones. That makes 0.06; gradients that are not averaged make 0.9.
    """
    profile = TINY.replace(batch=4, processes=2, output_radius=1)  # the filter evens out what rounding moves
    whole = train(profile, tmp_path / "one", face_set, cartoon_set, "drawn", progress=silent)
    assert job(profile, tmp_path / "two", processes=2, kill_at=10) != 0
    assert list((tmp_path / "two").glob("drawn-*/checkpoint-*"))
    shutil.copytree(tmp_path / "two", tmp_path / "fewer")
    assert job(profile, tmp_path / "two", processes=2) == 0
    train(profile, tmp_path / "fewer", face_set, cartoon_set, "drawn", progress=silent)
    (start,) = (tmp_path / "one").glob("pretrain-*")
    start = Run.open(start).generator().state_dict()
    for name in ("two", "fewer"):
        run = Run.open(tmp_path / name / whole.folder.name)
        assert distance(whole.generator().state_dict(), run.generator().state_dict(), start) < 0.15
        for row, expected in zip(run.log(), whole.log(), strict=True):
            assert row | {"seconds": 0} == pytest.approx(expected | {"seconds": 0}, rel=0.01)
        assert not list(run.folder.glob(".*"))
    assert Run.open(tmp_path / "two" / whole.folder.name).summary["processes"] == 2
