"""Parses XML that anybody may have written."""

import codecs
import pathlib
import re
from xml.etree import ElementTree

from toco_jax.data.labelling.text_files import is_unicode
from toco_jax.data.labels import read_bytes
from toco_jax.runtime.errors import DataError, clipped, shown

# Editors on Windows call these by the names of the smaller sets that they extend.
_EXTENDED = {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949"}
# Python's own codecs that no editor writes; two of them take time quadratic in the text's length.
_NO_CHARSETS = ("idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined")
_DECLARED = re.compile(rb"""\s*<\?xml[^>]*?\bencoding\s*=\s*["']([\w.:-]+)["']""")


def read_xml(path: pathlib.Path, what: str) -> ElementTree.Element:
    """Reads an XML document.

    Args:
        path: the file.
        what: what the file is, such as "annotation"; begins the message of a `DataError`.

    Raises:
        DataError: the file is missing, is no XML, declares entities, or is in an encoding that
            cannot be told.
    """
    text = _decoded(read_bytes(path, what), f"{what} {path}")
    if "\0" in text or not is_unicode(text):
        raise DataError(f"{what} {path} holds characters that are no text; save it as UTF-8")
    if "<!ENTITY" in text:
        raise DataError(
            f"{what} {path} declares entities, which no annotation needs and a few lines of "
            "which can fill the memory; remove its <!DOCTYPE ...>"
        )
    try:
        return ElementTree.fromstring(text.lstrip())
    except ElementTree.ParseError as error:
        raise DataError(
            f"{what} {path} is malformed XML ({clipped(error)}); replace the file"
        ) from error


def _decoded(content: bytes, where: str) -> str:
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
            f"{where} declares the encoding {shown(encoding)}, which is unknown; save it as UTF-8"
        ) from error
    except UnicodeError as error:
        said = declared.group(1).decode("ascii") if declared else "UTF-8, and declares no encoding"
        raise DataError(f"{where} is not {said} ({clipped(error)}); save it as UTF-8") from error
