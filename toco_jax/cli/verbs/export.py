"""Writes the network of a run as one serialised function, which runs without this package.

    toco export runs/x --out model.stablehlo [--size 448] [--multiscale]

The function takes uint8 RGB images `[b, size, size, 3]` of any batch size b, on cpu, cuda or tpu.
`jax.export.deserialize` reads the file. A JSON file beside it, of the same name, holds the classes,
their colours, and the shapes of input and outputs.
"""

import argparse
import pathlib

from toco_jax.cli import process
from toco_jax.cli.parser import Parser

SET_UP = (process.log_errors_only, process.keep_programs)


def add_arguments(parser: Parser) -> None:
    """Adds the words and options of `toco export`."""
    add = parser.add_argument
    parser.add_run()
    parser.add_target("the file to write, such as model.stablehlo", required=True)
    add("--size", metavar="PIXELS", type=int, help="side of the images (default: the training's)")
    add("--multiscale", action="store_true", help="several scales and mirror images, as published")


def run(options: argparse.Namespace) -> None:
    """Exports, and prints what was written."""
    from toco_jax import export
    from toco_jax.runtime.console import say

    run_folder = pathlib.Path(options.checkpoint)
    lines = export.export_run(
        run_folder, options.out, size=options.size, multiscale=options.multiscale
    )
    say("\n".join(lines))
