"""Writes the network of a run as one file, which runs without this package.

    toco export runs/x --out model.stablehlo [--size 448] [--multiscale]
    toco export runs/x --out model.onnx [--size native] [--weights float16]

The function takes uint8 RGB images `[b, size, size, 3]` of any batch size b. A JSON file beside it,
of the same name, holds the classes, their colours, and the shapes of input and outputs.

stablehlo: for cpu, cuda or tpu; `jax.export.deserialize` reads it. onnx: for ONNX Runtime and all
that reads ONNX; with `--size native` for images of any size. x_anylabeling: an ONNX file with the
outputs that this annotation tool expects, and the YAML file that it opens.
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
    parser.add_target("the file to write, such as model.stablehlo or model.onnx", required=True)
    formats = ("stablehlo", "onnx", "x_anylabeling")
    names = f"{', '.join(formats)} (default: onnx for names in .onnx, else stablehlo)"
    add("--format", metavar="NAME", choices=formats, help=names)
    side = "side of the images, or native for any (default: the training's)"
    add("--size", metavar="PIXELS", type=_size, help=side)
    add("--multiscale", action="store_true", help="several scales and mirror images, as published")
    kinds = ("float32", "float16")
    add("--weights", choices=kinds, default="float32", help="how an ONNX file stores the weights")


def _size(text: str) -> int | str:
    if text != "native" and not text.removeprefix("-").isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} must be a number of pixels, or native")
    return text if text == "native" else int(text)


def run(options: argparse.Namespace) -> None:
    """Exports, and prints what was written."""
    from toco_jax import export
    from toco_jax.runtime.console import say

    lines = export.export_run(
        pathlib.Path(options.checkpoint),
        options.out,
        file_format=options.format,
        size=options.size,
        multiscale=options.multiscale,
        weights=options.weights,
    )
    say("\n".join(lines))
