"""Reads a folder with a file of labelme for each image."""

import pathlib
import posixpath
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor

from toco_jax.data.files import READERS, OnProblem
from toco_jax.data.image_files import Listing
from toco_jax.data.labelling.label_files import LabelFile, of_tool
from toco_jax.data.labelling.lists import finder, image_name
from toco_jax.data.labelling.text_files import read_text
from toco_jax.data.labelling.tools import labelme
from toco_jax.data.labelling.tools.project import Project, Tagged
from toco_jax.runtime import json_text
from toco_jax.runtime.errors import DataError, clipped, shown

PATTERN = "*.json"
_LOOKED_AT = 3


def json_files(root: pathlib.Path, listing: Listing) -> dict[str, pathlib.Path]:
    """Returns the JSON files below the root by their names without ending."""
    return {
        path.relative_to(root).with_suffix("").as_posix(): path
        for path in listing.others
        if path.suffix.lower() == ".json"
    }


def of_images(paths: Mapping[str, pathlib.Path], images: Collection[str]) -> list[str]:
    """Names the images with a file of labelme of the same name, if the first ones are such."""
    beside = [name for name in paths if name in images]
    for name in beside[:_LOOKED_AT]:
        try:
            if _read(name, paths[name], images) is not None:
                return beside
        except DataError:
            continue  # the next one may tell
    return []


def read_files(
    root: pathlib.Path,
    paths: Mapping[str, pathlib.Path],
    images: Mapping[str, pathlib.Path],
    on_problem: OnProblem,
) -> tuple[LabelFile, list[pathlib.Path]]:
    """Reads the files of labelme among JSON files.

    Args:
        root: the data set's folder.
        paths: the files by their names without ending.
        images: the images by their names.
        on_problem: called with "" and a `DataError` for files that may be of several images.

    Returns:
        The labels of all images, or the `DataError` to raise for an image whose file cannot be
        read; and the files that were read.

    Raises:
        DataError: none of the files is labelme's.
    """

    def attempt(name: str) -> Tagged | DataError | None:
        try:
            return _read(name, paths[name], images)
        except DataError as error:
            return error

    with ThreadPoolExecutor(READERS) as threads:
        found = dict(zip(paths, threads.map(attempt, paths), strict=True))
    tagged = [item for item in found.values() if isinstance(item, Tagged)]
    if not tagged:
        for item in found.values():
            if isinstance(item, DataError):
                raise item
        raise DataError(
            f"{root} holds no file of labelme, a JSON with imagePath and shapes; correct data.root "
            "or data.labels"
        )
    broken = {name: item for name, item in found.items() if isinstance(item, DataError)}
    for name, error in broken.items():
        if name not in images:
            on_problem("", error)
    project = Project(labelme.TOOL, "file", tagged)
    name_of = finder(root, images)
    file = of_tool(root / PATTERN, project, frozenset(images), name_of, PATTERN, on_problem)
    entries = {**file.entries, **{name: item for name, item in broken.items() if name in images}}
    used = [paths[name] for name, item in found.items() if item is not None]
    return LabelFile(file.path, entries, file.written, file.remarks, file.unlabelled), used


def _read(name: str, path: pathlib.Path, images: Collection[str]) -> Tagged | None:
    """Reads a file, which is of the image of its own name if there is one.

    Returns:
        What it says of the image, None if the file is not labelme's.
    """
    where = f"label file {path}"
    try:
        content = json_text.parse(read_text(path, "label file"))
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{where} cannot be read ({clipped(error)}); save it anew") from error
    if not labelme.is_file(content):
        return None
    item = labelme.of_file(content, where).images[0]
    folder = name.rpartition("/")[0]
    said = posixpath.normpath(posixpath.join(folder, item.name.replace("\\", "/")))
    meant = image_name(said) if image_name(said) in images else ""
    if name in images and meant not in ("", name):
        raise DataError(
            f"{where} lies beside the image {shown(name)} and says that it is of {shown(said)}; "
            "correct its imagePath or move it"
        )
    return item._replace(name=name if name in images else meant or item.name, place=path.name)
