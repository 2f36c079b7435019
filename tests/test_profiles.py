import json
import signal
import subprocess
import sys
import typing
from typing import Literal

import pytest
import yaml
from pydantic import ValidationError

from cartoonlib import files
from cartoonlib.files import InputError
from cartoonlib.profile import LOSSES, OF_A_STYLE, TABLES, Look, Profile, profile_of
from cartoonlib.report.published import PUBLISHED, columns
from cartoonlib.runs import __main__ as command
from cartoonlib.runs.ablations import ablation_rows
from cartoonlib.runs.profiles import load_profile
from cartoonlib.runs.store import NOT_IN_KEY, PRETRAIN_SETTINGS, START_SETTINGS

FIELDS = {name: field.annotation for name, field in Profile.model_fields.items()}
FILES = sorted(p.stem for p in files.PROFILES.glob("*.yaml") if p.stem != "ablations")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PROFILES", tmp_path)
    return tmp_path


# --- the files ---------------------------------------------------------------------------------------------------


def test_the_three_profiles_are_there():
    assert {"smoke", "quick", "paper"} <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_keys_and_types_of_every_profile(name):
    written = yaml.safe_load((files.PROFILES / f"{name}.yaml").read_text(encoding="utf-8")) or {}
    assert set(written) <= set(FIELDS) - {"name"}
    profile = load_profile(name)
    assert profile.name == name
    for key, kind in FIELDS.items():
        value = getattr(profile, key)
        if typing.get_origin(kind) is not Literal:
            assert type(value) is (tuple if kind == tuple[str, ...] else kind), key
        if key in TABLES:
            assert written.get(key, {}).items() <= value.model_dump().items()
        elif key in written:
            assert value == (tuple(written[key]) if type(value) is tuple else written[key])


@pytest.mark.parametrize("name", FILES)
def test_every_ablation_of_every_profile(name):
    profile = load_profile(name)
    rows = ablation_rows(profile)
    assert set(rows) == {"full", "sweep", "without", "added", "original", "again"}
    titles = [title for group in rows.values() for title in group]
    assert len(titles) == len(set(titles))
    assert all(row.train_steps == profile.ablation_steps for group in rows.values() for row in group.values())
    assert rows["full"]["full method"] == profile.replace(train_steps=profile.ablation_steps, style_settings={})


def changes(row: Profile, base: Profile) -> dict:
    return {key: value for key, value in row.flat().items() if base.flat()[key] != value}


def test_what_each_ablation_changes():
    base = load_profile("quick")
    rows, base = ablation_rows(base), base.replace(train_steps=base.ablation_steps, style_settings={})
    for title, row in rows["sweep"].items():
        (key,) = changes(row, base)
        assert getattr(row.weights, key) == pytest.approx(4 * getattr(base.weights, key)) and key in title
    without = [changes(row, base) for row in rows["without"].values()]
    assert without == [{key: 0.0} for key in LOSSES]
    added = [changes(row, base) for row in rows["added"].values()]
    assert added == [{"start_steps": 0}, {"tone": False}, {"gate": False}, {"texture_features": False}]
    original, repaired = rows["original"]["original"], rows["original"]["original + all repairs"]
    ours = {"start_steps": 0, "tone": False, "gate": False, "texture_features": False, "edge_aware": False}
    published = {"decay": 0.0, "anchor": 0.0, "landmark": 0.0, "surface": 0.1, "texture": 1.0, "padding": "zeros"}
    published["output_radius"] = 1
    for row in (original, repaired):  # neither has what we added
        assert (ours | published).items() <= row.flat().items() and row.discriminator_rate == row.generator_rate == 2e-4
    defects = {"skips": False, "color_shift": "pixel", "sigmoid": True, "tanh": True, "slope": 0.01, "output_eps": 0.1}
    assert defects.items() <= changes(original, base).items()
    repairs = {key: Profile.model_fields[key].default for key in defects} | {"output_eps": 0.01}
    assert changes(repaired, original) == repairs
    assert rows["again"] == {f"full method, seed {seed}": base.replace(seed=seed) for seed in (1, 2)}


@pytest.mark.parametrize("name", FILES)
def test_rows_share_a_start_unless_they_change_it(name):
    """What a start depends on is the same in all rows but those that say so."""
    rows = {title: row for group in ablation_rows(load_profile(name)).values() for title, row in group.items()}
    starts = {title: [row.flat()[key] for key in START_SETTINGS] for title, row in rows.items()}
    own = {title for title, start in starts.items() if start != starts["full method"]}
    originals = {"original", "original + all repairs"}
    assert own == {"without structure start", "full method, seed 1", "full method, seed 2", *originals}


def test_a_style_may_set_weights_and_steps_for_itself():
    own = {"weights": {"texture": 4}, "train_steps": 7, "start_steps": 3, "look": {"ink": 0.5}}
    base = load_profile("quick", {"style_settings": {"lorelei": own}})
    assert base.of("lorelei") == base.replace(**own, style_settings={})
    assert base.of("lorelei").look == Look(**base.look.model_dump() | {"ink": 0.5})
    assert base.of("adventurer") == base.replace(style_settings={}) == load_profile("quick", {"style_settings": {}})
    assert ablation_rows(base) == ablation_rows(load_profile("quick"))
    assert not set(OF_A_STYLE) & set(PRETRAIN_SETTINGS)  # one pretraining for all styles, that of notebook 03
    assert not set(Look.model_fields) & set(PRETRAIN_SETTINGS)
    assert profile_of(json.loads(json.dumps(base.model_dump()))) == base
    wrong = {"of type float": "4", "0 or more": -1}
    wrong = {f"texture` must be {wanted}": {"weights": {"texture": value}} for wanted, value in wrong.items()}
    wrong["look.inc`. Did you mean `ink`"] = {"look": {"inc": 1.0}}
    names = f"style_settings: lorelei` must be settings out of {', '.join(OF_A_STYLE)}"
    for problem, settings in [*wrong.items(), (names, {"textur": 4}), (names, {"batch": 4}), (names, 5), (names, None)]:
        with pytest.raises(InputError, match=problem) as error:
            base.replace(style_settings={"lorelei": settings})
        assert "lorelei" in str(error.value)
    with pytest.raises(InputError, match="2001` must be"):
        base.replace(style_settings={2001: {}})


def test_overrides_hold_for_styles_that_set_something_for_themselves(folder):
    text = "styles: [lorelei, open_peeps]\n"
    text += "style_settings: {lorelei: {weights: {texture: 4.0, anchor: 5.0}, train_steps: 7, "
    text += "look: {ink: 0.5, width: 2.0}}}\n"
    (folder / "mine.yaml").write_text(text, encoding="utf-8")
    assert load_profile("mine").of("lorelei").train_steps == 7
    changed = load_profile("mine", {"train_steps": 9, "styles": ["open_peeps"]})
    assert (changed.of("lorelei").train_steps, changed.of("lorelei").weights.texture) == (9, 4.0)
    changed = load_profile("mine", {"weights": {"texture": 2.0}}).of("lorelei").weights
    assert (changed.texture, changed.anchor) == (2.0, 5.0)
    changed = load_profile("mine", {"look": {"ink": 0.7, "flow": 3.0}}).of("lorelei")
    assert (changed.look.ink, changed.look.width, changed.look.flow, changed.weights.texture) == (0.7, 2.0, 3.0, 4.0)
    given = {"style_settings": {"lorelei": {"train_steps": 5}}, "train_steps": 9}
    changed = load_profile("mine", given)
    assert (changed.of("lorelei").train_steps, changed.of("other").train_steps) == (5, 9)
    (folder / "mine.yaml").write_text(text.replace("lorelei: {", "lorelai: {"), encoding="utf-8")
    with pytest.raises(InputError, match="names lorelai, which is none of its styles"):
        load_profile("mine")


def test_smoke_is_quick_and_quick_is_smaller_than_paper():
    smoke, quick, paper = load_profile("smoke"), load_profile("quick"), load_profile("paper")
    for key in ("size", "pretrain_steps", "start_steps", "train_steps", "ablation_steps"):
        assert getattr(smoke, key) < getattr(quick, key) < getattr(paper, key)
    assert (paper.size, paper.batch, paper.pretrain_steps, paper.train_steps) == (128, 16, 50_000, 30_000)
    assert paper.start_steps == paper.pretrain_steps
    assert paper.generator_rate == 2e-4 and paper.perceptual == "vgg19"


@pytest.mark.parametrize("name", FILES)
def test_discriminators_learn_at_two_to_three_times_the_generators_rate(name):
    profile = load_profile(name)
    assert 2 <= profile.discriminator_rate / profile.generator_rate + 1e-6 < 3


# --- rates that fall, and tables ---------------------------------------------------------------------------------


@pytest.mark.parametrize("decay, shares", [(0.5, [1, 1, 0.5, 0.02, 0]), (1, [1, 0.6, 0.25, 0.01, 0]), (0, [1] * 5)])
def test_rates_fall_over_the_last_part_of_a_run(decay, shares):
    profile = Profile(name="test", decay=float(decay))
    assert [profile.rate_share(left) for left in (1, 0.6, 0.25, 0.01, 0)] == pytest.approx(shares)


def test_a_table_is_changed_entry_by_entry_and_lies_flat_beside_the_others():
    profile = Profile(name="test", look=Look(ink=0.5), style_settings={"a": {"look": {"flow": 3.0}, "ema": 0.5}})
    changed = profile.replace(look={"width": 2.0}, weights={"anchor": 3})
    assert (changed.look.ink, changed.look.width, changed.weights.anchor) == (0.5, 2.0, 3.0)
    assert changed.replace(look=Look()).look == Look()
    flat = changed.flat()
    assert (flat["ink"], flat["width"], flat["anchor"], flat["size"]) == (0.5, 2.0, 3.0, 128)
    assert not set(TABLES) & set(flat) and flat["style_settings"] == {"a": {"flow": 3.0, "ema": 0.5}}
    names = [name for table in TABLES.values() for name in table.model_fields]
    assert len(set(names)) == len(names) and not set(names) & set(FIELDS)  # else one would hide another
    assert profile.key() != changed.key() != changed.replace(look={"flatten": 0.5}).key()


# --- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"batches": 1}, "Unknown setting `batches`. Did you mean `batch`?"),
        ({"content": 1.0}, "Unknown setting `content`. It belongs to a table: write `weights: {content: ...}`."),
        ({"flatten": 1.0}, "Unknown setting `flatten`. It belongs to a table: write `look: {flatten: ...}`."),
        ({"look": {"anchor": 1.0}}, "Unknown setting `anchor`. It belongs to a table: write `weights: {anchor: ...}`."),
        ({"look": {"wide": 1.0}}, "Unknown setting `look.wide`. Did you mean `width`?"),
        ({"look": 3}, "The setting `look` must be a table with flatten, lift, vivid"),
        ({"look": {"ink": 1.5}}, "`look.ink` must be from 0 to 1"),
        ({"look": {"lift": "high"}}, "`look.lift` must be of type float, not 'high'"),
        ({"look": {"flatten": 0}}, "`look.flatten` must be more than 0"),
        ({"look": {"warmth": 0.6}}, "`look.warmth` must be from -0.5 to 0.5"),
        ({"processes": 2, "batch": 6}, "`batch` must be divisible by 4, `processes` times `perceptual_every`."),
        ({"processes": 2, "start_batch": 3}, "`start_batch` must be divisible by 2 (`processes`)."),
        ({"decay": 1.5}, "`decay` must be from 0 to 1"),
        ({"start_rate": 0}, "`start_rate` must be more than 0"),
        ({"start_steps": -1}, "`start_steps` must be 0 or more"),
        ({"weights": {"contents": 1.0}}, "Unknown setting `weights.contents`. Did you mean `content`?"),
        ({"weights": 3}, "The setting `weights` must be a table with content, anchor"),
        ({"qqqqq": 1}, "Unknown setting `qqqqq`. Known settings: name, faces"),
        ({3: 1}, "Unknown setting `3`"),
        ({"batch": "16"}, "`batch` must be of type int, not '16'"),
        ({"batch": 16.0}, "`batch` must be of type int, not 16.0"),
        ({"batch": True}, "`batch` must be of type int, not True"),
        ({"weights": {"content": False}}, "`weights.content` must be of type float, not False"),
        ({"skips": 1}, "`skips` must be of type bool, not 1"),
        ({"generator_rate": "2e-4"}, "write 2.0e-4"),
        ({"faces": "ffhq"}, "`faces` must be a list of names, not 'ffhq'"),
        ({"faces": [1]}, "`faces` must be a list of names"),
        ({"faces": []}, "must be a list with one name or more"),
        ({"weights": {"content": None}}, "`weights.content` must be of type float, not None"),
        ({"weights": {"content": -1}}, "`weights.content` must be 0 or more"),
        ({"weights": {"content": float("nan")}}, "`weights.content` must be 0 or more"),
        ({"batch": 0}, "`batch` must be 1 or more"),
        ({"size": 16}, "`size` must be 32 or more"),
        ({"test_fraction": 1.0}, "between 0 and 1"),
        ({"ema": 1.0}, "from 0 to below 1"),
        ({"slope": 0}, "`slope` must be more than 0"),
        ({"precision": "fp16"}, "auto, bf16 or fp32"),
        ({"perceptual": "vgg"}, "vgg19 or efficientnet_lite0"),
        ({"landmarks": "faceapi68"}, "onet or fan"),
        ({"superpixels": "slic"}, "Unknown setting `superpixels`"),  # there is one method
        ({"color_shift": "image"}, "batch or pixel"),
    ],
)
def test_wrong_settings_are_refused_in_one_sentence(settings, message):
    with pytest.raises(InputError) as error:
        profile_of({"name": "test"} | settings)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_an_int_is_a_float_and_a_list_is_a_tuple():
    profile = profile_of({"name": "test", "weights": {"content": 2}, "faces": ["a", "b"]})
    assert type(profile.weights.content) is float and profile.faces == ("a", "b")
    assert profile.replace(weights={"content": 3}).weights.content == 3.0
    with pytest.raises(InputError, match="Did you mean `content`"):
        profile.replace(weights={"contnt": 3})
    with pytest.raises(ValidationError, match="frozen"):
        profile.weights.content = 1.0


@pytest.mark.parametrize("overrides", [{"weights": None}, {"weights": 3}, {"look": 3}, {3: 1}])
def test_wrong_overrides_are_refused_in_one_sentence(overrides):
    with pytest.raises(InputError, match="`(weights|look)` must be a table|Unknown setting `3`"):
        load_profile("quick", overrides)


@pytest.mark.parametrize("name", ["nonsense", "ablations", "../profiles/quick", ""])
def test_an_unknown_profile_names_the_known_ones(name):
    with pytest.raises(InputError, match="paper, quick, .*smoke"):
        load_profile(name)


def test_broken_files_are_refused(folder):
    for content, message in (("a: [", "not valid YAML"), ("- a\n- b", "key: value"), ("rate: 1", "Unknown setting")):
        (folder / "mine.yaml").write_text(content, encoding="utf-8")
        with pytest.raises(InputError, match=message):
            load_profile("mine")
    (folder / "mine.yaml").write_text("generator_rate: 2e-4", encoding="utf-8")
    with pytest.raises(InputError, match="write 2.0e-4"):
        load_profile("mine")
    (folder / "mine.yaml").write_text("# nothing\n", encoding="utf-8")
    assert load_profile("mine", {"batch": 3}) == Profile(name="mine", batch=3)


@pytest.mark.parametrize(
    "row, message",
    [
        ("weights: {contnt: x4}", "Did you mean `content`"),
        ("superpixels: slic", "superpixels"),
        ("look: {flattn: 0.1}", "Did you mean `flatten`"),
        ("weights: {content: y4}", "content"),
        ("generator_rate: x4", "generator_rate"),
    ],
)
def test_wrong_ablations_are_refused(folder, row, message):
    (folder / "ablations.yaml").write_text(f"sweep:\n  more: {{{row}}}\n", encoding="utf-8")
    with pytest.raises(InputError, match=message):
        ablation_rows(Profile(name="test"))


def test_a_profile_that_is_not_utf8_is_one_sentence(folder):
    for encoding in ("latin-1", "utf-16"):
        (folder / "mine.yaml").write_bytes("faces: [~/café]".encode(encoding))
        with pytest.raises(InputError, match="mine.yaml is not valid YAML in UTF-8"):
            load_profile("mine")
    (folder / "mine.yaml").write_text("seed: 3", encoding="utf-8-sig")  # as some editors begin a file
    assert load_profile("mine").seed == 3


def test_a_row_may_change_its_own_steps(folder):
    (folder / "ablations.yaml").write_text("sweep:\n  longer: {train_steps: 70}\n", encoding="utf-8")
    assert ablation_rows(Profile(name="test"))["sweep"]["longer"].train_steps == 70


def test_the_command_prints_a_profile_or_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["runs", "profile", "smoke"])
    command.main()
    settings = yaml.safe_load(capsys.readouterr().out)
    assert profile_of(settings | {key: list(settings[key]) for key in ("faces", "styles")}) == load_profile("smoke")
    monkeypatch.setattr(sys, "argv", ["runs", "profile", "nonsense"])
    with pytest.raises(SystemExit, match=r"^\n[^\n]* choose one of bench, paper, quick[^\n]*$"):
        command.main()
    assert capsys.readouterr() == ("", "")


# --- weights and keys --------------------------------------------------------------------------------------------


def test_published_weights_have_the_effect_that_its_page_names():
    found, louder = (columns(Profile(name="a"), 512, magnitude) for magnitude in (1.0, 3.5))
    original, readme = found["original"], found["original README"]
    assert original["total_variation"] == pytest.approx(0.2035, abs=1e-4)
    assert original["content"] == original["structure"] == pytest.approx(2.29e-3, rel=1e-3)
    assert (original["surface"], original["texture"]) == (0.1, 1.0)
    assert louder["original"]["content"] == pytest.approx(3.5 * original["content"])
    assert readme["total_variation"] == pytest.approx(2.0, rel=0.03)
    assert readme["content"] == pytest.approx(1.5e-4, rel=0.03)
    assert readme["structure"] == pytest.approx(4.6e-6, rel=0.03)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_last_column_takes_weights_back_to_published_ones(name):
    there = columns(Profile(name="a"), 40, 0.7)[name]
    profile = Profile(name="a", weights=there | {"landmark": 5.0, "anchor": 1.0}, edge_aware=False)
    back = columns(profile, 40, 0.7)["ours in the original's code"]
    assert back == pytest.approx(PUBLISHED[name])  # without landmark and anchor, which nobody published
    assert "total_variation" not in columns(profile.replace(edge_aware=True), 40, 0.7)["ours in the original's code"]


def test_keys_are_stable_and_ignore_what_changes_no_result():
    base = Profile(name="a")
    assert base.key() == Profile(name="b").key() and len(base.key()) == 8
    assert base.key((), "hash") != base.key() != base.replace(seed=1).key()
    same = base.replace(styles=["x"], log_every=7, checkpoint_every=9, ablation_steps=3)
    assert base.key(NOT_IN_KEY) == same.key(NOT_IN_KEY)
    changes = ({"train_steps": 7}, {"weights": {"content": 0.5}}, {"ema": 0.5}, {"tone": False})
    changes += ({"faces": ["x"]}, {"look": {"ink": 0.1}}, {"start_steps": 3}, {"decay": 0.0})
    for change in ({"shown": "y"}, *changes):  # `shown`: whose pictures lie in the folder
        assert base.key(NOT_IN_KEY) != base.replace(**change).key(NOT_IN_KEY)


def test_the_key_is_the_same_in_another_process():
    code = "from cartoonlib.profile import Profile; print(Profile(name='a').key())"
    other = subprocess.run([sys.executable, "-c", code], cwd=files.ROOT, capture_output=True, text=True)
    assert other.stdout.strip() == Profile(name="c").key()


def test_named_settings_exist():
    assert set(NOT_IN_KEY) | set(PRETRAIN_SETTINGS) <= set(FIELDS)
    assert set(START_SETTINGS) <= set(FIELDS) | set(Look.model_fields)
    assert not set(LOSSES) & set(START_SETTINGS) and set(PRETRAIN_SETTINGS) < set(START_SETTINGS)
