"""Reads label files in JSON that scripts write, and tells those of annotation tools apart."""

import pathlib
from typing import Any

from toco_jax.data.labelling.csv_labels import (
    IMAGE_HEADINGS,
    LABEL_HEADINGS,
    Written,
    heading_word,
)
from toco_jax.data.labelling.text_files import read_text
from toco_jax.data.labelling.tools import recognise
from toco_jax.data.labelling.tools.project import Project
from toco_jax.runtime import json_text
from toco_jax.runtime.errors import DataError

_NAME_AND_LABEL = 2


class _Pairs(list):
    """The items of a JSON object that names one key twice."""


def read_json(path: pathlib.Path) -> Project | list[Written]:
    """Reads a label file: what a tool's says, or the entries of any other.

    Raises:
        DataError: it holds something else than labels.
        ValueError: it is no JSON.
    """
    text = read_text(path, "label file")
    if path.suffix.lower() == ".jsonl":
        content = _lines(text)
    else:
        content = json_text.parse(text, object_pairs_hook=_as_object)
    project = recognise.of_json(content, f"label file {path}")
    if project is not None:
        return project
    if isinstance(content, dict | _Pairs):
        items = content.items() if isinstance(content, dict) else content
        return [
            Written(name, dict(value) if isinstance(value, _Pairs) else value, "")
            for name, value in items
        ]
    if not content or not isinstance(content, list) or not isinstance(content[0], dict | _Pairs):
        refuse_content(path, content)
    return [_record(path, number, item) for number, item in enumerate(content, start=1)]


def _lines(text: str) -> list[Any]:
    """Parses text that is JSON in every line."""
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            found += [json_text.parse(line, object_pairs_hook=_as_object)] if line.strip() else []
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
    return found


def refuse_content(path: pathlib.Path, content: Any) -> None:
    """Raises `DataError` for content that is no dictionary from names to labels."""
    raise DataError(
        f"label file {path} holds {type(content).__name__}, not a dictionary from image names to "
        "labels; save {name: label}"
    )


def _as_object(pairs: list[tuple[str, Any]]) -> dict | _Pairs:
    found = dict(pairs)
    return found if len(found) == len(pairs) else _Pairs(pairs)


def _record(path: pathlib.Path, number: int, item: Any) -> Written:
    """Reads an item {"file": name, "label": labels} of a list."""
    fields = list(item.items()) if isinstance(item, dict) else item
    fields = fields if isinstance(item, dict | _Pairs) else []
    words = {heading_word(key): value for key, value in fields}
    names = [words[word] for word in IMAGE_HEADINGS if word in words]
    labels = [value for key, value in fields if heading_word(key) in LABEL_HEADINGS]
    objects = words.get("objects")
    if not labels and isinstance(objects, dict):  # of a data set of boxes on Hugging Face
        labels = [value for key, value in objects.items() if heading_word(key) in LABEL_HEADINGS]
        labels = [list(dict.fromkeys(v)) if _is_plain(v) else v for v in labels]
    if not labels and len(fields) == len(words) == _NAME_AND_LABEL:
        labels = [value for value in words.values() if value is not names[0]] if names else []
    if not names or len(labels) != 1:
        raise DataError(
            f"label file {path}: entry {number} has not one name of an image and one label; write "
            '{"file": name, "label": label}'
        )
    name = dict(names[0]) if isinstance(names[0], _Pairs) else names[0]
    return Written(name, labels[0], f"entry {number}")


def _is_plain(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str | int) for item in value)
