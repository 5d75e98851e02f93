"""Writes, checks and packs the masks that the VOC test server takes.

Nothing here reads a label, because the test split has none.
"""

import collections
import json
import pathlib
import tarfile
from typing import Any

import numpy as np
from PIL import ImageOps

from toco_jax.data.classes import palette
from toco_jax.data.image_files import image_of_each
from toco_jax.data.labelling.text_files import read_text
from toco_jax.data.labels import read_image
from toco_jax.data.mask_files import write_mask
from toco_jax.data.picture_files import open_picture
from toco_jax.inference import refinement
from toco_jax.inference.native import Maps, network_of, softmax
from toco_jax.inference.stream import finished
from toco_jax.run.runs import Run
from toco_jax.runtime.console import say
from toco_jax.runtime.errors import UserError, is_inside, shown
from toco_jax.runtime.outputs import write_atomically
from toco_jax.runtime.progress import Progress

FOLDER = pathlib.PurePath("results", "VOC2012", "Segmentation", "comp6_test_cls")
TAR_FILE = "submission.tar"
STAMP_FILE = ".submission.json"


class SubmissionError(UserError):
    """A submission that the server would refuse; the message lists what is wrong."""


class ListedImages:
    """Records of the images that a list of the devkit names, without labels.

    Args:
        root: the devkit's folder, `VOCdevkit/VOC2012`.
        split: the list's name.
        limit: takes only the first `limit` images; 0 takes all.

    Attributes:
        names: the ids in the list's order.

    Raises:
        SubmissionError: there is no such list, or it names what is no file in a folder.
    """

    def __init__(self, root: pathlib.Path, split: str, limit: int = 0):
        path = root / "ImageSets" / "Segmentation" / f"{split}.txt"
        if not path.is_file():
            raise SubmissionError(
                f"{path} is missing: give the devkit's .../VOCdevkit/VOC2012 as --root and one of "
                "its lists as --split"
            )
        self.names = read_text(path, "list").split()[: limit or None]
        for name in self.names:
            if "/" in name or not is_inside(name):
                raise SubmissionError(
                    f"list {path} has {shown(name)}, which is no name of an image: write one a line"
                )
        paths = image_of_each(root / "JPEGImages", self.names)
        self._paths = dict(zip(self.names, paths, strict=True))

    def path(self, i: int) -> pathlib.Path:
        """Returns the path of an image's file."""
        return self._paths[self.names[i]]

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"name": self.names[i], "image": read_image(self.path(i)), "place": i}


def submit(
    run: Run,
    images: ListedImages,
    out: pathlib.Path,
    *,
    crf_settings: dict[str, Any] | None,
    batch_size: int,
    num_threads: int,
) -> pathlib.Path:
    """Writes the masks of a split, checks and packs them; returns the tar's path.

    Masks that are there already are kept if they are of the same network and settings, so that a
    submission that was interrupted goes on.

    Args:
        run: the network.
        images: the split.
        out: folder that receives the server's folders and the tar.
        crf_settings: settings of `ops.crf.dense_crf`; None uses no CRF.
        batch_size: images per batch.
        num_threads: threads, and CRF processes on a CPU.

    Raises:
        SubmissionError: the server would refuse the masks.
    """
    folder = out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    masks = [folder / f"{name}.png" for name in images.names]
    _remove_others(masks, out / STAMP_FILE, json.dumps([run.fingerprint, crf_settings]))
    left = [i for i, name in enumerate(images.names) if not (folder / f"{name}.png").exists()]
    say(f"{len(images.names) - len(left)} of {len(images.names)} masks are there")
    network = network_of(run, batch_size=batch_size)

    def write(record: dict, maps: Maps) -> None:
        scores = maps.seg_logits()
        if crf_settings is not None:
            scores = crf(record["image"], softmax(scores), **crf_settings)
        write_mask(folder / f"{record['name']}.png", scores.argmax(axis=-1))

    with (
        refinement.crf_workers(num_threads, network.buckets.frame) as crf,
        Progress("submission", len(left)) as progress,
    ):
        for _ in finished(network, left, images.__getitem__, write, num_threads=num_threads):
            progress()
    check(folder, images, run.config.num_classes + 1)
    path = pack(out, images.names)
    say(f"{len(images.names)} masks pass the server's checks: {path}")
    return path


def _remove_others(masks: list[pathlib.Path], stamp: pathlib.Path, about: str) -> None:
    """Removes the masks that are there, unless the stamp holds the same text `about` them."""
    there = [path for path in masks if path.exists()]
    if there and not (stamp.is_file() and stamp.read_text() == about):
        say(f"{len(there)} masks of another network or of other settings are written anew")
        for path in there:
            path.unlink()
    write_atomically(stamp, about)


def check(folder: pathlib.Path, images: ListedImages, num_labels: int) -> None:
    """Checks a folder of masks as the server would: each id once, right sizes, indices below K.

    Args:
        folder: holds the masks, `<id>.png`.
        images: the split.
        num_labels: K, background included.

    Raises:
        SubmissionError: a mask is missing, foreign or wrong; the message lists ten at most.
    """
    expected = collections.Counter(images.names)
    problems = [f"{name} is listed twice" for name, times in expected.items() if times > 1]
    there = {path.stem for path in folder.glob("*.png")}
    foreign = [path.name for path in folder.iterdir() if path.suffix != ".png"]
    problems += [f"{name}.png is missing" for name in images.names if name not in there]
    problems += [f"{name}.png is not in the split" for name in sorted(there - set(expected))]
    problems += [f"{name} is no mask" for name in sorted(foreign)]
    for i, name in enumerate(images.names):
        if name in there:
            problems += _mask_problems(folder / f"{name}.png", images.path(i), num_labels)
    if problems:
        more = f" and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise SubmissionError(f"{folder} would be refused: {'; '.join(problems[:10])}{more}")


def _mask_problems(path: pathlib.Path, image_path: pathlib.Path, num_labels: int) -> list[str]:
    with open_picture(image_path) as image, open_picture(path) as mask:
        if mask.mode != "P":
            return [f"{path.name} is stored as {mask.mode}, not with a palette"]
        colours = np.array(mask.getpalette(), np.uint8)
        problems = []
        size = ImageOps.exif_transpose(image).size
        if mask.size != size:
            problems.append(f"{path.name} is {mask.size}, its image {size}")
        if not np.array_equal(colours, palette().reshape(-1)[: len(colours)]):
            problems.append(f"{path.name} has another palette than VOC's")
        highest = int(np.asarray(mask).max())
        if highest >= num_labels:
            problems.append(f"{path.name} holds {highest}, above {num_labels - 1}")
        return problems


def pack(out: pathlib.Path, names: list[str]) -> pathlib.Path:
    """Packs the masks of `names` into a tar with the server's folders; returns its path."""
    path = out / TAR_FILE
    with tarfile.open(path, "w") as archive:
        for name in names:
            member = FOLDER / f"{name}.png"
            archive.add(out / member, arcname=str(member))
    return path
