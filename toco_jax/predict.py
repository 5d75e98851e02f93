"""Segments photos and videos with a trained network; see `toco predict --help`."""

import argparse
import errno
import itertools
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from toco_jax.cli import commands
from toco_jax.data import photos
from toco_jax.data.mask_files import write_mask
from toco_jax.inference import drawing, inputs
from toco_jax.inference.formats import writer
from toco_jax.inference.formats.pictures import Picture, Task
from toco_jax.inference.native import resize_map
from toco_jax.inference.predictions import Report, claim_results, class_slugs
from toco_jax.inference.segmenter import Segmentation, Segmenter
from toco_jax.report import photos_page
from toco_jax.report.aside import aside
from toco_jax.report.photos_page import PhotoPages
from toco_jax.runtime.console import say
from toco_jax.runtime.errors import UserError
from toco_jax.runtime.outputs import OutputError

_JPEG_QUALITY = 92
_LEGEND_WIDTH = 240


def predict(options: argparse.Namespace) -> list[dict[str, str]]:
    """Segments the pictures and writes the results, as the options of `toco predict` say.

    Returns:
        `{"file": path, "error": message}` for each file that could not be segmented.

    Raises:
        CheckpointError: there is no run.
        OutputError: the results cannot be written, or would overwrite other files.
        UserError: an option is out of range.
    """
    if options.every < 1:
        raise UserError(f"--every={options.every} must be at least 1")
    formats = writer.parse(options.format, polygons=options.polygons)
    results = claim_results(options.out, options.path, formats)
    found = inputs.find_files(options.path, results=results)
    for remark in found.remarks:
        say(f"remark: {remark}", error=True)
    segmenter = Segmenter(
        options.checkpoint,
        source=options.source,
        threshold=options.threshold,
        max_side=options.max_side,
        multi_scale=not options.single_scale,
        with_cams=True,
        crf=options.crf,
        propagate_cams=options.propagate_cams,
    )
    writers = mask_writers(options, formats, segmenter)
    report = Report(options, segmenter, writers)
    report.save()
    for word, error in found.problems:
        report.fail(word, error)
    slugs = class_slugs(segmenter.class_names)
    made_by = f"{options.checkpoint} at step {segmenter.step}, from {options.source}"
    pages = PhotoPages(options.out, segmenter.class_names, made_by)
    try:
        for record, result in segmenter.segment(jobs(found, options.every, report), report.read):
            try:
                entry = write_results(options.out, record, result, segmenter.class_names, slugs)
                for mask_writer in writers:
                    mask_writer.add(record["order"], picture_of(record, result))
                pages.add(record["order"], record["image"], result.mask, entry)
            except OSError as error:
                if error.errno != errno.ENAMETOOLONG:
                    raise OutputError(f"--out={options.out} cannot be written ({error})") from error
                report.fail(record["path"], error)
            except UserError as error:  # of a format that cannot hold the picture
                report.fail(record["path"], error)
            else:
                report.add(record["order"], entry)
        report.complete = True
    finally:
        # Whatever ended the loop, the results so far are on the disk and this file describes them.
        report.save()
        counts = f"{len(report.entries)} pictures segmented, {len(report.failed)} failed"
        with aside(options.out / photos_page.FILE):
            pages.write()
        say(f"{counts}; {report.path}, {options.out / photos_page.FILE}")
        for name, mask_writer in zip(formats, writers, strict=True):
            say(f"masks for {name}: {mask_writer.folder}")
    return report.failed


def mask_writers(
    options: argparse.Namespace, formats: Sequence[str], segmenter: Segmenter
) -> list[writer.MaskWriter]:
    """Opens a writer of each format, in the folder of its name among the results.

    Raises:
        UserError: a format cannot hold the names of the classes.
    """
    names = tuple(segmenter.class_names)
    for name in formats:
        writer.refuse_names(name, names)

    def opened(name: str) -> writer.MaskWriter:
        folder = options.out / name
        model = f"{options.checkpoint} at step {segmenter.step}"
        task = Task(names, polygons=options.polygons, folder=folder, model=model)
        return writer.MaskWriter(name, folder, task)

    return [opened(name) for name in formats]


def picture_of(record: dict[str, Any], result: Segmentation) -> Picture:
    """Returns a picture and its segmentation as the formats of masks take them."""
    return Picture(
        name=record["name"],
        file_name=record["file_name"],
        path=None if "frame" in record else record["path"],
        mask=result.mask,
        read=lambda: record["image"],
        scores=result.class_scores,
    )


def jobs(found: inputs.Found, every: int, report: Report) -> Iterator[dict[str, Any]]:
    """Yields what to segment: each picture by its path, each video frame by frame."""
    order = itertools.count()
    for path, name in found.files:
        if not inputs.is_video(path):
            file_name = found.file_names[path]
            yield {"path": path, "name": name, "file_name": file_name, "order": next(order)}
            continue
        try:
            for number, frame in inputs.video_frames(path, every=every):
                frame_name = f"{name}/{number:06d}"
                job = {"path": path, "name": frame_name, "file_name": f"images/{frame_name}.png"}
                job |= {"order": next(order), "frame": number}
                yield job | {"image": frame, "notes": [f"frame {number}"]}
        except photos.PhotoError as error:
            report.fail(path, error)


def write_results(
    out: pathlib.Path,
    record: dict[str, Any],
    result: Segmentation,
    names: Sequence[str],
    slugs: Sequence[str],
) -> dict[str, Any]:
    """Writes the mask, overlay and heat maps of one picture, and returns its entry of the report.

    Args:
        out: folder of the results.
        record: the picture: `path`, `name` (of its results), `image` uint8 `[H, W, 3]`, `notes`.
        result: the segmentation of the image.
        names: names of the foreground classes.
        slugs: names of the classes within file names, see `class_slugs`.

    Returns:
        The picture's entry in predictions.json.

    Raises:
        OSError: a file cannot be written.
    """
    image, name = record["image"], record["name"]
    height, width = image.shape[:2]
    notes = list(record["notes"])
    if result.segmented_at != (height, width):
        small = " x ".join(map(str, result.segmented_at[::-1]))
        notes.append(f"segmented at {small}, mask at {width} x {height}")
    mask_path = _in_folder(out / "masks", f"{name}.png")
    write_mask(mask_path, result.mask)
    overlay_path = _in_folder(out / "overlays", f"{name}.jpg")
    overlay_picture(image, result.mask, ("background", *names)).save(
        overlay_path, quality=_JPEG_QUALITY
    )
    cam_paths = {}
    for k, class_id in enumerate(result.classes):
        assert result.cams is not None
        path = _in_folder(out / "cams", f"{name}.{slugs[class_id]}.jpg")
        heat = resize_map(np.ascontiguousarray(result.cams[..., k : k + 1]), (height, width))
        Image.fromarray(drawing.heat_map(image, heat)).save(path, quality=_JPEG_QUALITY)
        cam_paths[names[class_id]] = str(path.relative_to(out))
    labels, pixels = np.unique(result.mask, return_counts=True)
    shown = ("background", *names)
    scores = zip(names, result.class_scores, strict=True)
    return {
        "file": str(record["path"]),
        "size": [width, height],
        "notes": notes,
        "predicted": [names[class_id] for class_id in result.classes],
        "class_scores": {label: round(float(score), 4) for label, score in scores},
        "pixel_shares": {
            shown[label]: round(float(count / result.mask.size), 6)
            for label, count in zip(labels, pixels, strict=True)
        },
        "mask": str(mask_path.relative_to(out)),
        "overlay": str(overlay_path.relative_to(out)),
        "cams": cam_paths,
    }


def overlay_picture(image: np.ndarray, mask: np.ndarray, names: tuple[str, ...]) -> Image.Image:
    """Draws a mask over its picture, with a legend below.

    The overlay starts in the top left corner and keeps the size of the picture, uint8
    `[H, W, 3]`. `names` are those of the labels, background first.
    """
    height, width = mask.shape
    labels = [int(label) for label in np.unique(mask)]
    text_size = max(13, width // 40)
    legend_width = max(width, _LEGEND_WIDTH)
    legend = drawing.legend(labels, names, legend_width, text_size=text_size)
    canvas = Image.new("RGB", (legend_width, height + legend.height), "white")
    canvas.paste(Image.fromarray(drawing.overlay(image, mask)), (0, 0))
    canvas.paste(legend, (0, height))
    return canvas


def _in_folder(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Returns the path of a file in a folder, after creating its parent folders."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


if __name__ == "__main__":
    commands.start("predict")
