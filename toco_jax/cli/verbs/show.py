"""Draws what the network will see: views, valid boxes, local crops with their flags, labels.

    toco show voc data.root=VOCdevkit/VOC2012 --out sheet.png [--checkpoint RUN]

Each row is an image of the first batches of the run, drawn by the run's own pipeline. The yellow
frame in view 1 is the valid box. Frames in the local source are the local crops, numbered as on the
right: green counts as foreground (positive), red as background (negative). Without a checkpoint
there is no CAM, so the crops are those of an undecided map; with one, the regions that the run's
auxiliary CAM gives are drawn over view 1 (blue background, grey uncertain, red foreground).
"""

import argparse

from toco_jax.cli import process
from toco_jax.cli.parser import Parser, whole_number

SET_UP = (process.log_errors_only,)


def add_arguments(parser: Parser) -> None:
    """Adds the words and options of `toco show`."""
    parser.add_config()
    add = parser.add_argument
    add("--out", metavar="FILE", default="sheet.png", help="the picture to write")
    add("--images", type=whole_number(1), default=8, help="rows of the picture")
    add("--start_step", type=whole_number(0), default=0, help="step of the run to begin with")
    add("--checkpoint", metavar="RUN", help="a run whose CAM gives the regions (default: no CAM)")


def run(options: argparse.Namespace) -> None:
    """Draws the picture and says where it is."""
    from toco_jax.config import validate
    from toco_jax.data import show
    from toco_jax.run.config_files import load_config

    config = load_config(options.config, options.keys)
    validate(config, num_devices=1)
    show.write_sheet(
        config,
        options.out,
        images=options.images,
        start_step=options.start_step,
        checkpoint=options.checkpoint,
    )
