"""Segments photos and videos with a trained network.

    python -m toco_jax.predict --checkpoint=runs/x photos/ --out=out

PATH is a file, a folder, a glob in quotes, or a video. The folder of the results receives
`masks/` (palette PNGs at the picture's own size), `overlays/` (the same over the picture, with a
legend), `cams/` (a heat map for each predicted class) and `predictions.json`. A file that cannot be
read is named, the rest is done, and the exit code is 1.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from PIL import Image

from toco_jax import commands, drawing, photos, runs
from toco_jax.checkpoints import write_atomically
from toco_jax.errors import UserError
from toco_jax.inference import resize_map
from toco_jax.mask_files import write_mask
from toco_jax.segmenter import SOURCES, Segmentation, Segmenter

_JPEG_QUALITY = 92
_LEGEND_WIDTH = 240


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = commands.make_parser("python -m toco_jax.predict", __doc__)
    add = parser.add_argument
    add("path", nargs="+", help="a picture, a folder, a glob or a video")
    add("--checkpoint", required=True, help="a run's folder or one checkpoint in it")
    add("--out", type=pathlib.Path, required=True, help="folder of the results")
    add("--from", dest="source", choices=SOURCES, default="seg", help="what masks are made from")
    add("--threshold", type=float, default=0.5, help="probability of a class to be predicted")
    add("--max_side", type=int, help="pictures with a longer side are segmented scaled")
    add("--single_scale", action="store_true", help="scale 1 alone: a fifth of the work")
    add("--crf", action="store_true", help="refine the decoder's mask with a dense CRF")
    add("--every", type=int, default=1, help="of a video, only one frame in so many")
    return commands.parse(parser, arguments, intermixed=True)


def main(arguments: list[str] | None = None) -> None:
    """The command line; exit code 1 where a file or an option was wrong."""
    options = parse_arguments(arguments)
    with commands.reported(debug=options.debug):
        failed = predict(options)
    if failed:
        sys.exit(1)


def predict(options: argparse.Namespace) -> list[dict[str, str]]:
    """Writes the results; returns the files that failed, as `{"file", "error"}`.

    Raises:
        CheckpointError: there is no run.
        UserError: an option out of range.
    """
    if options.every < 1:
        raise UserError(f"--every={options.every} must be at least 1")
    segmenter = Segmenter(
        options.checkpoint,
        source=options.source,
        threshold=options.threshold,
        max_side=options.max_side,
        multi_scale=not options.single_scale,
        with_cams=True,
        crf=options.crf,
    )
    failed: list[dict[str, str]] = []
    entries = {}

    def fail(path: pathlib.Path, error: Exception) -> None:
        print(f"error: {error}", file=sys.stderr, flush=True)
        failed.append({"file": str(path), "error": str(error)})

    def read(job: dict[str, Any]) -> dict[str, Any] | None:
        if "image" in job:
            return job
        try:
            image, notes = photos.read_photo(job["path"])
        except photos.PhotoError as error:
            fail(job["path"], error)
            return None
        return job | {"image": image, "notes": notes}

    def jobs() -> Iterator[dict[str, Any]]:
        order = 0
        for path, name in photos.find_files(options.path):
            if not photos.is_video(path):
                yield {"path": path, "name": name, "order": order}
                order += 1
                continue
            try:
                for number, frame in photos.video_frames(path, every=options.every):
                    job = {"path": path, "name": f"{name}/{number:06d}", "order": order}
                    yield job | {"image": frame, "notes": [f"frame {number}"]}
                    order += 1
            except photos.PhotoError as error:
                fail(path, error)

    for record, result in segmenter.segment(jobs(), read):
        entry = write_results(options.out, record, result, segmenter)
        entries[record["order"]] = entry
        print("  ".join([entry["file"], ", ".join(entry["predicted"]) or "-", *entry["notes"]]))
    if not entries and not failed:
        fail(pathlib.Path(" ".join(options.path)), ValueError("no picture or video found there"))
    about = {
        "checkpoint": str(options.checkpoint),
        "step": segmenter.step,
        "classes": ["background", *segmenter.class_names],
        "from": options.source,
        "threshold": options.threshold,
        "max_side": segmenter.max_side,
    }
    about |= {"images": [entries[order] for order in sorted(entries)], "failed": failed}
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "predictions.json"
    write_atomically(path, json.dumps(about, indent=1) + "\n")
    print(f"{len(entries)} pictures segmented, {len(failed)} failed; {path}")
    return failed


def write_results(
    out: pathlib.Path, record: dict[str, Any], result: Segmentation, segmenter: Segmenter
) -> dict[str, Any]:
    """Writes mask, overlay and heat maps of one picture; returns its entry of predictions.json."""
    image, name, names = record["image"], record["name"], segmenter.class_names
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
        path = _in_folder(out / "cams", f"{name}_{names[class_id].replace(' ', '_')}.jpg")
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
    """A mask over its picture, pixel on pixel from the top left, with a legend below."""
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
    """The path of a file whose folder exists."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


if __name__ == "__main__":
    cv2.setNumThreads(0)
    runs.set_up_command()
    main()
