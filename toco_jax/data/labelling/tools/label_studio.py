"""Reads Label Studio's exports JSON, JSON-MIN and CSV.

Choices for the whole image are labels, and so are those of its regions: rectangles, polygons,
ellipses, brushes and key points. A region's own choices, predictions and drafts are not read.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from toco_jax.data.image_files import IMAGE_ENDINGS
from toco_jax.data.labelling.tools.matching import path_of
from toco_jax.data.labelling.tools.project import Project, Tagged, a_text, an_object, objects, texts
from toco_jax.runtime import json_text
from toco_jax.runtime.errors import DataError, shown, some_of

TOOL = "Label Studio"

# What JSON-MIN adds to the task's data and to the annotation.
_OF_MIN = frozenset(
    (
        *("id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time"),
        *("agreement", "history"),
    )
)
_REGION_LABELS = re.compile("[a-z]*labels")
_OF_REGIONS = frozenset(("x", "points", "rle", "vertices"))
_UNLABELLED = "without choices or labels of regions"
_UNREAD = frozenset(("taxonomy", "pairwise", "ranker"))


def is_tasks(content: Any) -> bool:
    """Whether parsed JSON is the export JSON: tasks with their annotations."""
    first = content[0] if isinstance(content, list) and content else None
    return (
        isinstance(first, dict)
        and isinstance(first.get("data"), dict)
        and not {"annotations", "completions", "drafts", "predictions"}.isdisjoint(first)
    )


def is_min(content: Any) -> bool:
    """Whether parsed JSON is the export JSON-MIN: one flat entry per annotation."""
    first = content[0] if isinstance(content, list) and content else None
    return isinstance(first, dict) and {"id", "annotation_id"} <= first.keys()


def of_tasks(content: Any, where: str) -> Project:
    """Reads the export JSON; `where` begins the message of a `DataError`."""
    images, unread = [], set()
    for number, task in enumerate(objects(content, "the list of tasks", where), start=1):
        place = f"task {shown(task.get('id', number))}"
        inside = f"{where}, {place}"
        name = _image_of(an_object(task.get("data"), "data", inside), inside)
        key = "annotations" if "annotations" in task else "completions"
        annotations = objects(task.get(key), key, inside)
        kept = [a for a in annotations if not (a.get("was_cancelled") or a.get("skipped"))]
        kept = [a for a in kept if a.get("ground_truth") is True] or kept
        versions = []
        for annotation in kept:
            results = objects(annotation.get("result"), "result", inside)
            labels = _labels_of_results(results, inside)
            versions += [labels] if labels or not results else []
            unread |= {str(result.get("type")) for result in results} & _UNREAD
        otherwise = _UNLABELLED if kept else "skipped" if annotations else "unfinished"
        images.append(_tagged(name, versions, place, otherwise))
    said = [f"results of these kinds are not read: {', '.join(sorted(unread))}"] if unread else []
    return Project(TOOL, "task", images, remarks=said)


def of_min(content: Any, where: str) -> Project:
    """Reads the export JSON-MIN, which leaves skipped tasks out."""
    entries = objects(content, "the list of entries", where)
    tasks: dict[Any, tuple[str, str, list[list[str]]]] = {}
    unread: set[Any] = set()
    columns = _label_columns(entries, where)
    for number, entry in enumerate(entries, start=1):
        ident = entry.get("id", number)
        place = f"task {shown(ident)}"
        inside = f"{where}, {place}"
        name = _image_of(entry, inside)
        key = (ident if isinstance(ident, int | str) else number, name)
        _, _, versions = tasks.setdefault(key, (name, place, []))
        if entry.get("annotation_id") is None:
            continue
        labels = _labels_of_columns(entry, columns, inside)
        if labels or not any(entry.get(column) for column in columns):
            versions.append(labels)
        else:
            unread.add(key)
    images = [
        _tagged(name, versions, place, _UNLABELLED if key in unread else "unfinished")
        for key, (name, place, versions) in tasks.items()
    ]
    return Project(f"{TOOL} (JSON-MIN)", "task", images)


def is_table(heading: Sequence[str]) -> bool:
    """Whether a table's heading is that of the export CSV, which has the fields of JSON-MIN."""
    return {"id", "annotation_id", "annotator"} <= set(heading)


def of_table(heading: Sequence[str], rows: Iterable[Sequence[str]], where: str) -> Project:
    """Reads the export CSV, whose cells are empty, texts or JSON."""
    entries = [dict(zip(heading, map(_cell, row), strict=False)) for row in rows]
    return of_min(entries, where)._replace(tool=f"{TOOL} (CSV)")


def _cell(text: str) -> Any:
    if text[:1] in ("{", "["):
        try:
            return json_text.parse(text)
        except ValueError:
            pass  # a text that begins so
    return text or None


def _tagged(name: str, versions: Sequence[list[str]], place: str, otherwise: str) -> Tagged:
    """Joins the labels by several annotators, who have to agree; `otherwise`: if there are none."""
    if not versions:
        return Tagged(name, (), place, otherwise)
    if any(set(labels) != set(versions[0]) for labels in versions):
        return Tagged(name, (), place, "labelled differently by several annotators")
    return Tagged(name, versions[0], place)


def _labels_of_results(results: Iterable[Mapping], where: str) -> list[str]:
    labels: list[str] = []
    for result in results:
        kind = a_text(result.get("type"), "type of a result", where)
        value = an_object(result.get("value"), "value of a result", where)
        if kind == "choices" and not _OF_REGIONS & value.keys():
            labels += texts(value.get("choices"), "choices", where)
        elif _REGION_LABELS.fullmatch(kind):
            labels += texts(value.get(kind, []), kind, where)
    return list(dict.fromkeys(labels))


def _label_columns(entries: Sequence[Mapping], where: str) -> list[str]:
    """Finds the fields of JSON-MIN that hold labels, beside those of the task's own data.

    A single choice is written as a bare text, as the data are.
    """
    certain: dict[str, None] = {}
    possible: dict[str, None] = {}
    for entry in entries:
        for key, value in entry.items():
            if key in _OF_MIN or value in (None, "", []) or _names_picture(value):
                continue
            parts = value if isinstance(value, list) else [value]
            is_certain = any(isinstance(part, dict) for part in parts)
            (certain if is_certain else possible)[key] = None
    unclear = [key for key in possible if key not in certain]
    if len(unclear) > (not certain):
        raise DataError(
            f"{where} does not say whether these fields are labels: {some_of(unclear)}; export it "
            "as JSON instead of JSON-MIN"
        )
    return [*certain, *unclear]


def _labels_of_columns(entry: Mapping, columns: Sequence[str], where: str) -> list[str]:
    labels: list[str] = []
    for column in columns:
        value = entry.get(column)
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, str):
                labels += texts(part, column, where) if part else []
                continue
            fields = an_object(part, column, where)
            of_image = not _OF_REGIONS & fields.keys()
            for key, names in fields.items():
                if _REGION_LABELS.fullmatch(key) or (key == "choices" and of_image):
                    labels += texts(names, key, where)
    return list(dict.fromkeys(labels))


def _image_of(data: Mapping, where: str) -> str:
    """Returns the address of a task's image."""
    found = {key: value for key, value in data.items() if _names_picture(value)}
    if not found and _is_address(data.get("image")):
        found = {"image": data["image"]}
    if len(found) > 1 and "image" in found:
        found = {"image": found["image"]}
    if len(found) != 1:
        which = f"several images ({some_of(found)})" if found else "no image"
        raise DataError(
            f"{where} has {which} in its data; keep the task's one image there, with the ending of "
            "a picture"
        )
    return next(iter(found.values()))


def _is_address(value: Any) -> bool:
    # Some tasks hold the picture itself, as `data:image/png;base64,...`.
    return isinstance(value, str) and value != "" and not value.startswith("data:")


def _names_picture(value: Any) -> bool:
    return _is_address(value) and path_of(value).lower().endswith(IMAGE_ENDINGS)
