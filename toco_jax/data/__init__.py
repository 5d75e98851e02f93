"""From image files to batches: record sources, augmentation, the grain pipeline.

A record source is any object with

    class_names   tuple[str, ...]    the C foreground classes
    split         str
    names         sequence of str    one unique name per record, in order
    num_present   int                largest number of classes present in one image
    len(source)
    remarks       sequence of `remarks.DataRemark` for the owner of the data; optional
    source[i]     {"name": str, "image": uint8 [H, W, 3] RGB, "cls_label": float32 [C] in {0, 1}}
                  and, when opened with masks, "mask": uint8 [H, W], 0 background, 1..C, 255 ignored

whose `source[i]` may be called from several threads at once.
"""

from collections.abc import Sequence
from typing import Any

from toco_jax.runtime.errors import DataError

SOURCES = ("voc", "coco", "folder", "tfds", "shapes")

# What training does at a record that cannot be read.
ON_ERROR = ("raise", "skip")


def open_source(
    name: str,
    *,
    root: str | None = None,
    split: str,
    masks: bool,
    partial_masks: bool = False,
    seed: int = 0,
    labels: str = "",
    label_separator: str = "",
    mask_folder: str = "",
    mask_foreground: int = 0,
    all_masks: Sequence[str] = (),
    val_fraction: float = 0.1,
    split_seed: int = 0,
    splits: Sequence[str] = ("train", "val"),
    class_names: Sequence[str] = (),
    on_problem: Any = None,
):
    """Opens one split of a data set.

    Args:
        name: one of `SOURCES`.
        root: folder of the data set; not needed by `shapes`, which makes its images.
        split: name of the split in that data set.
        masks: whether records carry "mask". Training asks for them for the term `sup` alone.
        partial_masks: whether images may lack a mask, all of whose pixels are then to be ignored.
        seed: seed of the procedural images.
        labels: where image-level labels come from, "" for the usual place; see `open_voc`,
            `open_coco`, `open_folder`.
        label_separator: what separates several labels in one text of a `folder`; "" finds it out.
        mask_folder: folder of masks, relative to the root, "" for the usual place.
        mask_foreground: value of the only class in masks; 0 if masks hold labels.
        all_masks: the `mask_folder` of each split of a run on a `folder`; no images lie there.
        val_fraction: share of validation images where the splits of a `folder` are drawn by lot.
        split_seed: seed of that draw.
        splits: names of all splits of a run on a `folder`; folders of these names are no classes.
        class_names: all classes in label order, if a `folder` must have exactly these.
        on_problem: called with the name and a `DataError` for each image whose label cannot be
            read, which then has no classes, and with "" and one for what is wrong with a `folder`
            as a whole; None raises the first one.

    Returns:
        A record source (see the module's docstring).

    Raises:
        DataError: an unknown name, a missing root, or whatever the source finds broken.
    """
    if name == "shapes":
        from toco_jax.data.sources.shapes import ShapesSource

        return ShapesSource(split=split, seed=seed, masks=masks)
    if name not in SOURCES:
        raise DataError(f"unknown data source {name!r}; choose one of {', '.join(SOURCES)}")
    if not root:
        raise DataError(f"data source {name!r} got root={root!r}; give the data set's folder")
    if name == "tfds":
        from toco_jax.data.sources.tfds import TfdsSource

        return TfdsSource(root, split, masks=masks)

    from toco_jax.data import files
    from toco_jax.data.sources import coco, folder, voc

    chosen: dict[str, Any] = {
        "partial_masks": partial_masks,
        "labels": labels,
        "mask_folder": mask_folder,
        "mask_foreground": mask_foreground,
    }
    chosen["on_problem"] = on_problem or files.raise_problem
    if name == "folder":
        chosen |= {"label_separator": label_separator, "all_masks": all_masks}
        chosen |= {"val_fraction": val_fraction, "split_seed": split_seed}
        chosen |= {"splits": splits, "class_names": class_names}
    open_it = {"voc": voc.open_voc, "coco": coco.open_coco, "folder": folder.open_folder}[name]
    return open_it(root, split, masks=masks, **chosen)


class Part:
    """A record source with some of the records of another one."""

    def __init__(self, source: Any, places: Sequence[int]):
        self._source, self._places = source, places
        self.class_names = source.class_names

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self._source[self._places[i]]


def reads_masks(config: Any, part: str) -> bool:
    """Whether a run reads the masks of a part: those of "train" for the loss term `sup` alone."""
    return part == "val" or any(weight for _, weight in config.loss_weights.sup)


def open_configured(config: Any, *, part: str, masks: bool, **options):
    """Opens the split of a run's configuration that `part` ("train" or "val") names.

    `options` of `open_source` replace those of the configuration. Training does with masks of some
    images.
    """
    data = config.data
    chosen = {
        "partial_masks": part == "train",
        "root": data.root,
        "split": data[f"{part}_split"],
        "seed": config.seed,
        "labels": data.labels,
        "label_separator": data.label_separator,
        "mask_folder": (part == "train" and data.train_masks) or data.masks,
        "mask_foreground": data.mask_foreground,
        "all_masks": (data.masks, data.train_masks or data.masks),
        "val_fraction": data.val_fraction,
        "split_seed": data.split_seed,
        "splits": (data.train_split, data.val_split),
    }
    return open_source(data.source, masks=masks, **(chosen | options))
