"""Finds the classes that texts name: one, several with a separator between, or none."""

import collections
import dataclasses
import math
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from toco_jax.data.classes import folded, several_names
from toco_jax.data.labelling.other_content import refuse_other_content
from toco_jax.data.labelling.text_files import trimmed
from toco_jax.runtime.errors import DataError, shown, some_of

# What programs write where there is no value; never a class.
MISSING = frozenset(("", "nan", "null", "none", "na", "n/a", "#n/a", "<na>"))

_ALWAYS_APART = re.compile(r"[;|\r\n]")
_KEY = "data.label_separator"


@dataclasses.dataclass(frozen=True)
class Positions:
    """Classes given by their numbers, counted from 0 in the list of classes."""

    numbers: tuple[int, ...]


def is_missing(value: Any) -> bool:
    """Whether a value says that there is none: `None`, NaN, empty or one of `MISSING`."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and trimmed(value).casefold() in MISSING)


def split_texts(
    texts: Mapping[Any, str], known: Collection[str], separator: str, where: str
) -> tuple[dict[Any, list[str]], list[str]]:
    """Splits the label texts of a data set into class names, with a view to all of them.

    `;`, `|` and line ends separate labels. A comma separates if it always stands between labels
    that also occur without each other. Blanks belong to names. A text for which that may be wrong
    is refused, unless the classes are known or the user names a separator.

    Args:
        texts: the text of each image.
        known: all classes, empty if the labels are to tell them.
        separator: the only separator; "" finds it out.
        where: begins the message of a `DataError`.

    Returns:
        The names of each image, and remarks on what was decided.

    Raises:
        DataError: a text may be one label or several.
    """
    if separator:
        apart = re.compile(rf"{re.escape(separator)}|[\r\n]")
        return {name: labels_among(apart.split(text)) for name, text in texts.items()}, []
    refuse_other_content(texts.values(), known, where)
    split = {name: labels_among(_ALWAYS_APART.split(text)) for name, text in texts.items()}
    if known:
        return {
            name: [label for part in parts for label in _known_labels(part, known)]
            for name, parts in split.items()
        }, []
    remarks = []
    several = any(len(parts) > 1 for parts in split.values())
    if _commas_separate(split, several=several, where=where):
        split = {
            name: [label for part in parts for label in labels_among(part.split(","))]
            for name, parts in split.items()
        }
        several = True
        remarks.append(
            f"{where}: labels are split at commas; set {_KEY} to ';' if a comma is part of a name"
        )
    labels = {label for parts in split.values() for label in parts}
    if not several:
        remarks += _blanks_in_names(labels, where)
    if found := several_names(labels):
        label, between = found
        raise DataError(
            f"{where}: {shown(label)} may be one class or several; set {_KEY} to {between!r} if it "
            "separates labels, to ';' if it is part of a name"
        )
    return split, remarks


def labels_among(pieces: Sequence[str]) -> list[str]:
    """Returns the pieces of a text that are labels."""
    return [trimmed(piece) for piece in pieces if not is_missing(piece)]


def _known_labels(part: str, known: Collection[str]) -> list[str]:
    """Splits a part at commas or blanks if all pieces are known classes."""
    if part not in known:
        for pieces in (labels_among(part.split(",")), part.split()):
            if all(piece in known for piece in pieces):
                return pieces
    return [part]


def _commas_separate(split: Mapping[Any, list[str]], *, several: bool, where: str) -> bool:
    """Whether commas stand between labels; `several`: other separators are there."""
    texts = {
        tuple(labels_among(part.split(","))): part for parts in split.values() for part in parts
    }
    uses = collections.Counter(label for labels in texts for label in set(labels))
    # A comma separates if a label beside it also occurs without it.
    separates = {
        texts[labels]: any(uses[label] > 1 for label in labels)
        for labels in sorted(texts)
        if "," in texts[labels]
    }
    for text, separating in separates.items():
        if separating == several:
            raise DataError(
                f"{where}: {shown(text)} may be one class or several; set {_KEY} to ',' if commas "
                "separate labels, to ';' if they are part of a name"
            )
    return bool(separates) and not several


def _blanks_in_names(labels: Collection[str], where: str) -> list[str]:
    """Remarks on names of several words that share words; refuses those that look like tags.

    Tags combine in any order. There are fewer words than combinations, or a word is the last of
    some labels and not of others.
    """
    combined = [label.split() for label in sorted(labels) if " " in label]
    uses = collections.Counter(word for label in labels for word in set(label.split()))
    shared = [" ".join(words) for words in combined if any(uses[word] > 1 for word in words)]
    if not shared:
        return []
    last = {words[-1] for words in combined}
    inner = {word for words in combined for word in words[:-1]}
    if len(last | inner) <= len(combined) or last & inner:
        raise DataError(
            f"{where}: {shown(shared[0])} may be one class or several; set {_KEY} to ' ' if blanks "
            "separate labels, to ';' if they are part of a name"
        )
    number, verb = ("1 label", "is") if len(shared) == 1 else (f"{len(shared)} labels", "are")
    return [
        f"{where}: {number} of several words, such as {shown(shared[0])}, {verb} taken as one "
        f"class each; set {_KEY} to ' ' if blanks separate labels"
    ]


def none_of(class_names: Sequence[str], name: str) -> str:
    """Completes a sentence that begins with a name that is no class."""
    alike = [known for known in class_names if _letters(known) == _letters(name)]
    remedy = "correct the name"
    if alike:
        looks_equal = unicodedata.normalize("NFC", alike[0]) == unicodedata.normalize("NFC", name)
        meant = f"{alike[0][:100]!a}, not {name[:100]!a}" if looks_equal else shown(alike[0])
        remedy = f"did you mean {meant}? Correct the name"
    return f"none of the {number_of_classes(class_names)} ({some_of(class_names)}); {remedy}"


def number_of_classes(class_names: Sequence[str]) -> str:
    """`1 class`, `2 classes`."""
    return "1 class" if len(class_names) == 1 else f"{len(class_names)} classes"


def _letters(name: str) -> str:
    return re.sub(r"[\W_]", "", folded(name))
