"""Draws the poster's figures of a run, from photos of any size.

    toco analyze similarity runs/voc photos/ 'more/*.png' --out figures
    toco analyze similarity runs/voc photos/ --against runs/without_ptc --out figures
    toco analyze attention runs/voc photos/ --out figures
    toco analyze layers runs/voc --out figures
    toco analyze step runs/voc --out figures

`similarity` is the mean cosine similarity of the patch tokens of each block, over the pairs of
different patches and then over the photos: near 1 the tokens are over-smoothed, which the patch
token contrast is there to prevent. It writes `similarity.json` and `similarity.png`, with two runs
in one plot.

`attention` is what the class token attends to in the last block, as the mean over heads:
`attention/` has each photo beside its heat map, from blue for the lowest number in the photo to red
for the highest, beside them local crops that are encoded by themselves, with the cosine similarity
of their class token to the photo's, and `attention.json` the numbers. For these two RUN may also be
the name of a backbone, or with `--backbone` its weights. Photos are scaled down as `toco predict`
does.

`layers` is the CAM of each block: the run's classifier on the block's tokens. Without photos it
takes the run's validation split and scores the maps: `layers.json` has the mIoU of each block,
`layers.png` six of the images. Photos are given the classes that the run predicts, and no score.

`step` is what the run's next training step computes of the first images of its batch: `step.png`
has the views, maps, labels, regions, crops and affinities, and `step.json` the loss terms of these
images and how alike each crop and the global views are.

If a file cannot be read, the command names it, does the others, and exits with code 1.
"""

import argparse
import pathlib
import sys

from toco_jax.cli import process
from toco_jax.cli.parser import Parser, whole_number

SET_UP = (process.log_errors_only, process.keep_programs, process.one_opencv_thread)

PARTS = {
    "similarity": "similarity of the patch tokens of each block",
    "attention": "what the class token attends to, over each photo",
    "layers": "the CAM of each block, and its mIoU",
    "step": "what a training step computes, panel by panel",
}


def add_arguments(parser: Parser, part: str) -> None:
    """Adds the words and options of one of `PARTS`."""
    parser.add_run()
    add = parser.add_argument
    if part != "step":
        many = "*" if part == "layers" else "+"
        add("path", metavar="PATH", nargs=many, help="photos, folders or globs")
    folder = "folder of the results (no default)"
    add("--out", metavar="DIR", type=pathlib.Path, required=True, help=folder)
    if part in ("layers", "step"):
        add("--root", metavar="DIR", help="folder of the data set (default: the run's)")
    if part == "step":
        add("--images", type=whole_number(1), default=4, help="rows of the picture")
        return
    if part == "layers":
        add("--split", metavar="NAME", help="split (default: the one that the run validates on)")
        limit = "first images of the split; 0 for all"
        add("--limit", type=whole_number(0), default=0, help=limit)
        return
    longest = "photos with a longer side are scaled down (default: by the training's size)"
    add("--max_side", metavar="PIXELS", type=int, help=longest)
    about = "which backbone RUN is of, if it is a file of weights, as deit_small (default: none)"
    add("--backbone", metavar="NAME", help=about)
    if part == "similarity":
        add("--against", metavar="RUN", help="a second run to compare with (default: none)")


def run(options: argparse.Namespace) -> None:
    """Draws; exits with 1 where a file failed."""
    from toco_jax.runtime.exit_codes import MISTAKE

    if options.part == "layers":
        from toco_jax.evaluation.layers import layers as draw
    elif options.part == "step":
        from toco_jax.training.opened import step as draw
    else:
        from toco_jax.inference.analysis import figures

        draw = getattr(figures, options.part)
    if draw(options):
        sys.exit(MISTAKE)
