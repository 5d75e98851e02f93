"""Reads the XML annotations of PASCAL VOC, which many tools write in their own ways."""

import codecs
import pathlib
import re
from collections.abc import Sequence
from xml.etree import ElementTree

import numpy as np

from toco_jax.data.labelling.label_text import none_of
from toco_jax.data.labelling.text_files import is_unicode
from toco_jax.data.labels import read_bytes
from toco_jax.runtime.errors import DataError, clipped, shown

# What an annotation without objects holds.
_FIELDS = frozenset(("folder", "filename", "path", "source", "owner", "size", "segmented"))
# Editors on Windows call these by the names of the smaller sets that they extend.
_EXTENDED = {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949"}
# Python's own codecs that no editor writes; two of them take time quadratic in the text's length.
_NO_CHARSETS = ("idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined")
_DECLARED = re.compile(rb"""\s*<\?xml[^>]*?\bencoding\s*=\s*["']([\w.:-]+)["']""")


def read_annotation(path: pathlib.Path, class_names: Sequence[str]) -> np.ndarray:
    """Reads the image-level label of a VOC annotation: float32 [C], 1 for classes of its objects.

    Every object counts, the ones marked `difficult` too. An annotation without objects gives zeros.

    Raises:
        DataError: the file is missing, is no XML or that of another tool, or names an object that
            is no class.
    """
    text = _decoded(read_bytes(path, "annotation"), path)
    if "\0" in text or not is_unicode(text):
        raise DataError(f"annotation {path} holds characters that are no text; save it as UTF-8")
    if "<!ENTITY" in text:
        raise DataError(
            f"annotation {path} declares entities, which no annotation needs and a few lines of "
            "which can fill the memory; remove its <!DOCTYPE ...>"
        )
    try:
        root = ElementTree.fromstring(text.lstrip())
    except ElementTree.ParseError as error:
        raise DataError(
            f"annotation {path} is malformed XML ({clipped(error)}); replace the file"
        ) from error
    _refuse_other_kinds(root, path)
    label = np.zeros(len(class_names), np.float32)
    for number, item in enumerate(root.findall("object"), start=1):
        name = (item.findtext("name") or "").strip()
        if not name:
            raise DataError(
                f"annotation {path} has an object without a name, number {number}; name its class "
                "in <name>"
            )
        if name not in class_names:
            raise DataError(
                f"annotation {path} names an object {shown(name)}, which is "
                f"{none_of(class_names, name)}"
            )
        label[class_names.index(name)] = 1
    return label


def _decoded(content: bytes, path: pathlib.Path) -> str:
    """Decodes a file in the encoding that its byte order mark or its first line declares.

    The XML parser itself supports no multi-byte encodings but UTF-8 and UTF-16.
    """
    declared = _DECLARED.match(content)
    encoding = declared.group(1).decode("ascii") if declared else "utf-8"
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif content.startswith(codecs.BOM_UTF8) or encoding.lower().startswith(("utf-16", "utf-32")):
        encoding = "utf-8-sig"  # bytes in which the declaration can be read are not UTF-16
    try:
        name = codecs.lookup(encoding).name
        if name in _NO_CHARSETS:
            raise LookupError(name)
        return content.decode(_EXTENDED.get(name, encoding))
    except LookupError as error:
        raise DataError(
            f"annotation {path} declares the encoding {shown(encoding)}, which is unknown; save it "
            "as UTF-8"
        ) from error
    except UnicodeError as error:
        said = declared.group(1).decode("ascii") if declared else "UTF-8, and declares no encoding"
        raise DataError(
            f"annotation {path} is not {said} ({clipped(error)}); save it as UTF-8"
        ) from error


def _refuse_other_kinds(root: ElementTree.Element, path: pathlib.Path) -> None:
    """Raises `DataError` for XML of another kind, in which labels would be overlooked."""
    if root.tag != "annotation":
        raise DataError(
            f"annotation {path} is no annotation of VOC: its outermost element is "
            f"<{clipped(root.tag)}>, not <annotation>; export the labels as PASCAL VOC"
        )
    for parent in root.iter():
        for child in parent:
            # Comments have a function in place of a tag.
            alike = str(child.tag).casefold() in ("object", "objects")
            if alike and (parent is not root or child.tag != "object"):
                where = "" if parent is root else f" in <{clipped(parent.tag)}>"
                raise DataError(
                    f"annotation {path} holds <{child.tag}>{where} where VOC has <object> right in "
                    "<annotation>; export the labels as PASCAL VOC"
                )
    tags = [child.tag for child in root]
    if tags and not _FIELDS.union(["object"]) & set(tags):
        raise DataError(
            f"annotation {path} holds <{clipped(tags[0])}> and no object or other field of VOC; "
            "export the labels as PASCAL VOC"
        )
