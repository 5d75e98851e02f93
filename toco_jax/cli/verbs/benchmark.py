"""Measures the parts of the system.

    toco benchmark step --breakdown
    toco benchmark plan voc:vit_base --target gpu:h100 backbone=vit_base crop_size=448

Each command prints the hardware and a table of medians, and writes them as JSON with --json FILE.
What is compared is measured in turns in one process, after a warm-up, so that other work of the
machine falls on all alike; a time on a device ends when the device has finished.
"""

import argparse
import importlib
import pathlib

from toco_jax.cli import process
from toco_jax.cli.parser import Parser, whole_number

# As training does.
SET_UP = (process.keep_memory,)

# Commands and the module of `toco_jax.benchmark` that does each, where it has another name.
PARTS = {
    "step": "the training step: seconds, images/s, FLOP/s, memory",
    "lattice": "the bilateral filter of the dense energy",
    "crf": "the dense CRF of the evaluation",
    "par": "pixel-adaptive refinement",
    "attention": "the encoder's attention, by implementation",
    "compile": "tracing, lowering and compiling the step",
    "scaling": "what the devices exchange, and what it costs on paper",
    "plan": "the step compiled for devices that are not here",
    "pipeline": "decoding and augmenting images",
}
_MODULES = {"compile": "compilation"}


def add_arguments(parser: Parser, part: str) -> None:
    """Adds the words and options of one of `PARTS`."""
    module = _module_of(part)
    parser.description = module.__doc__
    parser.add_argument(
        "--repeats", type=whole_number(1), default=5, help="rounds after the warm-up"
    )
    parser.add_argument(
        "--json",
        metavar="FILE",
        type=pathlib.Path,
        help="write the tables to this file (default: none)",
    )
    module.add_arguments(parser)


def run(options: argparse.Namespace) -> None:
    """Measures, and prints the hardware and the tables."""
    import jax

    from toco_jax.benchmark import measure
    from toco_jax.runtime.outputs import check_file

    if getattr(options, "virtual_devices", 0):
        jax.config.update("jax_num_cpu_devices", options.virtual_devices)
    if options.json:
        check_file(options.json, "--json")
    tables = _module_of(options.part).run(options)
    measure.show("hardware", [measure.hardware()])
    for title, rows in tables.items():
        measure.show(title, rows)
    if options.json:
        measure.save(options.json, options.part, tables)


def _module_of(part: str):
    return importlib.import_module(f"toco_jax.benchmark.{_MODULES.get(part, part)}")
