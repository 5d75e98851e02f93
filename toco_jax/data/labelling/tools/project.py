"""What the file of an annotation tool says, and how its fields are read."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from toco_jax.runtime.errors import DataError, shown

_REMEDY = "export the labels again, or correct it"


class Tagged(NamedTuple):
    """An image as a tool's file describes it.

    Attributes:
        name: path or address of the image in the file.
        labels: names of the classes in it, each once; no matter where `unlabelled` is set.
        place: where the image stands in the file, such as "task 7".
        unlabelled: why the image counts as not labelled, such as "skipped"; "" if it is labelled.
        subset: name of its part of the data set, whose folder it may lie in; "" if there is none.
    """

    name: str
    labels: Sequence[str]
    place: str
    unlabelled: str = ""
    subset: str = ""


class Project(NamedTuple):
    """The content of a tool's file.

    Attributes:
        tool: name of the tool or format.
        noun: what the tool calls an entry, such as "task".
        images: every image of the file.
        classes: the classes in the file's order; empty if it has no list of them.
        remarks: how the file was read, each to follow its name and a colon.
    """

    tool: str
    noun: str
    images: Sequence[Tagged]
    classes: Sequence[str] = ()
    remarks: Sequence[str] = ()


def objects(value: Any, key: str, where: str) -> list[dict]:
    """Returns a list of JSON objects, empty for None; `key` and `where` are for the message."""
    items = [] if value is None else value
    if not isinstance(items, list):
        raise DataError(f"{where}: {key} is {shown(value)}, not a list; {_REMEDY}")
    for number, item in enumerate(items, start=1):
        if not isinstance(item, dict):
            raise DataError(
                f"{where}: {key} holds {shown(item)} in place {number}, not an object; {_REMEDY}"
            )
    return items


def an_object(value: Any, key: str, where: str) -> dict:
    """Returns a JSON object, empty for None."""
    if value is not None and not isinstance(value, dict):
        raise DataError(f"{where}: {key} is {shown(value)}, not an object; {_REMEDY}")
    return value or {}


def a_text(value: Any, key: str, where: str) -> str:
    """Returns a text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        said = "missing or empty" if value in (None, "") else f"{shown(value)}, not a text"
        raise DataError(f"{where}: {key} is {said}; {_REMEDY}")
    return value


def texts(value: Any, key: str, where: str) -> list[str]:
    """Returns a list of texts; one text alone counts as a list of it."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list):
        raise DataError(f"{where}: {key} is {shown(value)}, not a list of names; {_REMEDY}")
    return [a_text(item, f"a name in {key}", where).strip() for item in items]
