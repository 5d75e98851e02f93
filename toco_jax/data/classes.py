"""Class names in label order (label k + 1 is name k), and the colours labels are shown in."""

import itertools
import re
import unicodedata
from collections.abc import Iterable

import numpy as np

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
    """PASCAL VOC's colours of the labels 0..n-1: uint8 [n, 3] RGB, n at most 256.

    Bits 0, 1, 2 of a label become the top bits of red, green and blue, bits 3, 4, 5 the next ones,
    and so on. Background is black and 255 (ignored) is (224, 224, 192).
    """
    label = np.arange(n, dtype=np.uint8)
    colour = np.zeros((n, 3), np.uint8)
    for bit in range(8):
        colour[:, bit % 3] |= ((label >> bit) & 1) << (7 - bit // 3)
    return colour


def folded(name: str) -> str:
    """A name without what the eye overlooks: case, width, composition, white space, marks that
    are not drawn. Two classes that agree in it cannot be told apart in a table."""
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return " ".join("".join(c for c in plain if unicodedata.category(c) != "Cf").split())


def is_background(name: str) -> bool:
    """Whether a name means label 0, in any spelling (`Background`, `__background__`)."""
    return folded(name).strip("_ ") == "background"


def name_problems(names: Iterable[str]) -> list[str]:
    """What is wrong with the names of classes, a sentence a fault with its remedy.

    At fault are names that look alike and names that no table can show.
    """
    problems, spellings = [], {}
    for name in names:
        spellings.setdefault(folded(name), []).append(name)
        if not folded(name) or any(
            unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in name
        ):
            problems.append(
                f"class {name!r} has no letters or a control character or line break in its name, "
                "which no table or file can hold; rename it"
            )
    for alike in spellings.values():
        for one, other in itertools.pairwise(alike):
            composed = {unicodedata.normalize("NFC", name) for name in (one, other)}
            shown = repr if len(composed) == 2 else ascii
            problems.append(
                f"classes {shown(one)} and {shown(other)} differ in case, white space or the "
                "encoding of a letter alone; give both one spelling"
            )
    return problems


def in_label_order(names: Iterable[str], *, masks: bool) -> tuple[tuple[str, ...], str, str]:
    """Class names that nobody put in order, as labels count them.

    Args:
        names: distinct names.
        masks: whether there are masks, whose values the order gives a meaning.

    Returns:
        The names in alphabetical order, or in numeric order where all are whole numbers; a remark
        on the order, "" where there is nothing to say; and what makes the order a guess, "" if
        nothing does.
    """
    names = sorted(names)
    if names and all(re.fullmatch("[0-9]+", name) for name in names):
        ordered = tuple(sorted(names, key=int))
        said = [f"{name!r} is label {label}" for label, name in enumerate(ordered, start=1)]
        skips = [text for label, text in enumerate(said, 1) if int(ordered[label - 1]) != label]
        if masks and skips:
            return ordered, "", f"the classes are numbers, of which {skips[0]} of the masks"
        remark = "" if ordered == tuple(names) else f"in numeric order: {said[0]}, {said[-1]}"
        return ordered, remark, ""
    if masks and sorted(names, key=_natural) != names:
        one, other = next((a, b) for a, b in itertools.pairwise(names) if _natural(a) > _natural(b))
        return tuple(names), "", f"class {one!r} comes before {other!r} in the alphabet"
    return tuple(names), "", ""


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts c2 before c10."""
    parts = re.split("([0-9]+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
