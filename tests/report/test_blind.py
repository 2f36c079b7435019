"""The blind comparison: pairs hide what they are, answers come back, and scores find what was planted."""

import json
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
from scipy.special import expit, logit

from cartoonlib import files, networks
from cartoonlib.files import InputError
from cartoonlib.report import __main__ as command
from cartoonlib.report import blind

NAMES = ["ours", "original", "photo"]


def pictures(count=8, names=NAMES):
    """Photos of one grey each, and pictures that tell their name by their first pixel."""
    photos = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(32, 1).repeat(32, 2).repeat(3, 3)
    return photos, {name: photos + 50 * (i + 1) for i, name in enumerate(names)}


@pytest.fixture
def comparison(tmp_path):
    return blind.Comparison(tmp_path, *pictures(), seed=0)


def planted(count, strengths, seed):
    """Answers between all pairs of names, by the model with these strengths: (winner, loser)."""
    draw, wins = np.random.default_rng(seed), []
    for _ in range(count):
        i, j = draw.choice(len(strengths), 2, replace=False)
        first = draw.random() < expit(strengths[i] - strengths[j])
        wins.append((NAMES[i], NAMES[j]) if first else (NAMES[j], NAMES[i]))
    return wins


def test_planted_preferences_come_back_in_their_order_and_inside_the_interval():
    strengths = np.array([1.0, 0.3, -1.3])
    covered, ordered = [], []
    for seed in range(60):
        found = blind.bradley_terry(planted(150, strengths, seed), NAMES)
        covered.append([found[n]["low"] <= expit(s) <= found[n]["high"] for n, s in zip(NAMES, strengths, strict=True)])
        ordered.append(sorted(NAMES, key=lambda name: -found[name]["value"]) == NAMES)
    assert np.mean(ordered) > 0.95 and 0.9 <= np.mean(covered) < 1
    found = blind.bradley_terry(planted(4000, strengths, 0), NAMES)
    assert [found[name]["value"] for name in NAMES] == pytest.approx(expit(strengths), abs=0.02)
    assert all(row["high"] - row["low"] < 0.06 for row in found.values())


def test_who_always_wins_has_a_score_and_one_who_was_never_shown_a_wide_interval():
    found = blind.bradley_terry([("ours", "original")] * 50, NAMES[:2])
    assert 0.5 < found["ours"]["low"] < 0.9 < found["ours"]["value"] < found["ours"]["high"] < 1
    s = logit(found["ours"]["value"])
    assert 50 * (1 - expit(2 * s)) == pytest.approx(s / blind.PRIOR**2)  # where the posterior is highest
    unseen = blind.bradley_terry([("ours", "original")] * 50, NAMES)["photo"]
    assert unseen["low"] < 0.05 and unseen["high"] > 0.95
    even = blind.bradley_terry([("ours", "original"), ("original", "ours")], NAMES[:2])
    assert even["ours"]["value"] == pytest.approx(0.5) == even["original"]["value"]


def test_pairs_show_two_different_pictures_of_a_photo_on_either_side(comparison):
    photos, columns = pictures()
    assert len(comparison.pairs) == 24  # 8 faces, 3 pairs of names
    for pair, (face, left, right) in comparison.pairs.items():
        assert left != right
        shown = comparison.pictures(pair)
        assert (shown == np.stack([photos[face], columns[left][face], columns[right][face]])).all()
    assert len({(left, right) for _, left, right in comparison.pairs.values()}) == 6  # every two, on both sides
    assert [face for face, *_ in comparison.pairs.values()] != sorted(face for face, *_ in comparison.pairs.values())


def test_the_order_is_the_seeds_and_many_faces_have_a_limit(tmp_path, comparison):
    again, other = (blind.Comparison(tmp_path, *pictures(), seed=seed) for seed in (0, 1))
    assert again.pairs == comparison.pairs != other.pairs and again.folder == comparison.folder != other.folder
    assert len(blind.Comparison(tmp_path, *pictures(40), seed=0).pairs) == blind.MOST


def test_answers_stay_with_the_pictures_that_they_are_about(tmp_path, comparison):
    comparison.answer("3", "left")
    assert blind.Comparison(tmp_path, *pictures(), seed=0).answers() == [("3", "left")]
    photos, columns = pictures()
    columns["ours"] = columns["ours"] + 1  # trained again
    assert blind.Comparison(tmp_path, photos, columns, seed=0).answers() == []


def test_without_answers_it_says_so_and_with_answers_who_was_preferred(comparison):
    assert comparison.answers() == []
    assert comparison.scores() == "No answers were given yet: 24 pairs wait for some."
    order = {"ours": 2, "original": 1, "photo": 0}
    for pair, (_, left, right) in comparison.pairs.items():
        comparison.answer(pair, "left" if order[left] > order[right] else "right")
    lines = comparison.scores().splitlines()
    assert lines[0] == "| picture | preferred to an average one | answers |"
    values = {name: float(text.split()[0]) for name, text, _ in (line.strip("| ").split(" | ") for line in lines[2:])}
    assert values["ours"] > values["original"] > values["photo"] and all(line.endswith(" 16 |") for line in lines[2:])


def test_a_form_filled_in_by_hand_is_read_and_a_wrong_line_is_one_sentence(comparison):
    form = comparison.file.read_text(encoding="utf-8")
    assert form.startswith("pair,answer\n1,\n2,\n") and "ours" not in form
    comparison.file.write_text(form.replace("\n1,\n2,\n", "\n1, Left\n2,RIGHT\n") + "1,right\n\n", encoding="utf-8")
    assert comparison.answers() == [("1", "left"), ("2", "right"), ("1", "right")]
    for wrong in ("2,both", "99,left", "2;left", "left,2"):
        comparison.file.write_text(form.replace("\n2,\n", f"\n{wrong}\n"), encoding="utf-8")
        with pytest.raises(
            InputError, match=r"answers.csv: .* is not a pair of the sheets, a comma, and left or right"
        ):
            comparison.answers()


def test_the_key_says_what_was_what(comparison):
    key = json.loads((comparison.folder / "key.json").read_text(encoding="utf-8"))["face, left, right"]
    assert {pair: tuple(what) for pair, what in key.items()} == comparison.pairs


def test_the_command_makes_sheets_of_generators_and_reads_their_answers(tmp_path, monkeypatch, capsys, face_photos):
    monkeypatch.setattr(blind, "Sets", lambda profile: SimpleNamespace(shown=face_photos[:, :64, :64]))
    paths = [tmp_path / f"{name}.safetensors" for name in "ab"]
    for path in paths:
        networks.save_generator(networks.Generator().half(), path)
    words = ["report", "blind", "smoke", *map(str, paths), "photo", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(command.sys, "argv", words)
    command.main()
    (folder,) = (tmp_path / "out").iterdir()
    assert sorted(p.name for p in folder.iterdir()) == ["answers.csv", "key.json", "sheet-01.png"]
    assert "No answers were given yet: 6 pairs wait" in capsys.readouterr().out
    answers = (folder / "answers.csv").read_text(encoding="utf-8").replace("\n1,", "\n1,left")
    (folder / "answers.csv").write_text(answers, encoding="utf-8")
    before = (folder / "sheet-01.png").stat().st_mtime_ns
    command.main()
    assert (folder / "sheet-01.png").stat().st_mtime_ns == before
    assert f"| {paths[0]} | " in capsys.readouterr().out


@pytest.mark.parametrize(
    "given, message",
    [([], "two .safetensors files or more"), (["nothing.safetensors", "photo"], "nothing.safetensors is no generator")],
)
def test_what_is_no_generator_is_one_sentence(given, message, monkeypatch, face_photos, tmp_path):
    monkeypatch.setattr(blind, "Sets", lambda profile: SimpleNamespace(shown=face_photos))
    with pytest.raises(InputError, match=message):
        blind.compare("smoke", given, tmp_path)


def test_the_buttons_of_the_notebook_keep_answers_until_none_is_left(tmp_path, monkeypatch):
    path = next(files.NOTEBOOKS.glob("*_evaluation.ipynb"))
    cells = {cell.id: cell.source for cell in nbformat.read(path, as_version=4).cells}
    import ipywidgets as widgets

    from cartoonlib.photos import page
    from cartoonlib.runs import store

    photos, columns = pictures(2)
    names = {"widgets": widgets, "page": page, "blind": blind, "store": store, "photos": photos, "ablation_style": "a"}
    names |= {"report": SimpleNamespace(runs=tmp_path, folder=tmp_path, device="cpu"), "table": {"runs": {}}}
    names |= {"runs": {"a": SimpleNamespace(generator=lambda device: None)}, "p": SimpleNamespace(seed=0)}
    names |= {
        "metrics": SimpleNamespace(generate=lambda *_: columns["ours"]),
        "display": lambda shown: None,
        "Markdown": str,
    }
    exec(cells["blind-buttons"], names)
    exec(cells["blind-pairs"], names)
    (left, right), comparison = names["buttons"], names["comparison"]
    assert names["note"].value == "Photo, left, right. 2 pairs wait for an answer." and not left.disabled
    assert names["pictures"][0].value == page.preview(comparison.pictures("1")[0])
    left.click()
    assert names["pictures"][2].value == page.preview(comparison.pictures("2")[2])
    right.click()
    assert left.disabled and right.disabled and comparison.answers() == [("1", "left"), ("2", "right")]
    assert "| photo |" in comparison.scores()
