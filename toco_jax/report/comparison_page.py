"""Several runs on one page, side by side; seeds of one configuration as mean and band."""

import dataclasses
import pathlib
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from toco_jax.report import blocks, curves, html
from toco_jax.report.blocks import PREDICTORS, Block
from toco_jax.report.reading import StoredRun, read_run
from toco_jax.report.run_page import PANELS, SCORES, flat, name_of
from toco_jax.run.records import FREE_KEYS
from toco_jax.runtime.outputs import write_atomically

_MOST_IMAGES = 12
_SEED = "seed"
_TITLES = {"segmentation": "Segmentations", "pseudo label": "Pseudo labels", "CAM": "CAMs"}


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs of one configuration, apart from their seed and from how they were executed."""

    name: str
    runs: tuple[StoredRun, ...]

    def scores(self, key: str) -> list[float]:
        """Returns a score of each run that has it."""
        found = ((run.scores or {}).get(key) for run in self.runs)
        return [value for value in found if isinstance(value, int | float)]


def write(folders: Sequence[pathlib.Path], path: pathlib.Path) -> pathlib.Path:
    """Writes the comparison of runs as an HTML file and returns its path.

    Raises:
        CheckpointError: one is no run, or a file that every run has is damaged.
        OSError: the file cannot be written.
    """
    runs = [read_run(folder) for folder in folders]
    write_atomically(path, html.page("Comparison: ToCo", content(runs)))
    return path


def content(runs: Sequence[StoredRun]) -> dict[str, Any]:
    """Returns what the page shows."""
    groups = grouped(runs)
    number = "1 configuration" if len(groups) == 1 else f"{len(groups)} configurations"
    return {
        "title": f"{len(runs)} runs",
        "about": f"{number}; runs that differ in their seed alone are together",
        "remarks": [remark for run in runs for remark in run.remarks],
        "sections": [
            blocks.section("Result", _result(groups), _differences(groups)),
            blocks.section("Training", blocks.charts(*_charts(groups))),
            blocks.section("Classes", *_classes(groups)),
            blocks.section("Pictures", *_pictures(groups)),
            blocks.section("Runs", _runs(groups)),
        ],
    }


def grouped(runs: Iterable[StoredRun]) -> list[Group]:
    """Puts runs of one configuration together, in the order of the first of each."""
    found: dict[tuple, list[StoredRun]] = {}
    for run in runs:
        found.setdefault(tuple(sorted(_compared(run).items())), []).append(run)
    groups: list[Group] = []
    for members in found.values():
        name = name_of(members[0])
        name += f" and {len(members) - 1} more" if len(members) > 1 else ""
        if name in [group.name for group in groups]:
            name = f"{name} ({len(groups) + 1})"
        groups.append(Group(name, tuple(members)))
    return groups


def _compared(run: StoredRun) -> dict[str, str]:
    values = flat(run.config)
    return {
        key: value
        for key, value in values.items()
        if key not in (*FREE_KEYS, _SEED) and not key.startswith("machine.")
    }


def _result(groups: Sequence[Group]) -> Block | None:
    lines = [
        [group.name, str(len(group.runs))]
        + [_spread(group.scores(key)) for key in SCORES]
        + [", ".join(sorted({str((run.scores or {}).get("step", "-")) for run in group.runs}))]
        for group in groups
    ]
    head = ["configuration", "runs", *SCORES.values(), "step"]
    protocols = sorted(
        {str((run.scores or {}).get("protocol", "?")) for g in groups for run in g.runs}
    )
    note = (
        "In percent: the mean, and of several runs the lowest and the highest. Protocol: "
        f"{', '.join(protocols)}. The segmentation and the CAMs by their mIoU."
    )
    return blocks.table(head, lines, note=note)


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.1f} to {max(values):.1f})"


def _differences(groups: Sequence[Group]) -> Block | None:
    values = [_compared(group.runs[0]) for group in groups]
    keys = dict.fromkeys(key for one in values for key in one)
    lines = [
        [key, *(one.get(key, "-") for one in values)]
        for key in keys
        if len({one.get(key) for one in values}) > 1
    ]
    return blocks.table(["key", *(g.name for g in groups)], lines, title="What differs")


def _charts(groups: Sequence[Group]) -> list[Block | None]:
    names = dict.fromkeys(name for g in groups for run in g.runs for name in run.curves)
    scores = [name for name in (f"val/{key}" for key in SCORES) if name in names]
    terms = sorted((name for name in names if name not in scores), key=lambda name: name != "total")
    return [
        blocks.chart(
            SCORES.get(name.removeprefix("val/"), name),
            [
                curves.band(group.name, found) | {"colour": at}
                for at, group in enumerate(groups)
                if (found := [run.curves[name] for run in group.runs if name in run.curves])
            ],
            unit="%" if name in scores else "",
            noisy=name not in scores,
        )
        for name in (*scores, *terms)
    ]


def _classes(groups: Sequence[Group]) -> list[Block | None]:
    found: list[Block | None] = []
    for predictor, name in PREDICTORS.items():
        ious = [[iou for run in group.runs if (iou := _iou(run, predictor))] for group in groups]
        labels = dict.fromkeys(label for group in ious for iou in group for label in iou)
        rows = {
            label: [_mean(iou.get(label) for iou in group) for group in ious] for label in labels
        }
        if rows:
            found += [blocks.heading(f"IoU of the {name}, mean of the runs, in percent")]
            found += [blocks.grouped([group.name for group in groups], rows)]
    return found


def _iou(run: StoredRun, predictor: str) -> Mapping[str, float | None] | None:
    scores = run.scores or {}
    for row in scores.get("rows", ()):
        if row["predictor"] == predictor and row["protocol"] == scores.get("protocol"):
            return row["iou"]
    return None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _pictures(groups: Sequence[Group]) -> list[Block | None]:
    """Returns the last pictures of the first run of each group, of images that all of them drew."""
    drawn = [(group.name, _samples(group.runs[0])) for group in groups]
    drawn = [(name, samples) for name, samples in drawn if samples]
    if not drawn:
        return []
    first = drawn[0][1]
    shared = [name for name in first if all(name in samples for _, samples in drawn)]
    present = [label for name in shared for label in first[name]["classes"]]
    legend = blocks.legend(_class_names(groups), present)

    def block(panel: str) -> Block | None:
        images = [
            {
                "name": name,
                "note": ", ".join(first[name]["classes"]),
                "pictures": {static: first[name][static] for static in PANELS[:2]}
                | {group: samples[name][panel] for group, samples in drawn},
            }
            for name in shared[:_MOST_IMAGES]
        ]
        panels = [*PANELS[:2], *(group for group, _ in drawn)]
        return blocks.pictures(panels, images, legend, title=_TITLES[panel])

    return [block(panel) for panel in reversed(PANELS[2:])]


def _samples(run: StoredRun) -> dict[str, dict[str, Any]]:
    entries = run.evaluations[-1:]
    return {one["name"]: one for entry in entries for one in entry["pictures"]["samples"]}


def _class_names(groups: Sequence[Group]) -> list[str]:
    for group in groups:
        for row in (group.runs[0].scores or {}).get("rows", ()):
            return list(row["iou"])[1:]
    return []


def _runs(groups: Sequence[Group]) -> Block | None:
    shown: Callable[[Any], str] = blocks.percent
    lines = [
        [name_of(run), group.name, str(run.config.get(_SEED)), str(run.step)]
        + [shown((run.scores or {}).get(key)) for key in SCORES]
        for group in groups
        for run in group.runs
    ]
    return blocks.table(["run", "configuration", "seed", "step", *SCORES.values()], lines)
