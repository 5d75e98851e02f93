"""Writes opened sources as a TFDS data set in array_record files, without TensorFlow."""

import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from toco_jax.data.files import FileSource
from toco_jax.data.labels import load_photo
from toco_jax.data.mask_files import encode_mask
from toco_jax.runtime.errors import DataError

KINDS = ("voc", "coco", "folder")


class TocoRecords(tfds.core.GeneratorBasedBuilder):
    """Builds records of image files, image-level labels and label maps from `FileSource`s."""

    VERSION = tfds.core.Version("1.0.0")
    # TFDS looks beside the code for checksums of downloads, of which there are none, by means of a
    # package that it does not always install.
    code_path = None
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=kind) for kind in KINDS]  # noqa: RUF012

    def __init__(self, *, sources: dict[str, FileSource], **kwargs: Any):
        self._sources = sources
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        first = next(iter(self._sources.values()))
        masks = first.masks is not None
        features = {
            "name": tfds.features.Text(),
            "image": tfds.features.Image(shape=(None, None, 3)),
            "cls_label": tfds.features.Tensor(shape=(len(first.class_names),), dtype=np.uint8),
        }
        if masks:
            features["mask"] = tfds.features.Image(shape=(None, None, 1))
        about = {
            "class_names": list(first.class_names),
            "names": {split: list(source.names) for split, source in self._sources.items()},
            "max_classes": {split: source.num_present for split, source in self._sources.items()},
            "masks": masks,
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(about),
            disable_shuffling=True,  # records keep the source's order
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager
        return {split: self._generate_examples(s) for split, s in self._sources.items()}

    def _generate_examples(self, source: FileSource) -> Iterator[tuple[int, dict]]:
        with tempfile.TemporaryDirectory() as folder:
            # TFDS takes the content of files as it is, but pixels it would encode its own way.
            mask_path = pathlib.Path(folder) / "mask.png"
            for i, name in enumerate(source.names):
                example = {"name": name, "cls_label": source.cls_labels[i]}
                example["image"] = str(source.images[i])
                photo = load_photo(source.images[i])  # a broken file must not get in
                if source.masks is not None:
                    mask_path.write_bytes(encode_mask(source.mask(i, photo)[0]))
                    example["mask"] = str(mask_path)
                yield i, example


def build(sources: dict[str, FileSource], out: str, *, kind: str) -> str:
    """Writes <out>/toco_records/<kind>/1.0.0, unless it is there.

    Args:
        sources: sources by split, with the same classes, all with masks or all without.
        out: a folder, or the path of a bucket.
        kind: one of `KINDS`.

    Returns:
        The folder of the data set.

    Raises:
        DataError: sources that differ in their classes, or a broken file in one of them.
    """
    if len({source.class_names for source in sources.values()}) != 1:
        raise DataError(
            f"the splits {', '.join(sources)} have other classes each; list all in classes.txt"
        )
    builder = TocoRecords(sources=sources, config=kind, data_dir=out, file_format="array_record")
    try:
        builder.download_and_prepare()
    except Exception as error:  # TFDS may wrap what an example raises
        cause = error
        while cause is not None and not isinstance(cause, DataError):
            cause = cause.__cause__ or cause.__context__
        raise cause or error from None
    wanted = {split: list(source.names) for split, source in sources.items()}
    if dict(builder.info.metadata or {}).get("names") != wanted:
        raise DataError(f"{builder.data_path} holds other splits or images; remove it first")
    return str(builder.data_path)
