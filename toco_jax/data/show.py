"""Draws what the network will see of a data set; see `toco show --help`."""

import itertools
import pathlib
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from toco_jax.cli import commands
from toco_jax.config import validate
from toco_jax.data import open_configured
from toco_jax.data.pipeline import configured_batches
from toco_jax.inference import drawing
from toco_jax.inference.views import BOX, CELL, NEGATIVE, POSITIVE, framed, tiled, tinted
from toco_jax.method import cams, crops
from toco_jax.models.network import normalize
from toco_jax.runtime.outputs import OutputError, check_file


def first_records(source: Any, config: ConfigDict, *, count: int, start_step: int) -> dict:
    """Returns the views of the first `count` records of a run from a step on, as arrays."""
    batches = configured_batches(
        source, config, start_step=start_step, num_threads=0, on_error="raise"
    )
    taken = list(itertools.islice(batches, -(-count // config.batch_size)))
    batches.close()
    return {
        key: [row for batch in taken for row in batch[key]][:count]
        if key == "name"
        else np.concatenate([batch[key] for batch in taken])[:count]
        for key in taken[0]
    }


def regions_of(checkpoint: str, records: dict, class_names: tuple[str, ...]) -> np.ndarray:
    """Returns region maps [N, S, S] in {0, 1, 2} of view 1, from a network's auxiliary CAM.

    Args:
        checkpoint: the network's run, or one of its checkpoints.
        records: see `first_records`.
        class_names: classes of the records; the network may know more, in another order.

    Raises:
        CheckpointError: there is no such run.
        DataError: the run does not know these classes.
    """
    # A picture without a checkpoint needs nothing of the network.
    from toco_jax.run import runs

    run = runs.load(checkpoint)
    config, model, params = run.config, run.model, run.params
    cls_label = np.zeros((len(records["cls_label"]), config.num_classes), np.float32)
    cls_label[:, run.columns(class_names, where="the data")] = records["cls_label"]

    @jax.jit
    def regions(params: dict, image: jax.Array, cls_label: jax.Array) -> jax.Array:
        _, aux_cam = cams.multi_scale_cams(
            lambda x: model.apply({"params": params}, x, method="cams"),
            normalize(image[None]),
            scales=tuple(config.cam_scales),
        )
        thresholds = {"high_thre": config.high_thre, "low_thre": config.low_thre}
        return cams.cam_to_roi_mask(aux_cam, cls_label[None], **thresholds)[0]

    pairs = zip(records["image"], cls_label, strict=True)
    return np.stack([regions(params, image, label) for image, label in pairs])


def undecided(records: dict) -> np.ndarray:
    """Returns region maps [N, S, S] without a CAM: uncertain in the valid box, else background."""
    maps = np.zeros(records["image"].shape[:3], np.int32)
    for row, (y0, y1, x0, x1) in zip(maps, records["valid_box"], strict=True):
        row[y0:y1, x0:x1] = 1
    return maps


def sheet(
    config: ConfigDict, records: dict, roi_mask: np.ndarray, class_names: tuple[str, ...]
) -> Image.Image:
    """Draws a row per image with view 1, view 2, the local source and the local crops.

    `records` are those of `first_records`, `roi_mask` region maps [N, S, S] in {0, 1, 2}.
    """
    size, num = config.local_crop_size, config.num_local_crops
    keys = jax.random.split(jax.random.key(config.seed), len(roi_mask))

    @jax.jit
    def draw(keys: jax.Array, roi_mask: jax.Array, local: jax.Array):
        origins = crops.sample_crop_origins(keys, roi_mask, num=num, size=size)
        return origins, *crops.crop_and_flag(local, roi_mask, origins, size=size)

    origins, cut, positive = map(np.asarray, draw(keys, roi_mask, records["local"]))
    rows, captions = [], []
    for i, name in enumerate(records["name"]):
        colours = [POSITIVE if flag else NEGATIVE for flag in positive[i]]
        boxes = [(y, y + size, x, x + size) for y, x in origins[i]]
        view1 = framed(tinted(records["image"][i], roi_mask[i]), [records["valid_box"][i]], [BOX])
        local = framed(records["local"][i], boxes, colours, numbered=True)
        rows.append([view1, records["view2"][i], local, tiled(cut[i], colours)])
        present = [class_names[c] for c in np.flatnonzero(records["cls_label"][i])]
        captions.append(f"{name}: {', '.join(present) or 'no class'}")
    return drawing.grid(
        rows,
        columns=("view 1 and valid box", "view 2", "local source", "local crops"),
        captions=captions,
        labels=(),
        names=(),
        cell=CELL,
    )


def picture_file(out: str) -> pathlib.Path:
    """Checks the path of a picture that is to be written, and returns it.

    Raises:
        OutputError: its ending is none of a picture's, or it cannot be written.
    """
    path = pathlib.Path(out)
    if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise OutputError(f"--out={out} has no ending of a picture: use one such as {out}.png")
    return check_file(path, "--out")


def write_sheet(
    config: ConfigDict, out: str, *, images: int, start_step: int, checkpoint: str | None
) -> None:
    """Writes the picture of the first training images from a step on, and prints where it is.

    The auxiliary CAM of the run `checkpoint` gives the regions; without one they are undecided.

    Raises:
        ConfigError: a value cannot work.
        OutputError: the picture cannot be written.
    """
    validate(config, num_devices=1)
    path = picture_file(out)
    source = open_configured(config, part="train", masks=False)
    records = first_records(source, config, count=images, start_step=start_step)
    if checkpoint:
        roi_mask = regions_of(checkpoint, records, source.class_names)
    else:
        roi_mask = undecided(records)
    sheet(config, records, roi_mask, source.class_names).save(path)
    print(f"{path}: {len(records['name'])} images of {source.split!r}")


if __name__ == "__main__":
    commands.start("show")
