"""Reads the records that `toco prepare tfds` wrote, without TensorFlow.

The root may be a bucket's path (gs://...), as far as TFDS and the machine's credentials reach it.
"""

import pathlib

import numpy as np

from toco_jax.data.files import fitted
from toco_jax.data.labels import decode_image, decode_mask
from toco_jax.runtime.errors import DataError, is_inside, shown


class TfdsSource:
    """One split of a built data set; a record source (see `toco_jax.data`).

    The records equal those of the source that they were made from, byte for byte and in order.

    Args:
        root: folder of the built data set, with dataset_info.json.
        split: name of a split that was built.
        masks: whether records carry "mask".

    Raises:
        DataError: no such data set or split, or masks that were not built.
    """

    def __init__(self, root: str, split: str, *, masks: bool):
        import tensorflow_datasets as tfds

        try:
            builder = tfds.builder_from_directory(str(root))
            about = dict(builder.info.metadata or {})
        except Exception as error:  # whatever the file system or TFDS raises for a wrong path
            raise DataError(
                f"{root} holds no data set built by toco prepare tfds "
                f"({type(error).__name__}); give the folder with dataset_info.json"
            ) from error
        if "max_classes" not in about:
            raise DataError(
                f"{root} is a TFDS data set of another making, without masks and labels as they "
                "are needed here; build it by toco prepare tfds"
            )
        if split not in about["names"]:
            raise DataError(
                f"split {split!r} was not built in {root}; choose one of "
                f"{', '.join(sorted(about['names']))} or build it"
            )
        if masks and not about["masks"]:
            raise DataError(f"{root} was built without masks; build it again with them")
        self.root, self.split = root, split
        self.class_names = tuple(about["class_names"])
        self.names = tuple(about["names"][split])
        self.num_present = int(about["max_classes"][split])
        for name in self.names:  # which results are called by
            if not isinstance(name, str) or not is_inside(name):
                raise DataError(
                    f"{root} has a record called {shown(name)}, which is no name within a folder; "
                    "build it again"
                )
        self._masks = masks
        pictures = ("image", "mask") if about["masks"] else ("image",)
        skip = dict.fromkeys(pictures, tfds.decode.SkipDecoding())
        self._records = builder.as_data_source(split=split, decoders=skip)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> dict:
        stored = self._records[int(i)]
        where = pathlib.PurePath(f"{self.root}#{self.names[i]}")
        photo = decode_image(stored["image"], where)
        record = {
            "name": self.names[i],
            "image": photo.pixels,
            "cls_label": np.asarray(stored["cls_label"]).astype(np.float32),
        }
        if self._masks:
            mask = decode_mask(stored["mask"], where, len(self.class_names))
            # Records built by earlier versions hold masks of unturned images.
            record["mask"] = fitted(mask, photo, f"the mask of {where}", "its image")[0]
        return record
