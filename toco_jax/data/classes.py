"""Class names in label order (label k + 1 is name k), checks of names, and label colours."""

import itertools
import re
import unicodedata
from collections.abc import Collection, Iterable

import numpy as np

from toco_jax.runtime.errors import shown

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)

COCO_CLASSES = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    *("traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat"),
    *("dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack"),
    *("umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball"),
    *("kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket"),
    *("bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair"),
    *("couch", "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse"),
    *("remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink"),
    *("refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier"),
    "toothbrush",
)


def palette(n: int = 256) -> np.ndarray:
    """Returns PASCAL VOC's colours of the labels 0..n-1: uint8 [n, 3] RGB, n at most 256.

    Bits 0, 1, 2 of a label become the top bits of red, green and blue, bits 3, 4, 5 the next ones,
    and so on. Background is black and 255 (ignored) is (224, 224, 192).
    """
    label = np.arange(n, dtype=np.uint8)
    colour = np.zeros((n, 3), np.uint8)
    for bit in range(8):
        colour[:, bit % 3] |= ((label >> bit) & 1) << (7 - bit // 3)
    return colour


# In characters.
LONGEST_NAME = 200

# Characters that turn the direction of the text after them.
_TURNS_TEXT = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
# What may stand between the names of several classes; the second takes names of several words
# apart, too.
_BETWEEN = (r"\s*[^\w\s]+\s*|[\W_]+and[\W_]+", r"[\W_]+")


def folded(name: str) -> str:
    """Removes the differences between names that a reader overlooks.

    These are case, width and composition of letters, invisible characters, punctuation around a
    name, zeros before a number, and whether white space, hyphens or underscores separate words. Two
    classes with the same folded name are refused.
    """
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    visible = "".join(c for c in plain if unicodedata.category(c) != "Cf")
    name = " ".join(re.split(r"[\s_-]+", visible)).strip(" .,:;!?'\"()[]{}")
    # Python refuses to read numbers of thousands of digits.
    return str(int(name)) if name.isdecimal() and len(name) <= LONGEST_NAME else name


def is_background(name: str) -> bool:
    """Whether a name means label 0: `Background`, `__background__` or, numbered, `0_background`."""
    return re.sub(r"^[\d\W]+", "", folded(name)) == "background"


def several_names(names: Collection[str]) -> tuple[str, str] | None:
    """Finds a class that may stand for several of the others, such as `cat+dog` or `cat and dog`.

    Returns:
        The first such name and what stands between its parts; None if there is none.
    """
    known = {folded(name) for name in names}
    for name, between in itertools.product(sorted(names), _BETWEEN):
        parts = {folded(part) for part in re.split(between, name)}
        found = re.search(between, name)
        if found and len(parts) > 1 and parts <= known:
            return name, found[0]
    return None


def can_be_shown(name: str) -> bool:
    """Whether a table can hold a name: letters or digits, no control characters, not too long."""
    return (
        len(name) <= LONGEST_NAME
        and bool(folded(name))
        and not any(
            unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")
            or unicodedata.bidirectional(c) in _TURNS_TEXT
            for c in name
        )
    )


def name_problems(names: Iterable[str]) -> list[str]:
    """Describes what is wrong with the names of classes, one sentence with a remedy per fault.

    Names are wrong if they look alike, if no table can show them, or if they were damaged when a
    text was converted from another encoding.
    """
    problems: list[str] = []
    spellings: dict[str, list[str]] = {}
    for name in names:
        if len(name) > LONGEST_NAME:
            problems.append(
                f"class {shown(name)} has a name of more than {LONGEST_NAME} characters, which no "
                "table can hold; rename it"
            )
            continue
        spellings.setdefault(folded(name), []).append(name)
        if "\ufffd" in name:
            problems.append(
                f"class {shown(name)} lost a letter when its text was converted from another "
                "encoding; correct the name"
            )
            continue
        if not can_be_shown(name):
            problems.append(
                f"class {shown(name)} has no letters or a control character or line break in its "
                "name, which no table or file can hold; rename it"
            )
    for alike in spellings.values():
        for one, other in itertools.pairwise(alike):
            composed = {unicodedata.normalize("NFC", name) for name in (one, other)}
            quoted = shown if len(composed) == 2 else ascii
            problems.append(
                f"classes {quoted(one)} and {quoted(other)} differ only in case, white space, "
                "punctuation or the encoding of a letter; give both one spelling"
            )
    return problems


def in_label_order(names: Iterable[str], *, masks: bool) -> tuple[tuple[str, ...], str, str]:
    """Puts class names in the order of labels, if no list says the order.

    Args:
        names: distinct names.
        masks: whether there are masks, whose values the order gives a meaning.

    Returns:
        The names in alphabetical order, or in numeric order if all are whole numbers; a remark on
        the order or ""; and why the order is a guess, "" if it is none.
    """
    names = sorted(names)
    if names and all(re.fullmatch("[0-9]{1,18}", name) for name in names):
        ordered = tuple(sorted(names, key=int))
        said = [f"{shown(name)} is label {label}" for label, name in enumerate(ordered, start=1)]
        skips = [text for label, text in enumerate(said, 1) if int(ordered[label - 1]) != label]
        if masks and skips:
            return ordered, "", f"the classes are numbers, of which {skips[0]} of the masks"
        remark = "" if ordered == tuple(names) else f"in numeric order: {said[0]}, {said[-1]}"
        return ordered, remark, ""
    if masks and sorted(names, key=_natural) != names:
        one, other = next((a, b) for a, b in itertools.pairwise(names) if _natural(a) > _natural(b))
        return tuple(names), "", f"class {shown(one)} comes before {shown(other)} in the alphabet"
    return tuple(names), "", ""


def _natural(name: str) -> list[tuple[int, str]]:
    """Returns a key that sorts c2 before c10."""
    parts = re.split("([0-9]{1,18})", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
