"""Parses JSON that anybody may have written, and writes JSON that is too long for the memory."""

import json
from collections.abc import Iterator, Mapping
from typing import Any


def parse(text: str | bytes, **options: Any) -> Any:
    """Parses JSON like `json.loads`, with its options.

    Raises:
        ValueError: it is no JSON, or it is nested more deeply than Python can follow.
    """
    try:
        return json.loads(text, **options)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def object_text(content: Mapping[str, Any], *, indent: int | None = None) -> Iterator[str]:
    """Yields the text of a JSON object, one value of it at a time.

    Args:
        content: the object's values; iterators among them become lists.
        indent: spaces by which the items of these lists are indented within; None writes each item
            on one line.
    """
    start = "{\n "
    for key, value in content.items():
        yield f"{start}{json.dumps(key)}: "
        if isinstance(value, Iterator):
            yield from list_text(value, indent=indent, margin=" ")
        else:
            yield json.dumps(value, indent=1).replace("\n", "\n ")
        start = ",\n "
    yield "\n}\n"


def list_text(
    items: Iterator[Any], *, indent: int | None = None, margin: str = ""
) -> Iterator[str]:
    """Yields the text of a JSON list, one item at a time; see `object_text`."""
    start = f"[\n{margin} "
    for item in items:
        yield start + json.dumps(item, indent=indent).replace("\n", f"\n{margin} ")
        start = f",\n{margin} "
    yield "[]" if start.startswith("[") else f"\n{margin}]"
