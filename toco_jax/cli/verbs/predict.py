"""Segments photos and videos with a run.

    toco predict runs/x photos/ 'more/*.png' clip.mp4 --out out
    toco predict runs/x cat.jpg                      into the folder predictions

PATH is a picture, a video, a folder of them, or a glob pattern in quotes. The results are `masks/`
(palette PNGs of the pictures' own sizes), `overlays/` (each mask drawn over its picture, with a
legend), `cams/` (a heat map for each predicted class), `predictions.json`, which lists the files of
each picture, and `predictions.html`, which shows them. If a file cannot be read, the command names
it, segments the others, and exits with code 1.

`--format` also writes the masks for other tools, each to a folder of its name: ultralytics, coco,
coco_panoptic, cvat, label_studio, labelme, fiftyone.
"""

import argparse
import pathlib
import sys

from toco_jax.cli import process
from toco_jax.cli.parser import Parser

SET_UP = (process.log_errors_only, process.keep_programs, process.one_opencv_thread)


def add_arguments(parser: Parser) -> None:
    """Adds the words and options of `toco predict`."""
    parser.add_run()
    add = parser.add_argument
    add("path", metavar="PATH", nargs="+", help="pictures, folders, globs or videos")
    path, sources = pathlib.Path, ("seg", "cam", "aux_cam")
    folder = "folder of the results (default: predictions)"
    add("--out", metavar="DIR", type=path, default=path("predictions"), help=folder)
    add("--from", dest="source", choices=sources, default="seg", help="what masks are made from")
    probability = "probability from which a class counts as predicted"
    add("--threshold", type=float, default=0.5, help=probability)
    longest = "pictures with a longer side are scaled down (default: by the training's size)"
    add("--max_side", metavar="PIXELS", type=int, help=longest)
    add("--single_scale", action="store_true", help="scale 1 alone: a fifth of the work")
    add("--crf", action="store_true", help="refine the decoder's mask with a dense CRF")
    spread = "spread CAMs by the encoder's attention also if the run was trained without"
    add("--propagate_cams", action="store_true", help=spread)
    add("--format", metavar="NAMES", default="png", help="formats of masks, with commas")
    outlines = "polygons, not pixels, for coco, label_studio and labelme"
    add("--polygons", action="store_true", help=outlines)
    add("--every", type=int, default=1, help="take one of N frames of a video")


def run(options: argparse.Namespace) -> None:
    """Segments; exits with 1 where a file failed."""
    from toco_jax import predict
    from toco_jax.runtime.exit_codes import MISTAKE

    if predict.predict(options):
        sys.exit(MISTAKE)
