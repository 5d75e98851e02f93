"""`report.html`: a run on one page, from its scores to the command that began it."""

import json
import pathlib
import statistics
from collections.abc import Mapping
from typing import Any

from toco_jax.report import blocks, curves, html, scores
from toco_jax.report.blocks import PREDICTORS, Block
from toco_jax.report.reading import StoredRun, read_run
from toco_jax.run import records
from toco_jax.runtime.outputs import write_atomically
from toco_jax.runtime.stopwatch import format_seconds

PANELS = ("image", "truth", "CAM", "pseudo label", "segmentation")
_STATIC = PANELS[:2]
_VALIDATION = "val/"
# Scores that are logged at evaluations, and their names.
SCORES = {"seg_miou": "segmentation", "cam_miou": "CAM", "aux_cam_miou": "auxiliary CAM"}
SCORES |= {"cls_f1": "classification F1"}


def write(
    workdir: pathlib.Path,
    path: pathlib.Path | None = None,
    *,
    results: dict[str, Any] | None = None,
) -> pathlib.Path:
    """Writes the report of a run and returns its path.

    Args:
        workdir: the run's folder.
        path: the file; `report.html` in the folder if None.
        results: scores after the last step, where `results.json` does not hold them yet.

    Raises:
        CheckpointError: it is no run, or a file that every run has is damaged.
        OSError: the file cannot be written.
    """
    path = path or workdir / records.REPORT_FILE
    run = read_run(workdir, results=results)
    write_atomically(path, html.page(f"{name_of(run)}: ToCo", content(run)))
    return path


def name_of(run: StoredRun) -> str:
    """Returns what a page calls a run."""
    return "/".join(run.folder.absolute().parts[-2:])


def content(run: StoredRun) -> dict[str, Any]:
    """Returns what the page shows."""
    return {
        "title": name_of(run),
        "about": _about(run),
        "remarks": run.remarks,
        "sections": [
            blocks.section("Result", *result_blocks(run)),
            blocks.section("Training", blocks.charts(*_charts(run))),
            blocks.section("Classes", scores.by_class(_all_rows(run))),
            blocks.section("Pictures", _gallery(run), *_extremes(run)),
            blocks.section("Speed and memory", _speed(run), _speed_chart(run)),
            blocks.section("How it was made", *_origin(run)),
        ],
    }


def _about(run: StoredRun) -> str:
    total = run.config.get("total_steps")
    data, backbone = _data(run.config), run.config.get("backbone", "")
    state = "finished" if run.results is not None else "not finished"
    return f"{state}: step {run.step} of {total}; {data}; {backbone}; seed {run.config.get('seed')}"


def _data(config: Mapping[str, Any]) -> str:
    data = config.get("data")
    if not isinstance(data, dict):
        return ""
    return f"{data.get('source')}, {data.get('train_split')} and {data.get('val_split')}"


def result_blocks(run: StoredRun) -> list[Block | None]:
    """Returns the scores: the most important ones large, all protocols and published ones."""
    if (found := run.scores) is None:
        return [blocks.text("There is no evaluation yet.")]
    rows = _all_rows(run)
    return [
        scores.cards(rows, found.get("protocol")),
        scores.table(rows),
        scores.published_table(run.config, rows),
        scores.baselines(found),
    ]


def _all_rows(run: StoredRun) -> list[dict[str, Any]]:
    """Returns the rows of training and then the others of `evaluate`, each with its `of`."""
    found: dict[tuple, dict[str, Any]] = {}
    for scored in filter(None, (run.scores, run.evaluated)):
        for row in scored["rows"]:
            known = row["predictor"], row["description"], scored.get("split"), scored.get("step")
            found.setdefault(known, row | {"of": scored})
    return list(found.values())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _charts(run: StoredRun) -> list[Block | None]:
    losses = {name: curve for name, curve in run.curves.items() if not name.startswith(_VALIDATION)}
    terms = sorted(losses, key=lambda name: name != "total")
    means = [
        curves.series(title, run.curves[_VALIDATION + name])
        for name, title in SCORES.items()
        if _VALIDATION + name in run.curves
    ]
    shown = [curves.series(name, losses[name]) for name in terms]
    rate = _curve_of(run, "learning_rate")
    return [
        blocks.chart("Loss terms", shown, log=True, noisy=True),
        blocks.chart("Scores at evaluations", means, unit="%"),
        blocks.chart("Learning rate of the encoder", rate),
    ]


def _curve_of(run: StoredRun, name: str) -> list[dict[str, Any]]:
    points = run.evaluations[-1][name] if run.evaluations else []
    curve = [int(x) for x, _ in points], [float(y) for _, y in points]
    return [curves.series(name.replace("_", " "), curve)]


def _class_names(run: StoredRun) -> list[str]:
    rows = (run.scores or {}).get("rows", ())
    return list(rows[0]["iou"])[1:] if rows else []


def _gallery(run: StoredRun) -> Block | None:
    """Returns the samples of the last evaluation at every evaluation that has pictures of them."""
    if not run.evaluations:
        return None
    found = [
        {one["name"]: one for one in entry["pictures"]["samples"]} for entry in run.evaluations
    ]
    images = [
        {
            "name": name,
            "note": ", ".join(last["classes"]),
            "pictures": {panel: last[panel] for panel in _STATIC}
            | {panel: [at.get(name, {}).get(panel) for at in found] for panel in PANELS[2:]},
        }
        for name, last in found[-1].items()
    ]
    steps = [entry["step"] for entry in run.evaluations]
    present = [name for one in found[-1].values() for name in one["classes"]]
    labels = blocks.legend(_class_names(run), present)
    return blocks.pictures(PANELS, images, labels, steps=steps)


def _extremes(run: StoredRun) -> list[Block | None]:
    if not run.evaluations:
        return []
    last = run.evaluations[-1]
    predictor = PREDICTORS.get(str(last["pictures"].get("predictor")), "")
    found = []
    for kind in ("worst", "best"):
        images = [
            {
                "name": one["name"],
                "note": f"{blocks.percent(one.get('miou'))} %; {', '.join(one['classes'])}",
                "pictures": {panel: one[panel] for panel in PANELS},
            }
            for one in last["pictures"][kind]
        ]
        title = f"The {kind} images of step {last['step']}, by the mIoU of their {predictor}"
        found.append(blocks.pictures(PANELS, images, [], title=title))
    return found


def _speed(run: StoredRun) -> Block | None:
    if not run.evaluations:
        return None
    last = run.evaluations[-1]
    rates = [y for _, y in last["speed"]]
    memory, seconds = last["memory"], (run.results or last).get("seconds")
    values = {}
    if isinstance(seconds, int | float):
        values["training took"] = f"{format_seconds(seconds)} (h:m:s) until step {last['step']}"
    if rates:
        values["median of the log lines"] = f"{statistics.median(rates):.1f} images/s"
    for name, key in (("most memory of a device", "device"), ("of the process", "host")):
        if _is_number(memory.get(key)):
            values[name] = f"{memory[key] / 2**30:.2f} GiB"
    return blocks.facts("", values | last["hardware"])


def _speed_chart(run: StoredRun) -> Block:
    rate = _curve_of(run, "speed") if run.evaluations else []
    return blocks.charts(blocks.chart("Speed between log lines", rate, unit="images/s"))


def _origin(run: StoredRun) -> list[Block | None]:
    last = run.evaluations[-1] if run.evaluations else {}
    command = {"command": last["command"]} if isinstance(last.get("command"), str) else {}
    start = {name: value for name, value in (run.start or {}).items() if value is not None}
    changes = [
        [str(change.get("step")), str(change.get("time")), _shown(change.get("changed"))]
        for change in run.changes
    ]
    return [
        blocks.facts("Command", command | {"folder": str(run.folder.absolute())}),
        blocks.facts("Initial weights", start),
        blocks.facts("Versions", last.get("versions", {})),
        blocks.table(["step", "time", "changed: old and new value"], changes, title="Changes"),
        blocks.facts("Configuration", flat(run.config), is_open=False),
    ]


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Returns the values of nested groups by dotted key, as JSON writes them."""
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict) and len(prefix) < 100:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = _shown(value)
    return found


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:500]
