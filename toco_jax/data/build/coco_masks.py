"""Makes image-level labels and VOC-style masks from COCO's annotation files.

Rules: an image counts if it has any annotation; every annotated object counts for the image's
labels, crowds too. In the mask, crowd regions come first and are 255; then all other objects, the
larger ones first, so that of two objects that overlap the one with fewer pixels lies on top (of two
with equally many, the one annotated later).
"""

import functools
import io
import json
import multiprocessing
import pathlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from toco_jax.data.build.coco_instances import read_annotations
from toco_jax.data.build.coco_regions import pycocotools_mask, region
from toco_jax.data.classes import COCO_CLASSES
from toco_jax.data.mask_files import write_mask
from toco_jax.data.sources.coco import PARTS
from toco_jax.runtime.errors import DataError
from toco_jax.runtime.outputs import write_atomically

_CHUNK = 64  # images a task of a worker


def prepare_part(
    root: pathlib.Path, out: pathlib.Path, part: str, *, workers: int
) -> Iterator[tuple[int, int]]:
    """Writes `<part>.npz` and the missing masks of one part of COCO.

    Args:
        root: the folder with `annotations/instances_<part>.json`.
        out: the prepared folder.
        part: train2014 or val2014.
        workers: number of processes to use beside this one; 0 works in this one.

    Yields:
        (masks done, masks in all), the first time before any is drawn. After the last one the part
        is complete. A run that was stopped goes on where it stopped.

    Raises:
        DataError: an annotation file that is missing, damaged or not COCO's.
    """
    annotations = root / "annotations" / f"instances_{part}.json"
    stamp = _stamp(annotations)
    folder, stamp_path = out / "masks" / part, out / f"{part}.json"
    index = out / f"{part}.npz"
    same = stamp_path.is_file() and stamp_path.read_text() == stamp
    if same and index.is_file():
        yield 0, 0
        return
    images = read_annotations(annotations)
    folder.mkdir(parents=True, exist_ok=True)
    if not same:
        for stale in (index, *folder.glob("*.png")):
            stale.unlink(missing_ok=True)
        write_atomically(stamp_path, stamp)
    there = {path.stem for path in folder.glob("*.png")}
    tasks = [image for image in images if image["name"] not in there]
    done = len(images) - len(tasks)
    yield done, len(images)
    for drawn in _draw_all(tasks, folder, workers):
        done += drawn
        yield done, len(images)
    labels = np.stack([image_label(image["objects"]) for image in images])
    names = np.array([image["name"] for image in images])
    content = io.BytesIO()
    np.savez_compressed(content, names=names, labels=labels)
    write_atomically(index, content.getvalue())


def _stamp(path: pathlib.Path) -> str:
    """Identifies the version of an annotation file, by its size and time of change."""
    try:
        found = path.stat()
    except FileNotFoundError:
        raise DataError(
            f"{path} is missing; unpack annotations_trainval2014.zip in {path.parents[1]}"
        ) from None
    return json.dumps({"bytes": found.st_size, "modified": found.st_mtime_ns}) + "\n"


def image_label(objects: Iterable[dict]) -> np.ndarray:
    """Returns the label of an image, uint8 [80], 1 for the class of every object."""
    label = np.zeros(len(COCO_CLASSES), np.uint8)
    label[[item["label"] - 1 for item in objects]] = 1
    return label


def draw_mask(objects: Iterable[dict], size: tuple[int, int]) -> np.ndarray:
    """Draws the label map uint8 [H, W] of an image's objects, by the rules of this module."""
    mask = np.zeros(size, np.uint8)
    layers = []
    for item in objects:
        try:
            inside = region(item["segmentation"], size)
        except ValueError as error:
            raise DataError(
                f"annotation {item['id']} has no valid segmentation ({error}); download the "
                "annotation file again"
            ) from error
        if item["crowd"]:
            mask[inside] = 255
        else:
            layers.append((-int(inside.sum()), item["id"], item["label"], inside))
    for *_, label, inside in sorted(layers, key=lambda layer: layer[:2]):
        mask[inside] = label
    return mask


def _draw_chunk(images: list[dict], folder: pathlib.Path) -> int:
    for image in images:
        try:
            mask = draw_mask(image["objects"], image["size"])
        except DataError as error:
            raise DataError(f"image {image['name']}: {error}") from error
        write_mask(folder / f"{image['name']}.png", mask)
    return len(images)


def _draw_all(images: list[dict], folder: pathlib.Path, workers: int) -> Iterator[int]:
    """Draws the masks of all images; yields the number of masks after each chunk."""
    pycocotools_mask()  # rather missed here than in every process
    chunks = [images[i : i + _CHUNK] for i in range(0, len(images), _CHUNK)]
    draw = functools.partial(_draw_chunk, folder=folder)
    if not workers:
        yield from map(draw, chunks)
        return
    # Fresh processes: a fork would share whatever threads the caller has running.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, max(len(chunks), 1)), mp_context=context) as pool:
        yield from pool.map(draw, chunks)


def parts_to_prepare(root: pathlib.Path) -> list[str]:
    """Names the parts whose annotation files are there.

    Raises:
        DataError: there is none.
    """
    parts = [
        part
        for part in PARTS.values()
        if (root / "annotations" / f"instances_{part}.json").is_file()
    ]
    if not parts:
        raise DataError(
            f"{root / 'annotations'} holds neither instances_train2014.json nor "
            "instances_val2014.json; unpack annotations_trainval2014.zip there"
        )
    return parts
