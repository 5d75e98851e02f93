"""Draws the figures of `toco analyze`, and writes their numbers."""

import argparse
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from toco_jax.data.picture_files import PhotoError
from toco_jax.inference import drawing
from toco_jax.inference.analysis.encoder import Attention, Crop, PhotoEncoder
from toco_jax.inference.analysis.photos import Photos, claim
from toco_jax.inference.analysis.plot import line_plot
from toco_jax.inference.native import resize_map
from toco_jax.inference.segmenter import scaled_down
from toco_jax.runtime.console import say
from toco_jax.runtime.errors import UserError
from toco_jax.runtime.journal import Journal
from toco_jax.runtime.json_text import object_text
from toco_jax.runtime.outputs import open_atomically, write_atomically

_JPEG_QUALITY = 92
_GAP = 6  # pixels between a photo and its heat map
_LONGEST = 1000  # side of a photo in a figure, in pixels


def similarity(options: argparse.Namespace) -> list[dict[str, str]]:
    """Writes `similarity.json` and `similarity.png`, as `toco analyze similarity` says.

    Returns:
        `{"file": path, "error": message}` for each file that could not be measured.

    Raises:
        CheckpointError: there is no run.
        OutputError: the results cannot be written, or would overwrite other files.
        UserError: no photo could be measured, the networks have different depths, or an option is
            out of range.
    """
    picture = options.out / "similarity.png"
    numbers = claim(picture, options.path)
    photos = Photos(options.path)
    checkpoints = [options.checkpoint, *([options.against] if options.against else [])]
    encoders = [
        PhotoEncoder(run, backbone=options.backbone, max_side=options.max_side)
        for run in checkpoints
    ]
    depths = [encoder.depth for encoder in encoders]
    if len(set(depths)) > 1:
        raise UserError(
            f"{options.checkpoint} has {depths[0]} blocks and --against={options.against} "
            f"{depths[1]}: compare networks with equally many"
        )
    files, found = [], []
    for path, _, image in photos:
        try:
            found.append([encoder.similarity(image) for encoder in encoders])
        except PhotoError as error:
            photos.fail(path, PhotoError(f"{path}: {error}"))
            continue
        files.append(str(path))
        say(f"{path}  {', '.join(f'{values[-1]:.3f}' for values in found[-1])}")
    photos.refuse_none(files)
    values = np.array(found)  # [photos, runs, depth + 1]
    means = values.mean(axis=0)
    content = {
        "measure": "mean cosine similarity of the pairs of different patch tokens",
        "runs": [
            _about(encoder) | measured(mean) | {"photos": [measured(v) for v in of_photos]}
            for encoder, mean, of_photos in zip(encoders, means, values.swapaxes(0, 1), strict=True)
        ],
        "files": files,
        "failed": photos.failed,
    }
    names = [encoder.checkpoint for encoder in encoders]
    plot = line_plot(
        list(zip(names, means.tolist(), strict=True)),
        ticks=[*map(str, range(1, depths[0] + 1)), "norm"],
        x_label="block; norm: after the final LayerNorm",
        y_label="mean cosine similarity of patches",
    )
    # The numbers first, because they tell whose the picture is.
    write_atomically(numbers, json.dumps(content, indent=1) + "\n")
    with open_atomically(picture) as file:
        plot.save(file, "png")
    for name, mean in zip(names, means, strict=True):
        say(f"{name}: {' '.join(f'{value:.3f}' for value in mean)}")
    say(f"{len(files)} photos measured, {len(photos.failed)} failed; {numbers}, {picture}")
    return photos.failed


def attention(options: argparse.Namespace) -> list[dict[str, str]]:
    """Writes `attention.json` and the folder `attention`, as `toco analyze attention` says.

    Returns:
        `{"file": path, "error": message}` for each file that could not be used.

    Raises:
        CheckpointError: there is no run.
        OutputError: the results cannot be written, or would overwrite other files.
        UserError: no photo could be used, or an option is out of range.
    """
    folder = options.out / "attention"
    numbers = claim(folder, options.path)
    photos = Photos(options.path)
    encoder = PhotoEncoder(options.checkpoint, backbone=options.backbone, max_side=options.max_side)
    similar: list[float] = []
    entries = Journal(options.out)
    complete = False
    try:
        for path, name, image in photos:
            found = encoder.attention(image)
            crops = encoder.crops(image, found)
            if not len(entries):
                # The numbers first, because they tell whose the pictures are.
                _save_attention(numbers, encoder, entries, photos.failed, complete=False)
            picture = folder / f"{name}.jpg"
            picture.parent.mkdir(parents=True, exist_ok=True)
            attention_picture(image, found.patches, crops).save(picture, quality=_JPEG_QUALITY)
            entry = {"file": str(path), "picture": str(picture.relative_to(options.out))}
            entries.add(len(entries), entry | _of_attention(found) | {"crops": _of_crops(crops)})
            similar += [crop.similarity for crop in crops]
            say(f"{path}  {picture}")
        photos.refuse_none(entries)
        complete = True
    finally:
        # Whatever ended the loop, this file describes the pictures that are there.
        if len(entries):
            _save_attention(numbers, encoder, entries, photos.failed, complete=complete)
    mean = np.mean(similar)
    say(f"mean cosine similarity of {len(similar)} local crops to their photo: {mean:.3f}")
    say(f"{len(entries)} photos drawn, {len(photos.failed)} failed; {numbers}, {folder}")
    return photos.failed


def _of_attention(found: Attention) -> dict[str, Any]:
    return {
        "grid": list(found.patches.shape),
        "class_token": rounded(found.leading[0]),
        "registers": rounded(found.leading[1:]),
        "patches": rounded(found.patches),
    }


def _of_crops(crops: Sequence[Crop]) -> list[dict[str, Any]]:
    return [
        {"box": list(crop.box), "similarity": round(crop.similarity, 6)}
        | _of_attention(crop.attention)
        for crop in crops
    ]


def _save_attention(
    numbers: pathlib.Path,
    encoder: PhotoEncoder,
    entries: Journal,
    failed: list[dict[str, str]],
    *,
    complete: bool,
) -> None:
    measure = "attention of the class token in the last block, mean over heads; the sum is 1"
    content = {"measure": measure, "complete": complete} | _about(encoder)
    with open_atomically(numbers) as file:
        for piece in object_text(content | {"photos": iter(entries), "failed": failed}):
            file.write(piece.encode())


def attention_picture(
    image: np.ndarray, patches: np.ndarray, crops: Sequence[Crop] = ()
) -> Image.Image:
    """Draws a photo and, to its right, the attention to its patches over it, then its local crops.

    Blue is the lowest attention in the photo or crop, red the highest. Each crop has the similarity
    of its class token to that of the photo.

    Args:
        image: uint8 `[H, W, 3]`; it is scaled down to a longer side of at most `_LONGEST`.
        patches: `[h, w]`.
        crops: rows of crops, one after the other.
    """
    image = scaled_down(image, _LONGEST)
    gap = np.full((len(image), _GAP, 3), 255, np.uint8)
    panels = [image, gap, _heated(image, patches)]
    if crops:
        panels += [gap, _crop_table(crops, len(image))]
    return Image.fromarray(np.concatenate(panels, axis=1))


def _heated(image: np.ndarray, patches: np.ndarray) -> np.ndarray:
    low, high = patches.min(), patches.max()
    level = (patches - low) / (high - low) if high > low else np.zeros_like(patches)
    return drawing.heat_map(image, resize_map(level[..., None], image.shape[:2])[..., 0])


def _crop_table(crops: Sequence[Crop], height: int) -> np.ndarray:
    """Draws crops in their rows, uint8 `[height, _, 3]`."""
    rows = len({crop.box[0] for crop in crops})
    columns = len(crops) // rows
    side = max((height + _GAP) // rows - _GAP, 1)
    font = ImageFont.load_default(max(side // 8, 8))
    width = columns * (side + _GAP) - _GAP
    canvas = Image.new("RGB", (width, height), "white")
    for i, crop in enumerate(crops):
        cell = Image.fromarray(_heated(crop.pixels, crop.attention.patches)).resize((side, side))
        pen = ImageDraw.Draw(cell)
        pen.text(
            (3, 1), f"{crop.similarity:.2f}", "white", font, stroke_width=1, stroke_fill="black"
        )
        canvas.paste(cell, ((i % columns) * (side + _GAP), (i // columns) * (side + _GAP)))
    return np.asarray(canvas)


def _about(encoder: PhotoEncoder) -> dict[str, Any]:
    """What the JSON says of a network."""
    return {"run": encoder.checkpoint, "step": encoder.step, "max_side": encoder.max_side}


def measured(similarities: np.ndarray) -> dict[str, Any]:
    """What the JSON says of the similarities `[depth + 1]` of `PhotoEncoder.similarity`."""
    *blocks, after_norm = rounded(similarities)
    return {"blocks": blocks, "after_norm": after_norm}


def rounded(values: np.ndarray) -> Any:
    """Numbers for the JSON, as lists."""
    return np.round(values.astype(np.float64), 6).tolist()
