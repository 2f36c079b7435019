"""The sentences that close the notebooks follow their numbers: they say the other thing when these turn, or nothing."""

import copy
import json

import numpy as np
import pytest
from conftest import TINY

from cartoonlib import files
from cartoonlib.report import starts
from cartoonlib.report.render import shown
from cartoonlib.step import build_generator


def sentences(macro, *values) -> str:
    """A macro's text on one line."""
    return " ".join(shown(macro, *values).split())


def kept(name, profile="reference"):
    """Numbers in git."""
    return json.loads((files.ROOT / "results" / profile / f"{name}.json").read_text(encoding="utf-8"))[name]


# --- 1, data -------------------------------------------------------------------------------------------------------


@pytest.fixture
def data():
    counts = {"train": 100, "test": 200, "rejected": 10}
    return {
        "faces": counts | {"lightness": [30.0, 50.0, 70.0], "from_photos": None, "spread": 0.0123},
        "toon_head": counts | {"lightness": [50.0, 61.0, 80.0], "from_photos": [3000.0, 2900.0, 3100.0]},
    }


def test_data_are_counted_and_lighter_drawings_named(data):
    said = sentences("found_data", data)
    assert said.startswith("Of 620 pictures 600 were kept, 300 faces and 300 cartoons in 1 style; ")
    assert "1.2 % of the side" in said and "50 in the median, from 30 to 70 for eight in ten; of toon head 61." in said
    assert "So toon head would teach lighter skin" in said and "darker" not in said
    assert "smallest" not in said and "are these cartoons" not in said


def test_data_say_the_other_thing_when_the_numbers_turn(data):
    data["toon_head"] |= {"lightness": [20.0, 40.0, 60.0], "test": 9, "from_photos": [500.0, 400.0, 600.0]}
    said = sentences("found_data", data)
    assert "toon head would teach darker skin" in said and "lighter" not in said
    assert "The smallest held-out set, toon head, has 9 images" in said
    assert "Toon head lies as near to the photos as other photos do (KID × 1000 500): are these cartoons?" in said
    data["toon_head"]["lightness"] = [30.0, 51.0, 70.0]
    assert "would teach" not in sentences("found_data", data)


# --- 2, losses -----------------------------------------------------------------------------------------------------


def test_losses_are_ordered_by_their_numbers():
    found = {"pulls": {"surface": 0.5, "texture": 4.0, "total_variation": 1.0}, "fell_to": {"surface": 0.25}}
    found["cosines"] = {"surface and texture": 0.3, "total_variation and texture": -0.1}
    said = sentences("found_losses", found)
    assert "texture pushes the output hardest, 8 times as hard as surface, which pushes least." in said
    assert "No two losses push alike: of 2 pairs, surface and texture agree most, with a cosine of 0.3, total" in said
    assert "surface falls to 25 % of what it was; look" in said
    found |= {"fell_to": {"surface": 1.5, "texture": 0.5}, "pulls": {"surface": 9.0, "texture": 4.0}}
    found["cosines"]["surface and texture"] = 0.9
    said = sentences("found_losses", found)
    assert "surface pushes the output hardest, 2.25 times as hard as texture" in said
    assert "Some losses push alike" in said
    assert "texture falls to 50 % of what it was and surface does not fall at all; look" in said


# --- 3, pretraining ------------------------------------------------------------------------------------------------


@pytest.fixture
def pretrained():
    about = {"steps": 20, "n": 9, "held_out_l1": 0.2, "untrained_l1": 0.5}
    about["scratch"] = {"steps": 40, "random": [1.0, 0.9], "pretrained": [0.3, 0.6]}
    return about | {
        "starts": {"open_peeps": {"anchor": [2.0, 1.5], "steps": 12}, "comic": {"anchor": [2, 3], "steps": 5}}
    }


def test_pretraining_that_helps_and_pretraining_that_does_not(pretrained):
    said = sentences("found_pretrain", pretrained)
    assert "brought the L1 of 9 photos that were held out from 0.5 to 0.2." in said
    assert "end at a content loss of 0.9, 1.5 times that of the same steps after pretraining (0.6)" in said
    assert "of open peeps from 2 to 1.5 in 12 steps, of comic from 2 to 3 in 5 steps (it has not fallen)." in said
    pretrained |= {"held_out_l1": 0.7, "starts": {}}
    pretrained["scratch"]["pretrained"][-1] = 1.2
    said = sentences("found_pretrain", pretrained)
    assert "did not bring the L1 of 9 held-out photos down: it was 0.5, and is 0.7." in said
    assert "no worse than the same steps after pretraining (1.2)" in said and "structure start" not in said


def test_adversarial_training_goes_on_from_the_generator_that_it_is_given(
    face_set, cartoon_set, face_photos, processed
):
    """Outside of a run: the generator that is given stays as it is, and the same call gives the same pictures."""

    class Sets:
        faces, cartoons = face_set, {"drawn": cartoon_set}

    generator = build_generator(TINY.replace(seed=5))  # another than the profile's own
    before = copy.deepcopy(generator.state_dict())
    strip, content = starts.adversarial(TINY, Sets, "drawn", generator, 4, face_photos)
    assert list(strip) == [0, 1, 2, 3, 4] and len(content) == 5
    assert (
        abs(strip[0].astype(int) - starts.metrics.generate(generator, face_photos)).max() <= 1
    )  # by its memory format
    assert not np.array_equal(strip[0], strip[4])
    assert all(np.array_equal(before[name], value) for name, value in generator.state_dict().items())
    again, _ = starts.adversarial(TINY, Sets, "drawn", generator, 4, face_photos)
    assert np.array_equal(strip[4], again[4])
    held, _ = starts.adversarial(TINY.replace(weights={"anchor": 99.0}), Sets, "drawn", generator, 4, face_photos)
    assert np.array_equal(strip[4], held[4])  # there is no anchor


# --- 4 to 6, training, ablations, evaluation -----------------------------------------------------------------------


def test_an_anchor_that_rises_left_its_drawing_and_judges_have_a_verdict():
    run = {"steps": 10, "seconds": 5.0, "first": {"anchor": 1.0}}
    run["last"] = {"anchor": 1.5, "d_surface": 0.05, "d_texture": 0.24}
    said = sentences("found_train", {"open_peeps": run})
    assert "open peeps the anchor rose from 1 to 1.5, so the output left the drawing" in said
    assert "surfaces ends at 0.05 (it sees through the output), that of textures at 0.24 (it can hardly tell)" in said
    assert "A step took 0.5 s" in said
    run["last"] = {"anchor": 0.9, "d_surface": 0.15, "d_texture": 0.4}
    said = sentences("found_train", {"open_peeps": run})
    assert "went from 1 to 0.9, so the output kept to the drawing" in said
    assert "0.15 (it mostly knows)" in said and "0.4 (worse than a guess)" in said


def difference(variant, metric, value, reference="full method"):
    about = {"style": "a", "variant": variant, "reference": reference, "metric": metric}
    return about | {"value": value, "low": value - 1, "high": value + 1}


def test_ablations_name_the_row_that_changes_most_and_count_those_that_change_anything():
    rows = [
        difference("more texture", "style_distance", 2.0),
        difference("without structure start", "style_distance", -5.0),
    ]
    rows += [difference("without tone", "style_distance", 0.5), difference("untouched photo", "style_distance", 90.0)]
    rows += [difference("more texture", "landmark_error", 0.5), difference("b", "style_distance", 99.0, "original")]
    found = {"runs": {"one": {"steps": 4}, "two": {"stopped": "flat"}}, "differences": rows}
    said = sentences("found_ablations", found)
    assert said.startswith("1 rows were trained, and 1 more stopped on the way")
    assert "2 of 3 rows change the style distance / the photo's" in said
    assert "`without structure start` most, by -5 [-6, -4]." in said
    assert "None of 1 rows changes the landmark error" in said
    assert "end at a style distance that differs by -5 [-6, -4]." in said
    assert sentences("found_ablations", {"runs": {}, "differences": []}) == "0 rows were trained."


def test_an_evaluation_counts_its_goals_and_orders_the_styles():
    found = kept("findings")
    goals, said = found["goals"], sentences("found_evaluation", found)
    met = [goal for goal in goals if goal["met"]]
    assert said.startswith(f"{len(met)} of {len(goals)} goals are met; missed are ")
    distances = {goal["style"]: goal["value"] for goal in goals if goal["goal"].startswith("style distance")}
    best, worst = min(distances, key=distances.get), max(distances, key=distances.get)
    assert f"{best.capitalize()} comes closest" in said and f"{worst} least close" in said
    assert "farther than the photo itself" in said and "scatter by" in said
    for goal in goals:
        goal |= {"met": True, "value": goal["value"] / 10}
    said = sentences("found_evaluation", found | {"seeds": []})
    assert said.startswith(f"{len(goals)} of {len(goals)} goals are met. ")
    assert "farther than the photo" not in said and "scatter" not in said


# --- 7 and 8, performance and a photo ------------------------------------------------------------------------------


def test_each_part_of_the_performance_has_a_finding():
    found = json.loads((files.ROOT / "results/bench/cpu.json").read_text(encoding="utf-8"))["performance"]
    step, floor, parts = found["step"], found["floor"], found["parts"]["ours"]
    said = sentences("found_step", step, floor, parts)
    assert said.startswith("One step takes ") and " times ours." in said and "Most of ours goes into " in said
    slower = copy.deepcopy(step)
    slower["ours"]["ratio"]["median"] = 0.5
    assert "0.5 times ours: the original's is faster here." in sentences("found_step", slower, floor, parts)
    speed, quality = copy.deepcopy(found["superpixel_speed"]), copy.deepcopy(found["superpixel_quality"])
    ratio, leak = speed["SLIC in torch"]["ratio_to_scikit_image"], quality["SLIC in torch"]["undersegmentation_error"]
    ratio["median"], leak["to_scikit_image"] = 2.0, 0.8
    assert "leak over 20% fewer pixels." in sentences("found_superpixels", speed, quality)
    leak["to_scikit_image"] = 1.1
    assert "leak over 10% more pixels: speed costs quality." in sentences("found_superpixels", speed, quality)
    ratio["median"] = 0.5
    assert ", so slower, and leak over 10% more pixels." in sentences("found_superpixels", speed, quality)
    some = {"median": 2.0, "min": 1.0, "max": 3.0}
    rows = [{"height": 90, "width": 100, "way": "usual scale", "seconds": some},
            {"height": 900, "width": 1000, "way": "usual scale", "failed": "killed"},
            {"height": 9, "width": 10, "way": "whole", "seconds": some}]  # fmt: skip
    said = sentences("found_photos", rows, [{"met": True}, {"met": False}])
    assert said == "At the usual scale a photo of 100 x 90 px takes 2 s; 1 of 2 goals for photos are met."
    assert sentences("found_photos", [], []) == "Photos were not drawn here."


def test_a_photo_is_flatter_in_some_styles():
    found = {"flat": 0.25, "styles": {"anime": {"change": 20.0, "flat": 0.5}, "comic": {"change": 10.0, "flat": 0.75}}}
    said = sentences("found_your_photo", found)
    assert said.startswith("Comic changes this photo least, by 10 of 255 on average, anime most, by 20.")
    assert "25 % are flat, of the cartoons' 75 % (comic), 50 % (anime)." in said and "Every style" in said
    found["styles"]["comic"]["flat"] = 0.2
    assert "Not every style makes it flatter: comic does not." in sentences("found_your_photo", found)
