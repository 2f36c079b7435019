"""What the measurements say: whether the goals were met, how far other seeds lie, and which faces fared worst.

Rows are those of metrics.json, a dict for each style, variant and metric (see metrics.rows).
"""

import numpy as np

from ..runs.store import Run
from . import metrics, tables

Estimates = dict[str, dict[str, metrics.Estimate]]  # variant -> metric -> estimate
STYLE_DISTANCE, OF_STYLES = 0.55, {"anime": 0.35}  # at most, as a part of the untouched photo's; of single styles
LIMITS = (  # goal, metric, sign, limit: what the worse end of the interval has to meet
    ("landmark error", "landmark_error", "<=", 0.045),  # in units of the eye distance
    ("faces known again", "likeness", ">=", 0.98),
    ("strokes on the forehead / the photo's", "stroke", "<=", 1.15),
    ("mesh / the photo's", "mesh", "<=", 1.2),
    ("dark skin, change of L", "skin_dark", "+-", 8.0),
    ("middle skin, change of L", "skin_middle", "+-", 8.0),
    ("light skin, change of L", "skin_light", "+-", 8.0),
)
COMPARISONS = (  # goal, the row of the ablation table to be better than, its group, the metric
    ("KID x 1000 below the original's, equal steps", "original", "original", "kid_cartoon"),
    ("landmark error below that without the loss, equal steps", "without landmark", "without", "landmark_error"),
)
COMPARED = (*tables.STYLE, "landmark_error", "stroke", "mesh", "content_distance", "flatness")  # metrics of differences


def measure_style(evaluator: metrics.Evaluator, run: Run, style: str, seed: int) -> tuple[Estimates, list[dict]]:
    """Measure a style's generator, beside the untouched photos and the held-out cartoons: estimates, and their rows."""
    photos, generator = evaluator.photos, run.generator(evaluator.device)
    own = evaluator.measure(metrics.generate(generator, photos, evaluator.device))
    own["milliseconds"] = metrics.milliseconds(generator, photos[:30], evaluator.device)
    photo = evaluator.measure(photos)
    cartoons = {"flatness": metrics.mean_estimate(metrics.flatness(evaluator.cartoons))}
    rows = metrics.rows(photo, evaluator.networks, None, style, "untouched photo", "photo", seed)
    rows += metrics.rows(cartoons, evaluator.networks, None, style, "held-out cartoons", "cartoons", seed)
    rows += metrics.rows(own, evaluator.networks, run, style, "full method", "style", seed)
    return {"untouched photo": photo, "held-out cartoons": cartoons, "full method": own}, rows


def goals(rows: list[dict], ablations: dict, styles: list[str]) -> list[dict]:
    """The goals, each as a dict with `goal`, `style`, `sign`, `limit`, what was found and whether it was `met`.

    What was found is `value`, `low` and `high`; the worse end of the interval has to meet the limit. A goal that
    compares two rows of the ablation table, which is in the first style, has the other row's low end as its limit, and
    all of that row as `reference`. When the other row collapsed there is no limit: `stopped` names it, and `met` is
    None.

    rows: of metrics.json.  ablations: content of ablations.json.  styles: those with a generator, in order.
    """
    keys, interval = ("style", "variant", "group", "metric"), ("value", "low", "high")
    found = {tuple(row[key] for key in keys): {key: row[key] for key in interval} for row in rows}
    result = []
    for style in styles:
        first = ("style distance / the photo's", "style_distance", "<=", OF_STYLES.get(style, STYLE_DISTANCE))
        others = (("untouched photo", "photo"), ("held-out cartoons", "cartoons"))
        halfway = float(np.mean([found[style, *other, "flatness"]["value"] for other in others]))
        last = ("share of flat pixels, half way to the cartoons'", "flatness", ">=", halfway)
        for goal, metric, sign, limit in (first, *LIMITS, last):
            row = found[style, "full method", "style", metric]
            met = {"<=": row["high"] <= limit, ">=": row["low"] >= limit, "+-": max(-row["low"], row["high"]) <= limit}
            result.append({"goal": goal, "style": style, "sign": sign, "limit": limit, **row, "met": met[sign]})
    style = styles[0]
    for goal, variant, group, metric in COMPARISONS:
        ours, other = found.get((style, "full method", "full", metric)), found.get((style, variant, group, metric))
        about = {"goal": goal, "style": style, "limit": other["low"] if other else None}
        if ours and other:
            reference, met = {"variant": variant, **other}, ours["high"] < other["low"]
            result.append({**about, **ours, "reference": reference, "met": met})
        elif "stopped" in ablations["runs"].get(variant, {}):
            result.append({**about, "stopped": variant, "met": None})
    return result


def seeds(rows: list[dict], groups: dict) -> list[dict]:
    """Rows of the ablation table beside those that repeat them with other seeds: values, mean and deviation (n - 1).

    rows: of metrics.json.  groups: group -> titles of its rows; group `again` holds the repeats, `<row>, seed <n>`.
    A row without all of its repeats is left out.
    """
    found = {(row["variant"], row["metric"]): row for row in rows if row["group"] in groups}
    result = []
    for first in dict.fromkeys(title.rpartition(", seed ")[0] for title in groups["again"]):
        titles = [first, *(title for title in groups["again"] if title.startswith(f"{first}, seed "))]
        for metric in (*tables.STYLE, "landmark_error"):
            if all((title, metric) in found for title in titles):
                row, values = found[first, metric], [found[title, metric]["value"] for title in titles]
                about = {"style": row["style"], "variant": first, "metric": metric, "features": row["features"]}
                spread = {"mean": float(np.mean(values)), "deviation": float(np.std(values, ddof=1))}
                result.append({**about, "values": values, **spread})
    return result


def differences(estimates: Estimates, pairs: list[tuple[str, str]], style: str) -> list[dict]:
    """How far variants lie from others in the metrics of COMPARED, with paired intervals.

    estimates: all on the same photos.  pairs: (variant, reference); those of which one was not measured are left out.
    """
    result = []
    for variant, reference in (pair for pair in pairs if set(pair) <= estimates.keys()):
        for metric in COMPARED:
            gap = estimates[variant][metric].minus(estimates[reference][metric])
            about = {"style": style, "variant": variant, "reference": reference, "metric": metric}
            result.append({**about, "value": gap.value, "low": gap.low, "high": gap.high})
    return result
