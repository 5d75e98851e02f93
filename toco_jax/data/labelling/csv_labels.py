"""Reads tables of labels: CSV files of spreadsheets, scripts and annotation tools."""

import collections
import csv
import io
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from toco_jax.data.image_files import IMAGE_ENDINGS
from toco_jax.data.labelling.text_files import read_text, trimmed
from toco_jax.data.labelling.tools import label_studio
from toco_jax.data.labelling.tools.project import Project
from toco_jax.runtime.errors import DataError, shown, some_of

DELIMITERS = (",", ";", "\t")

# Headings in small letters and digits. If a table has several, the first of this list counts.
IMAGE_HEADINGS = (
    *("filename", "file", "filepath", "fname", "path", "imagename", "imagefile", "imagefilename"),
    *("imagepath", "image", "images", "img", "imgname", "imgpath", "photo", "picture", "name"),
    *("imageindex", "imageid", "imgid", "id"),
)
LABEL_HEADINGS = frozenset(
    (
        *("label", "labels", "class", "classes", "classname", "classnames", "tag", "tags"),
        *("category", "categories", "target", "targets", "labelid", "classid", "categoryid"),
        *("imagelabel", "imagelabels", "findinglabels", "species", "breed"),
    )
)
_INDEX_HEADINGS = ("", "index", "unnamed0")
_TRUTH = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}


class Written(NamedTuple):
    """An entry of a label file: the image's name, its labels, and where the entry stands."""

    name: Any
    value: Any
    place: str


class _Row(NamedTuple):
    line: int
    cells: list[str]


def heading_word(cell: str) -> str:
    """Returns a heading in the spelling of `IMAGE_HEADINGS` and `LABEL_HEADINGS`."""
    return re.sub(r"[\W_]", "", cell.casefold())


def read_csv(
    path: pathlib.Path, is_there: Callable[[str], bool]
) -> tuple[Project | list[Written], list[str]]:
    """Reads the rows of a table, or that of a tool, and remarks on how they were read.

    The table has a column of images and either one of labels or one of 0 and 1 for each class,
    with the class as its heading. Without headings, 0 and 1 are vectors.

    Args:
        path: the table.
        is_there: whether a cell names an image that is there.

    Raises:
        DataError: other columns than these, or a row that does not fit them.
        csv.Error: quotes that do not match.
    """
    where = f"label file {path}"
    rows = _rows(read_text(path, "label file"))
    if not rows:
        return [], []

    def is_image(cell: str) -> bool:
        return _is_picture(cell) or is_there(cell)

    first = rows[0]
    heading = first.cells if _is_heading(rows, is_image) else []
    rows = rows[1:] if heading else rows
    width = max((k + 1 for row in rows for k, cell in enumerate(row.cells) if cell), default=0)
    width = max(width, 1 + max((k for k, cell in enumerate(heading) if cell), default=0))
    heading = heading and (heading + [""] * width)[:width]
    for row in rows:
        row.cells[width:] = []  # columns without any value
    image = _image_column(heading, rows, width, is_image)
    index = heading and image and heading_word(heading[0]) in _INDEX_HEADINGS
    others = [
        k
        for k in range(width)
        if k != image and not (index and k == 0) and not _most(rows, k, _is_picture)
    ]
    if width == 1 and not any(is_image(row.cells[0]) for row in rows):
        raise DataError(
            f"{where} has one column, which names no image (line {first.line}: "
            f"{shown(first.cells[0])}); write the name and the labels of an image in two columns, "
            "with a comma, semicolon or tab between"
        )
    if not others:
        raise DataError(f"{where} has only names of images; add a column of labels")
    expected = width if heading else len(rows[0].cells)
    for row in rows:
        if len(row.cells) != expected or not row.cells[image]:
            _refuse_row(where, row)
    if label_studio.is_table(heading):
        return label_studio.of_table(heading, [row.cells for row in rows], where), []
    if not heading:
        return _without_heading(where, rows, image, others), []
    return _with_heading(where, heading, rows, image, others)


def _rows(text: str) -> list[_Row]:
    """Divides a text into rows by the delimiter that fits most lines; blank rows are left out."""
    lines = text.splitlines(keepends=True)
    delimiters = DELIMITERS
    for k, line in enumerate(lines):
        named = re.fullmatch(r'"?sep=([,;\t])"?\s*', line)
        if named:
            delimiters = (named.group(1),)
        elif trimmed(line) and (line[0] != "#" or any(d in line for d in DELIMITERS)):
            break
        lines[k] = "\n"  # keeps the numbers of the lines
    tables, errors = [], []
    for delimiter in delimiters:
        try:
            tables.append(_divided("".join(lines), delimiter))
        except csv.Error as error:
            errors.append(error)

    def fitness(table: list[_Row]) -> tuple:
        widths = [len(row.cells) for row in table]
        first = len(table[0].cells[0]) if table else 0
        return sum(width > 1 for width in widths), len(set(widths)) == 1, -first

    best = max(tables, key=fitness, default=[])
    widths = {len(row.cells) for row in best}
    is_even = len(widths) == 1 and widths != {1}
    if errors and not is_even and (not best or any('"' in c for row in best for c in row.cells)):
        raise errors[0]  # the other delimiters only cut through the quotes
    return best


def _divided(text: str, delimiter: str) -> list[_Row]:
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True
    )
    found = [_Row(reader.line_num, [trimmed(cell) for cell in cells]) for cells in reader]
    return [row for row in found if any(row.cells)]


def _is_picture(cell: str) -> bool:
    return cell.lower().endswith(IMAGE_ENDINGS)


def _most(rows: Sequence[_Row], column: int, is_so: Callable[[str], bool]) -> bool:
    """Whether `is_so` holds for more than half of the cells of a column."""
    return 2 * sum(len(r.cells) > column and is_so(r.cells[column]) for r in rows) > len(rows)


def _is_heading(rows: Sequence[_Row], is_image: Callable[[str], bool]) -> bool:
    first, *others = rows
    if any(map(is_image, first.cells)):
        return False
    words = [heading_word(cell) for cell in first.cells]
    if words[0] in IMAGE_HEADINGS:
        return True
    if words[0] in (*_INDEX_HEADINGS, *LABEL_HEADINGS) and set(words) & set(IMAGE_HEADINGS):
        return True
    return any(_most(others, k, is_image) for k in range(len(first.cells)))


def _image_column(
    heading: Sequence[str], rows: Sequence[_Row], width: int, is_image: Callable[[str], bool]
) -> int:
    words = [heading_word(cell) for cell in heading]
    ranks = [
        IMAGE_HEADINGS.index(word) if word in IMAGE_HEADINGS else len(IMAGE_HEADINGS)
        for word in words or [""] * width
    ]
    return min(range(width), key=lambda k: (not _most(rows, k, is_image), ranks[k], k))


def _without_heading(
    where: str, rows: Sequence[_Row], image: int, others: Sequence[int]
) -> list[Written]:
    written = []
    for row in rows:
        cells = [row.cells[k] for k in others]
        if len(others) == 1:
            value = cells[0]
        elif all(cell.casefold() in _TRUTH for cell in cells):
            value = [_TRUTH[cell.casefold()] for cell in cells]
        else:
            _refuse_row(where, row)
        written.append(Written(row.cells[image], value, f"line {row.line}"))
    return written


def _with_heading(
    where: str, heading: list[str], rows: Sequence[_Row], image: int, others: list[int]
) -> tuple[list[Written], list[str]]:
    named = [k for k in others if heading_word(heading[k]) in LABEL_HEADINGS]
    truths = bool(rows) and all(rows[0].cells[k].casefold() in _TRUTH for k in others)
    if len(named) != 1 and not truths and len(others) == 1:
        named = others
    if len(named) == 1:
        rest = [heading[k] or f"number {k + 1}" for k in others if k not in named]
        remarks = [f"{where}: these columns are not read: {some_of(rest)}"] if rest else []
        column = named[0]
        return [Written(r.cells[image], r.cells[column], f"line {r.line}") for r in rows], remarks
    if not truths:
        strange = [k for row in rows[:1] for k in others if row.cells[k].casefold() not in _TRUTH]
        said = [
            f" (line {rows[0].line} has {shown(rows[0].cells[k])} in column {shown(heading[k])})"
            for k in strange[:1]
        ]
        raise DataError(
            f"{where} has the columns {some_of([heading[k] for k in others])} beside "
            f"{shown(heading[image])}; keep either one of labels or one of 0 and 1 for each class"
            + "".join(said)
        )
    times = collections.Counter(heading)
    for k in others:
        if not heading[k]:
            raise DataError(f"{where}: column {k + 1} has no heading; name its class there")
        if times[heading[k]] > 1:
            raise DataError(f"{where}: column {shown(heading[k])} is there twice; keep one of them")
    remarks = []
    if len(others) == 1:
        remarks.append(
            f"{where}: column {shown(heading[others[0]])} holds 0 and 1, so it is the one class"
        )
    written = [
        Written(row.cells[image], _marked(where, heading, row, others), f"line {row.line}")
        for row in rows
    ]
    used = {label for item in written for label in item.value}
    if never := [heading[k] for k in others if heading[k] not in used]:
        remarks.append(
            f"{where}: no image has a 1 in these columns, which alone make no classes: "
            f"{some_of(never)}; list all classes in classes.txt to keep them"
        )
    return written, remarks


def _marked(where: str, heading: list[str], row: _Row, columns: list[int]) -> list[str]:
    """Returns the headings of the columns in which a row holds 1."""
    for k in columns:
        if row.cells[k].casefold() not in _TRUTH:
            raise DataError(
                f"{where}, line {row.line}, column {shown(heading[k])}: {shown(row.cells[k])} is "
                "neither 0 nor 1; correct it"
            )
    return [heading[k] for k in columns if _TRUTH[row.cells[k].casefold()]]


def _refuse_row(where: str, row: _Row) -> None:
    raise DataError(
        f"{where}, line {row.line}: {shown(','.join(row.cells))} is not `file,label;label`; write "
        "two columns and quote names that hold a comma"
    )
