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

from cartoonlib import landmarks, losses, representations, superpixels
from cartoonlib.dataset.batches import Batches
from cartoonlib.device import Graphed
from cartoonlib.profile import Profile
from cartoonlib.runs import training
from cartoonlib.runs.store import Run
from cartoonlib.runs.training import train
from cartoonlib.step import TrainStep, _adam

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


@pytest.fixture
def fake_step():
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
        return step, (photo, torch.empty_like(photo), torch.empty(1, 3, 1, 1, device=device))

    yield move_to
    for module in (landmarks, losses, superpixels):  # constants that were made as fake tensors
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
    assert second["color"] == whole["color"] and second["landmark"] == whole["landmark"]


# --- the colour term and the features that the texture discriminator sees ------------------------------------------


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
        expected = losses.color(step.generator(photo).detach(), photo, step.profile.color_grade)
        values = step(photo, photo.flip(-1), torch.tensor([0.5, 0.3, 0.2]).view(1, 3, 1, 1))
        assert values["color"].item() == pytest.approx(expected.item(), rel=1e-5)
        return step, seen, values

    return run


@pytest.mark.parametrize("side", [32, 45])
def test_the_generator_learns_through_frozen_features_of_the_grey_image(one_step, side):
    silent_losses = dict.fromkeys(("content", "color", "structure", "surface", "total_variation", "landmark"), 0.0)
    step, (fake, real), _ = one_step(side, weights=silent_losses)
    assert fake.grad.isfinite().all() and fake.grad.abs().max() > 0 and not real.requires_grad
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in step.d_texture.parameters())
    for images in (fake, real):
        assert images.shape[1] == 3 and torch.equal(images[:, :1].expand_as(images), images)
    assert all(p.grad is None for p in step.perceptual.parameters())


def test_without_features_the_texture_discriminator_sees_the_image_alone(one_step):
    step, seen, values = one_step(texture_features=False)
    assert not seen and step.d_texture.feature_layers is None and values["d_texture"].isfinite()


def test_the_colour_term_is_graded_unless_the_profile_says_otherwise(one_step):
    held, graded = (one_step(color_grade=grade)[2]["color"].item() for grade in (False, True))
    assert graded < held


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
    """Losses of some steps, and the weights after them."""
    step = TrainStep(profile, training.make_accelerator(profile), progress=print)
    photos, drawings = (Batches(images, 32, 2, seed, step.device) for seed, images in enumerate(sets))
    grey = representations.color_shift_weights(torch.Generator().manual_seed(0)).to(step.device)
    rows = [torch.stack(list(step(photos(i), drawings(i), grey).values())).clone() for i in range(count)]
    return step, torch.stack(rows)


@pytest.mark.gpu
def test_a_cuda_graph_does_what_the_eager_step_does(face_set, cartoon_set):
    """From the same weights: a GPU adds in any order, and Adam's first steps make whole steps of rounding."""
    step, _ = run_steps(TINY, (face_set, cartoon_set))
    assert step.execution == "CUDA graph"
    networks = [part for part in step.parts.values() if isinstance(part, nn.Module)]
    weights = [copy.deepcopy(network.state_dict()) for network in networks]
    photo, cartoon = (Batches(images, 32, 2, 0, step.device)(99) for images in (face_set, cartoon_set))
    grey = representations.color_shift_weights(torch.Generator().manual_seed(99)).to(step.device)
    replayed = {name: value.clone() for name, value in step(photo, cartoon, grey).items()}
    for network, before in zip(networks, weights):
        network.load_state_dict(before)  # in place, where the graph has it
    eager = step._update(photo, cartoon, grey)
    assert all(torch.allclose(value, eager[name], rtol=0.01, atol=1e-4) for name, value in replayed.items())


def test_a_capture_that_fails_is_said_and_the_step_goes_on(monkeypatch, face_set, cartoon_set):
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
    broken, values = run_steps(TINY, (face_set, cartoon_set), 6)
    plain, expected = run_steps(TINY.replace(step="eager"), (face_set, cartoon_set), 6)
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
    profile = TINY.replace(batch=4, processes=2)
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


def test_processes_do_not_wait_for_parameters_without_a_gradient(job, tmp_path):
    """Without skips 46,176 parameters are dead, which DistributedDataParallel must be told."""
    profile = TINY.replace(batch=4, processes=2, skips=False, pretrain_steps=3, train_steps=2)
    assert job(profile, tmp_path / "runs", processes=2) == 0
