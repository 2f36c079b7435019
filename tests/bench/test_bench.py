"""The benchmark: the original's step is as wasteful as the original, and what is measured is what is said."""

import itertools
import json
import os
import signal
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from cartoonlib import files
from cartoonlib.bench import __main__ as command
from cartoonlib.bench import comparisons, measuring, original, scaling, steps
from cartoonlib.profile import Profile
from cartoonlib.report import tables
from cartoonlib.report.render import shown
from cartoonlib.runs.profiles import load_profile

TINY = Profile(
    name="tiny", size=32, batch=2, perceptual="efficientnet_lite0", segments=12, precision="fp32", bench_repeats=1
)
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def no_weights(tmp_path_factory, processed):
    """VGG19 has random weights here, and asking for others would be a download; structures lie elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "WEIGHTS", tmp_path_factory.mktemp("empty"))
        patch.setattr(torch.hub, "_hub_dir", str(tmp_path_factory.mktemp("hub")))
        yield


@pytest.fixture(scope="module")
def originals_step(face_set, cartoon_set):
    """The original's step after one call, with what happened in it."""
    with pytest.MonkeyPatch.context() as patch:
        counts = dict.fromkeys(("iterators", "slic", "label2rgb"), 0)

        def counted(name, function):
            def call(*arguments, **options):
                counts[name] += 1
                return function(*arguments, **options)

            return call

        patch.setattr(original.DataLoader, "__iter__", counted("iterators", original.DataLoader.__iter__))
        patch.setattr(original.segmentation, "slic", counted("slic", original.segmentation.slic))
        patch.setattr(original.color, "label2rgb", counted("label2rgb", original.color.label2rgb))
        step = steps.originals(TINY, face_set, cartoon_set)
        update, reached, before = step.update, [], {}

        def watch(_module, _inputs, features):
            if features.requires_grad:
                features.register_hook(lambda gradient: reached.append(tuple(gradient.shape)))

        update.perceptual.register_forward_hook(watch)
        g_step = update.g_optimizer.step

        def keep_gradients():
            before.update(gradients(update.generator))
            g_step()

        patch.setattr(update.g_optimizer, "step", keep_gradients)
        losses = step()
    return SimpleNamespace(step=step, update=update, counts=counts, reached=reached, before=before, losses=losses)


def gradients(module: nn.Module) -> dict:
    return {name: None if p.grad is None else p.grad.clone() for name, p in module.named_parameters()}


def test_the_originals_step_has_five_losses_and_no_landmarks(originals_step):
    terms = {"surface", "texture", "content", "structure", "total_variation"}
    assert set(originals_step.losses) == terms | {"d_surface", "d_texture"}
    assert all(value.isfinite() for value in originals_step.losses.values())


def test_the_originals_vgg_collects_weight_gradients_that_nothing_clears(originals_step):
    weights = [p for p in originals_step.update.perceptual.parameters() if p.dim() == 4]
    assert all(p.grad.abs().sum() > 0 for p in weights)
    optimizers = originals_step.update.g_optimizer, originals_step.update.d_optimizer
    cleared = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    assert not any(id(p) in cleared for p in originals_step.update.perceptual.parameters())


def test_the_originals_photo_and_target_are_in_the_graph(originals_step):
    assert originals_step.reached == [(2, 512, 4, 4)] * 3  # gradients reach photo, output and target


def test_the_originals_generator_gets_gradients_in_the_discriminators_turn(originals_step):
    after = gradients(originals_step.update.generator)
    live = [name for name, gradient in after.items() if gradient is not None]
    assert any(not torch.equal(after[name], originals_step.before[name]) for name in live)
    dead = sum(p.numel() for p in originals_step.update.generator.parameters() if p.grad is None)
    assert dead == 46_176


def test_the_original_makes_new_iterators_and_segments_one_image_after_the_other(originals_step):
    assert originals_step.counts == {"iterators": 2, "slic": TINY.batch, "label2rgb": TINY.batch}


def test_the_original_runs_in_float32_and_nchw(originals_step):
    parameters = [p for p in originals_step.update.generator.parameters() if p.dim() == 4]
    assert all(p.dtype == torch.float32 and p.is_contiguous() for p in parameters)
    target = originals_step.update._superpixels(torch.rand(2, 3, 32, 32) * 2 - 1)
    assert target.shape == (2, 3, 32, 32) and target.is_contiguous() and target.abs().max() <= 1


def test_a_benchmark_downloads_nothing():
    assert not original.weights_at_hand("vgg19") and original.weights_at_hand("efficientnet_lite0")
    network = original.vgg19_without_download()
    assert network.name == "VGG19 conv4_4 with random weights"
    assert [layer.out_channels for layer in network.layers if isinstance(layer, nn.Conv2d)][-1] == 512
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 512, 4, 4)


def test_our_step_trains_on_new_batches(face_set, cartoon_set):
    step = steps.ours(TINY, face_set, cartoon_set)
    first, second = step(), step()
    assert {"landmark", "anchor", "total"} <= set(first) and first["content"] != second["content"]


def test_the_structure_start_has_a_step_of_its_own(face_set):
    step = steps.starting(TINY, face_set)
    first, second = step(), step()
    assert set(first) == {"anchor"} and first["anchor"] != second["anchor"]


def test_the_parts_are_the_labelled_ones_and_add_up(face_set, cartoon_set):
    step = steps.ours(TINY, face_set, cartoon_set)
    step()  # draws for many steps, and what is loaded once
    parts = steps.breakdown(step, CPU, 1)
    assert set(parts) == {
        "generator", "target", "superpixels", "perceptual: target and superpixels", "perceptual: output",
        "perceptual: texture",
        "landmarks", "representations", "discriminators, generator's turn", "backward", "generator's update and EMA",
        "discriminators' turn", "other", "step",
    }  # fmt: skip
    middle = {name: value["median"] for name, value in parts.items()}
    assert all(value > 0 for value in middle.values())
    assert sum(middle.values()) == pytest.approx(2 * middle["step"])
    assert middle["other"] < middle["step"] / 2


class Machine:
    """A clock that moves only by the calls it is given."""

    def __init__(self):
        self.now, self.done = 0.0, []

    def clock(self) -> float:
        return self.now

    def call(self, name: str, seconds: list[float]):
        durations = itertools.cycle(seconds)

        def run():
            self.now += next(durations)
            self.done.append(name)

        return run


def test_steps_are_timed_in_turns_after_a_warm_up():
    machine = Machine()
    calls = {"a": machine.call("a", [9, 1, 2]), "b": machine.call("b", [90, 10, 30])}
    result = measuring.paired(calls, batch=4, repeats=2, clock=machine.clock)
    assert machine.done == ["a", "b", "a", "b", "a", "b"]
    assert result["a"]["seconds"] == {"min": 1, "median": 1.5, "max": 2}
    per_second = {"min": 4 / 30, "median": pytest.approx(4 * (1 / 10 + 1 / 30) / 2), "max": 0.4}
    assert result["b"]["images_per_second"] == per_second
    assert result["a"]["ratio"] == {"min": 10, "median": 12.5, "max": 15} and result["a"]["turns"] == 2
    assert result["b"]["ratio"]["max"] == 1


def test_a_short_call_is_repeated():
    machine = Machine()
    times = measuring.timed({"a": machine.call("a", [measuring.LEAST / 8])}, 1, machine.clock, before=3)
    assert times["a"] == [pytest.approx(measuring.LEAST / 8)] and len(machine.done) == 3 + 8


def test_operations_are_those_of_a_convolution_counted_by_hand():
    layer, x = nn.Conv2d(3, 8, 3, stride=2, padding=1), torch.rand(2, 3, 16, 16, requires_grad=True)
    forward = 2 * 2 * (8 * 8) * 8 * 3 * 9  # multiply and add; images, pixels, outputs, inputs, window
    assert scaling.operations(lambda: layer(x)) == forward
    assert scaling.operations(lambda: layer(x).sum().backward()) == 3 * forward


def test_the_floor_is_at_the_best_rate():
    layer, x = nn.Conv2d(1, 1, 1, bias=False), torch.rand(1, 1, 10, 10)
    rate = {"slow": measuring.spread([10.0]), "fast": measuring.spread([50.0, 100.0, 100.0])}
    floor = scaling.floor(lambda: layer(x), {"min": 4.0, "median": 6.0, "max": 8.0}, rate)
    assert floor["flop"] == 200 and floor["seconds"] == 2
    assert floor["distance"] == {"min": 2, "median": 3, "max": 4}


def test_matrix_rates_are_measured():
    rate = scaling.matrix_rate(CPU, torch.float32, 1)
    assert all(1e8 < value["min"] <= value["median"] <= value["max"] < 1e15 for value in rate.values())


def test_memory_is_fitted_over_the_pixels_of_a_batch():
    rows = [{"size": size, "batch": batch, "peak_mb": 700 + 2000 * batch * size**2 / 1e6}
            for size, batch in ((64, 4), (128, 4), (64, 1), (64, 4), (256, 16))]  # fmt: skip
    fit = scaling.memory_fit([*rows, {"size": 512, "batch": 64, "failed": "killed"}])
    assert fit["mb_per_megapixel"] == pytest.approx(2000) and fit["mb_at_none"] == pytest.approx(700)
    assert fit["r2"] == pytest.approx(1) and fit["points"] == 4
    assert scaling.memory_at(rows, fit) == {"mb": pytest.approx(700 + 2000 * 4 * 512**2 / 1e6), "how": "extrapolated"}
    assert scaling.memory_at(rows, fit, 128, 4) == {"mb": rows[1]["peak_mb"], "how": "measured"}
    failed = [{"size": 512, "batch": 4, "failed": "killed"}]
    assert scaling.memory_at(failed, fit)["how"] == "extrapolated, for the step itself failed"
    bent = scaling.memory_fit([rows[0], rows[1], rows[4] | {"peak_mb": 1e4}])
    assert bent["r2"] < 0.999


def test_growth_measures_a_configuration_once(monkeypatch):
    asked = []
    monkeypatch.setattr(scaling, "measured", lambda p, **changes: asked.append(changes) or {"peak_mb": 1.0})
    rows = scaling.growth(TINY.replace(batch=4, size=48, segments=60), progress=lambda line: None)
    assert [(row["axis"], row[row["axis"]]) for row in rows] == [
        ("size", 32), ("size", 48), ("batch", 2), ("batch", 4), ("segments", 30), ("segments", 60)
    ]  # fmt: skip
    assert len(asked) == 4
    assert len(scaling.axes(TINY.replace(bench_repeats=5))["size"]) == 7
    assert scaling.axes(TINY.replace(bench_repeats=3))["batch"] == (1, 4, 16, 64)


SMOKE = {"size": 32, "batch": 2, "segments": 12}


def test_a_step_in_its_own_process_answers_every_call():
    p = load_profile("smoke")
    with measuring.Process() as process:
        assert process(steps.start, p, steps.ours, SMOKE).startswith("EfficientNet-Lite0, ")
        first, second = process(steps.go_on), process(steps.go_on)
    assert 200 < first <= second < 5000


def test_a_configuration_that_fails_says_why(monkeypatch):
    p = load_profile("smoke")
    assert steps.measured(p, batch=-1) == {"failed": "The setting `batch` must be 1 or more."}
    monkeypatch.setattr(steps, "start", killed)
    assert "for want of memory" in steps.measured(p, **SMOKE)["failed"]


def killed(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_set_is_enlarged(face_set):
    large = steps.at_size(face_set, 64, 3)
    assert large.images.shape == (3, 72, 72, 3) and list(large.split) == ["train"] * 3
    others = [steps.at_size(face_set, *shape).hash for shape in ((64, 2), (32, 3), (32, 2))]
    assert len({face_set.hash, large.hash, *others}) == 5  # which name their structures


def test_peak_memory_never_falls():
    before = measuring.peak_memory(CPU)
    block = np.ones(int(1e8) // 8)
    with_block = measuring.peak_memory(CPU)
    del block
    assert before <= with_block <= measuring.peak_memory(CPU) and 50 < before < 1e5


def test_the_last_line_is_the_promised_one(tmp_path, monkeypatch, capsys):
    ratio = {"min": 4.5, "median": 5.126, "max": 6.0}
    assert tables.last_line(ratio, "cpu") == "ratio_to_original_step 5.13 (4.50-6.00) on cpu"
    content = {
        "performance": {"device": "cpu", "hardware": {"cores": 2}, "step": {"ours": {"ratio": ratio}}, "cuda": None}
    }
    monkeypatch.setattr(files, "RESULTS", tmp_path)

    def notebook(_source, target, profile):
        assert (target.name, profile) == ("07_performance.ipynb", "bench")
        (tmp_path / "bench").mkdir()
        (tmp_path / "bench" / "performance.json").write_text(json.dumps(content), encoding="utf-8")

    monkeypatch.setattr(command, "execute", notebook)
    monkeypatch.setattr(sys, "argv", ["bench"])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    command.main()
    assert capsys.readouterr().out.splitlines()[-1] == "ratio_to_original_step 5.13 (4.50-6.00) on cpu"
    assert json.loads((tmp_path / "bench" / "cpu.json").read_text(encoding="utf-8")) == content


def test_superpixels_are_compared_at_equal_numbers_of_segments(face_photos):
    photos = face_photos[:, ::2, ::2].copy()
    found = comparisons.segmentations(TINY.replace(segments=60), photos)
    quality = comparisons.superpixel_quality(photos, found)
    assert all(labels.shape == (2, 64, 64) for labels in found.values())
    assert quality[comparisons.SCIKIT]["explained_variance"]["to_scikit_image"] == 1
    for rows in quality.values():
        assert abs(rows["segments"]["to_scikit_image"] - 1) < 0.1
        assert 0 < rows["undersegmentation_error"]["mean"] < rows["boundary_recall"]["mean"] <= 1


def test_precisions_are_compared_seed_by_seed():
    groups = comparisons.precision_rows(TINY.replace(bench_repeats=5, ablation_steps=100, seed=7))
    assert [list(rows) for rows in groups.values()] == [
        [f"{precision}, seed {seed}" for seed in (7, 8, 9)] for precision in ("fp32", "bf16")
    ]
    for precision, rows in groups.items():
        assert {(row.precision, row.train_steps, row.log_every) for row in rows.values()} == {(precision, 50, 2)}
    values = {"fp32": (10, 14, 12), "bf16": (11, 12, 12)}
    rows = [{"group": group, "metric": metric, "value": value * scale} for group in values for value in values[group]
            for scale, metric in enumerate(comparisons.COMPARED, start=1)]  # fmt: skip
    effect = comparisons.precision_effect(rows)
    assert list(effect) == list(comparisons.COMPARED)
    assert effect["kid_cartoon"] == {"difference": {"min": -2, "median": 0, "max": 1}, "between_seeds": 4}
    assert effect["landmark_error"] == {"difference": {"min": -4, "median": 0, "max": 2}, "between_seeds": 8}


def test_a_spread_is_shown_with_three_digits():
    assert tables.spread({"min": 0.01234, "median": 1.2345, "max": 1234.5}) == "1.23 (0.0123 to 1230)"


def test_the_tables_show_what_was_measured_and_what_failed():
    some = {"min": 1.0, "median": 2.0, "max": 3.0}
    rows = [{"axis": "size", "size": 64, "failed": "it was killed"}]
    rows += [{"axis": "batch", "batch": 4, "seconds": some, "images_per_second": some, "peak_mb": 700.0}]
    lines = shown("growth", rows).splitlines()
    assert lines[-2:] == ["| size 64 | it was killed |  |  |", "| batch 4 | 2 (1 to 3) | 2 (1 to 3) | 700 |"]
    kept = json.loads((files.ROOT / "results/bench/cpu.json").read_text(encoding="utf-8"))["performance"]
    assert "(+0.0%)" in shown("quality", kept["superpixel_quality"])
    assert len(shown("floor", kept["floor"]).splitlines()) == 4


def test_a_wrong_command_ends_with_one_sentence(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bench", "quick"])
    with pytest.raises(SystemExit, match="Give nothing: the benchmark has its settings in"):
        command.main()
