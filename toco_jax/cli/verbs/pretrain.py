"""Pre-trains the small encoder of the demo on procedural images of single objects.

    toco pretrain --out encoder.npz

The encoder that comes with the package, from which the configuration `shapes` starts, is that of
seed 0 and takes 9 minutes on one core.
"""

import argparse
import pathlib

from toco_jax.cli.parser import Parser

SET_UP = ()


def add_arguments(parser: Parser) -> None:
    """Adds the options of `toco pretrain`."""
    add = parser.add_argument
    add("--seed", type=int, default=0, help="seed of the weights and of the images")
    file = "the file to write (default: the package's own, demo/assets/shapes_encoder.npz)"
    add("--out", metavar="FILE", type=pathlib.Path, help=file)
    add("--steps", type=int, nargs=3, default=(700, 800, 300), help="updates in the three stages")
    add("--batch", type=int, default=64, help="single objects per update")


def run(options: argparse.Namespace) -> None:
    """Trains the encoder and writes it."""
    from toco_jax import pretrain_shapes
    from toco_jax.runtime.outputs import check_file

    options.out = options.out or pretrain_shapes.OUT
    check_file(options.out, "--out")
    pretrain_shapes.run(options)
