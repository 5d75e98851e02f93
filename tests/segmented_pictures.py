"""Pictures with small masks of all kinds, and how the formats of masks write them."""

import pathlib

import hypothesis.strategies as st
import numpy as np
from hypothesis.extra import numpy as hnp
from tiny_run import photo

from toco_jax.inference.formats import writer
from toco_jax.inference.formats.pictures import Picture, Task

NAMES = ("Straße: nass, glatt", "big  cat", '"quoted" #1', "猫")
# Without a colon, which ends a name there.
CVAT_NAMES = ("Straße, naß", *NAMES[1:])
UNCERTAIN = 255

# Labels of few values in many small patches: holes, corners that touch, single pixels.
MASKS = hnp.arrays(
    np.uint8,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9),
    elements=st.sampled_from([0, 0, 1, 1, 4, UNCERTAIN]),
)
RING = np.pad(np.zeros((3, 3), np.uint8), 2, constant_values=1)
CHECKS = np.indices((6, 7)).sum(axis=0).astype(np.uint8) % 2


def picture_of(mask, name="deep/a", file_name="deep/a.jpg", **changed):
    mask = np.asarray(mask, np.uint8)
    given = {"path": pathlib.Path("a.jpg"), "read": lambda: photo(mask.shape, 0)}
    return Picture(name=name, file_name=file_name, mask=mask, **(given | changed))


def written(folder, name, pictures, **changed):
    """The folder of a format after all pictures were written, the last one first."""
    masks = writer.MaskWriter(name, folder / name, Task(NAMES, folder=folder / name, **changed))
    for number, picture in reversed(list(enumerate(pictures))):
        masks.add(number, picture)
        masks.save()
    return folder / name


def certain(mask):
    return np.where(mask == UNCERTAIN, 0, mask)
