"""Tells files that hold labels from others of the same name, without parsing them."""

import pathlib
import re

from toco_jax.data.labelling.csv_labels import LABEL_HEADINGS, heading_word
from toco_jax.data.labelling.text_files import read_text
from toco_jax.runtime.errors import DataError

# Words in quotes of which a tool's JSON has all of one group.
_OF_JSON = (
    ("images", "annotations", "categories"),
    ("id", "data", "annotations"),
    ("id", "annotation_id"),
    ("classes", "labels"),
)
_LONGEST_HEADING = 10_000


def looks_like_labels(path: pathlib.Path) -> bool:
    """Whether a file seems to be the export of an annotation tool or a table of labels.

    Of XML, that is what CVAT writes; of tables and lines of JSON, those that name files and labels,
    and Roboflow's `_classes.csv`.
    """
    ending = path.suffix.lower()
    if ending not in (".xml", ".json", ".jsonl", ".csv"):
        return False
    try:
        text = read_text(path, "label file")
    except DataError:
        return False
    if ending == ".xml":
        return "<annotations>" in text
    if ending == ".json":
        return any(all(f'"{word}"' in text for word in words) for words in _OF_JSON)
    first = text.lstrip().partition("\n")[0][:_LONGEST_HEADING]
    words = {heading_word(word) for word in re.split(r"[,;\t{}:]", first)}
    if "annotationid" in words:  # of Label Studio
        return True
    is_table = path.name.casefold() == "_classes.csv"
    return "filename" in words and (is_table or bool(words & {*LABEL_HEADINGS, "objects"}))
