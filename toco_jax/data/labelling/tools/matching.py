"""Finds the images that the files of annotation tools name by paths and addresses of their own."""

import itertools
import re
import unicodedata
import urllib.parse
from collections.abc import Callable, Collection, Sequence

from toco_jax.data.image_files import IMAGE_ENDINGS
from toco_jax.data.labelling.lists import without_ending
from toco_jax.runtime.errors import DataError, shown, some_of

_UPLOAD = re.compile(r"(?:.*/)?upload/\d+/([^/]+)")
# Label Studio puts eight digits of a hash before the name of a file that is uploaded.
_HASH = re.compile(r"[0-9a-f]{8}-(?=.)")
# What it takes out of such a name, once it has written _ for blanks.
_TAKEN_OUT = re.compile(r"[^-\w.]")
_DEEPEST = 16  # folders that are compared


class Finder:
    """Finds images by paths that end alike.

    Tools name an image by its place on another machine or in a bucket. A name means the image that
    it names from the data set's folder on. If there is none, first folders of the name that no
    folder of the data set is called by may be missing there: the name means the image of which then
    the whole path is left. If there is none either, it means the only image whose path ends with
    the name, without such folders that all names of the file share.
    """

    def __init__(
        self, images: Collection[str], names: Sequence[str], name_of: Callable[[str], str]
    ) -> None:
        """Prepares for the `names` in a file; `name_of` finds images by their exact names."""
        self._images, self._name_of = images, name_of
        self._whole: dict[str, list[str]] = {}
        self._ends: dict[str, list[str]] = {}
        self._cleaned: dict[str, list[str]] = {}
        self._folders: set[str] = set()
        for image in sorted(images):
            parts = _parts(image)
            self._whole.setdefault("/".join(parts), []).append(image)
            self._folders.update(parts[:-1])
            for k in range(len(parts))[-_DEEPEST:]:
                self._ends.setdefault("/".join(parts[k:]), []).append(image)
            self._cleaned.setdefault(_cleaned(parts[-1]), []).append(image)
        folders = [_parts(path_of(name))[:-1] for name in names] or [[]]
        first, last = min(folders), max(folders)  # all begin alike if these two do
        shared = itertools.takewhile(
            lambda pair: pair[0] == pair[1], zip(first, last, strict=False)
        )
        self._shared = self._foreign([folder for folder, _ in shared])

    def find(self, name: str, where: str) -> str | None:
        """Returns the image that `name` means, None if it means none.

        Raises:
            DataError: it may mean several images; the message begins with `where`.
        """
        path = path_of(name)
        exact = self._name_of(path)
        if exact in self._images:
            return exact
        parts = _parts(without_ending(path.replace("\\", "/")))
        if not parts:
            return None
        found = self._ending_alike(parts)
        bare = _HASH.sub("", parts[-1], count=1)
        if not found and bare != parts[-1]:
            found = self._ending_alike([*parts[:-1], bare]) or self._cleaned.get(bare, [])
        if len(found) > 1:
            raise DataError(
                f"{where} names {shown(name)}, which may be any of {len(found)} images "
                f"({some_of(found, 3)}); keep the one that is meant, or give them the folders that "
                "the label file names"
            )
        return found[0] if found else None

    def _ending_alike(self, parts: Sequence[str]) -> list[str]:
        for k in range(max(0, len(parts) - _DEEPEST), self._foreign(parts[:-1]) + 1):
            if found := self._whole.get("/".join(parts[k:])):
                return found
        return self._ends.get("/".join(parts[self._shared :]), [])

    def _foreign(self, folders: Sequence[str]) -> int:
        """Counts the first of `folders` that no folder of the data set is called by."""
        known = (k for k, folder in enumerate(folders) if folder in self._folders)
        return next(known, len(folders))


def path_of(address: str) -> str:
    """Returns the path in an address, as tools write it for an image.

    The path of an upload to Label Studio is the file's name alone, that of a local file there
    stands behind `?d=`.
    """
    address = address.replace("\\", "/")
    path, _, query = address.partition("?")
    if path.rstrip("/").endswith("/data/local-files"):
        try:
            return urllib.parse.parse_qs(query).get("d", [""])[-1]
        except ValueError:  # more fields than any address has
            return ""
    scheme, found, rest = path.partition("://")
    if found and scheme.replace("-", "").isalnum():
        path = urllib.parse.unquote(rest.partition("#")[0])
    elif not path.lower().endswith(IMAGE_ENDINGS):
        path = address  # a question mark in a name
    upload = _UPLOAD.fullmatch(path)
    return urllib.parse.unquote(upload[1]) if upload else path


def _parts(path: str) -> list[str]:
    parts = unicodedata.normalize("NFC", path.replace("\\", "/")).split("/")
    return [part.strip() for part in parts if part.strip() not in ("", ".", "..")]


def _cleaned(name: str) -> str:
    return _TAKEN_OUT.sub("", name.strip().replace(" ", "_"))
