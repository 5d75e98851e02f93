"""Writes the pseudo labels of a split in the formats of other tools, after all are on the disk."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from toco_jax.data.mask_files import read_mask
from toco_jax.data.renumbered import Renumbered
from toco_jax.inference.formats.pictures import Picture, Task
from toco_jax.inference.formats.writer import MaskWriter, refuse_names, refuse_present
from toco_jax.runtime.errors import shown
from toco_jax.runtime.outputs import OutputError, whole_folder
from toco_jax.runtime.progress import Progress


def check(labels: pathlib.Path, source: Any, formats: Sequence[str]) -> None:
    """Checks in advance that the formats can be written; see `write`.

    Raises:
        UserError: a format cannot hold the names of the classes.
        OutputError: masks of a format are there, which may have been corrected, or labels of the
            split go to a folder of the format's name.
    """
    for name in formats:
        refuse_names(name, _numbered(source).class_names)
        refuse_present(labels / name, "--pseudo_labels")
        inside = [image for image in source.names if image.startswith(f"{name}/")]
        if inside:
            raise OutputError(
                f"--format={name} goes to {labels / name}, and so do the labels of the images in "
                f"{name}/, such as {shown(inside[0])}: rename that folder, or leave the format out"
            )


def write(
    labels: pathlib.Path,
    source: Any,
    count: int,
    *,
    formats: Sequence[str],
    polygons: bool,
    model: str,
    report: Callable[[str], None],
) -> None:
    """Writes each format to the folder of its name beside the palette PNGs, all of it or nothing.

    Args:
        labels: the folder of the palette PNGs.
        source: the record source of the split.
        count: how many of its first images have pseudo labels.
        formats: names of the formats.
        polygons: whether formats that know both describe shapes by polygons.
        model: what made the labels.
        report: receives lines about the progress.
    """
    source = _numbered(source)
    names = tuple(source.class_names)
    for name in formats:
        with (
            whole_folder(labels / name) as folder,
            Progress(f"labels for {name}", count, report=report) as progress,
        ):
            task = Task(names, split=source.split, polygons=polygons, folder=folder, model=model)
            writer = MaskWriter(name, folder, task)
            for place in range(count):
                writer.add(place, _picture(labels, source, place))
                progress()
            writer.save()


def _numbered(source: Any) -> Any:
    """Returns the source as the pseudo labels are numbered, which is as the data set is."""
    return source.source if isinstance(source, Renumbered) else source


def _picture(labels: pathlib.Path, source: Any, place: int) -> Picture:
    name = source.names[place]
    # A source of other files than images makes them when they are read.
    images: Sequence[pathlib.Path] | None = getattr(source, "images", None)
    path = None if images is None else images[place]

    def read() -> np.ndarray:
        return source[place]["image"]

    return Picture(
        name=name,
        file_name=f"images/{name}.png" if path is None else f"{name}{path.suffix}",
        path=path,
        mask=read_mask(labels / f"{name}.png"),
        read=read,
    )
