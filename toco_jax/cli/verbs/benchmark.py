"""Measures the parts of the system.

    toco benchmark step --breakdown
    toco benchmark plan voc:vit_base --target gpu:h100 backbone=vit_base crop_size=448

Each command prints the hardware and a table of medians, and writes them as JSON with --json FILE.
What is compared is measured in turns in one process, after a warm-up, so that other work of the
machine falls on all alike; a time on a device ends when the device has finished.
"""

import argparse
import ast
import importlib
import importlib.resources
import pathlib

from toco_jax.cli.parser import Parser, whole_number
from toco_jax.runtime.host_memory import keep_memory

# As training does.
SET_UP = (keep_memory,)

PARTS = {
    "step": "the training step: seconds, images/s, FLOP/s, memory",
    "lattice": "the bilateral filter of the dense energy",
    "crf": "the dense CRF of the evaluation",
    "par": "pixel-adaptive refinement",
    "attention": "the encoder's attention, by implementation",
    "compile": "tracing, lowering and compiling the step",
    "scaling": "what the devices exchange, and what it costs on paper",
    "plan": "the step compiled for devices that are not here",
    "export": "the files of `toco export`: size, seconds to load, time per image",
    "pipeline": "decoding and augmenting images",
    "memory": "memory, open files and threads over many steps and pictures",
}
# The module of `toco_jax.benchmark` that does a part, where it has another name.
_MODULES = {"compile": "compilation"}
# Options of earlier versions, and the keys that they set.
_KEY_OPTIONS = {
    "--backbone": "backbone",
    "--size": "crop_size",
    "--batch_size": "batch_size",
    "--dtype": "compute_dtype",
}
_SIZES = (
    "Unless keys say otherwise: deit_tiny at 224 pixels on a CPU, elsewhere CONFIG's encoder at "
    "448 pixels."
)


def add_arguments(parser: Parser, part: str) -> None:
    """Adds the words and options of one of `PARTS`."""
    # Read, not imported: the module imports JAX.
    source = importlib.resources.files("toco_jax.benchmark") / f"{_MODULES.get(part, part)}.py"
    parser.description = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8")))
    add = parser.add_argument
    add("--repeats", type=whole_number(1), default=5, help="rounds after the warm-up")
    path = pathlib.Path
    add("--json", metavar="FILE", type=path, help="write the tables to this file (default: none)")
    if part in ("step", "compile", "scaling", "plan"):
        _add_step_arguments(parser, part)
    elif part == "export":
        parser.add_config(default="voc", key_options=_KEY_OPTIONS)
        parser.epilog = _SIZES
        add("--batch", type=whole_number(1), default=1, help="images in one call")
        add("--image", type=path, help="a photograph (default: made up)")
    elif part == "attention":
        add("--tokens", type=int, nargs="+", default=[197, 785, 1765], help="numbers to try")
        add("--width", type=int, default=768, help="token width")
        add("--heads", type=int, default=12, help="attention heads")
        add("--batch", type=int, help="images (default: 1 on a CPU, elsewhere 16)")
        add("--dtype", help="(default: float32 on a CPU, elsewhere bfloat16)")
    elif part == "pipeline":
        add("--images", type=int, default=24, help="files a round")
        add("--size", type=int, default=448, help="side of the views in pixels")
    elif part == "memory":
        parser.add_config(default="shapes")
        add("--steps", type=whole_number(2), default=3000, help="training steps")
        add("--images", type=whole_number(2), default=2000, help="pictures to segment")
        add("--points", type=whole_number(2), default=12, help="rows of each table")
    else:
        _add_image_arguments(parser, part)


def _add_step_arguments(parser: Parser, part: str) -> None:
    parser.add_config(default="voc", key_options=_KEY_OPTIONS)
    parser.epilog = f"{_SIZES[:-1]}; group_size images per device."
    add = parser.add_argument
    phases = ("all", "first")
    if part == "compile":
        both, about = ["first", "all"], "loss terms: all, first"
        add("--phase", metavar="NAME", nargs="+", choices=phases, default=both, help=about)
    else:
        phase = "first" if part == "scaling" else "all"
        add("--phase", choices=phases, default=phase, help="loss terms")
    if part == "step":
        add("--breakdown", action="store_true", help="also each part by itself")
        add("--profile", type=pathlib.Path, help="write a trace of 3 steps here (default: none)")
        add("--flops_only", action="store_true", help="compile and count, do not run")
    elif part == "plan":
        kinds = "gpu:h100, gpu:h100:8 for eight in one machine, or tpu:TOPOLOGY as in tpu:v5e:2x4"
        add("--target", required=True, help=f"{kinds} (no default)")
    elif part == "scaling":
        add("--virtual_devices", type=int, default=0, help="CPU devices to pretend")
        sizes = "sizes of meshes (default: 1, 2, 4 ... all)"
        add("--devices", type=int, nargs="+", help=sizes)
        add(
            "--link_gbytes",
            type=lambda text: [float(part) for part in text.split(",")],
            default="25,100,450",
            help="speeds of a device's link in GB/s, with commas between",
        )
        add(
            "--step_seconds",
            type=float,
            help="of a device's share (default: measured on one device)",
        )


def _add_image_arguments(parser: Parser, part: str) -> None:
    add = parser.add_argument
    add("--batch", type=int, default=1, help="images in one call")
    if part != "par":
        add("--image", type=pathlib.Path, help="a photograph (default: made up)")
    if part == "crf":
        add("--height", type=int, default=375, help="rows of the image")
        add("--width", type=int, default=500, help="columns of the image")
        add("--classes", type=int, default=21, help="classes, background included")
        add("--iterations", type=int, default=10, help="mean-field updates")
        add("--top_k", type=int, default=8, help="classes of the approximation")
        return
    add("--size", type=int, default=224, help="side of the image")
    if part == "par":
        numbers = [4, 8, 21]
        add("--channels", type=int, nargs="+", default=numbers, help="numbers of maps to try")
        what = "all neighbours in one program (default: by device)"
    else:
        add("--channels", type=int, default=21, help="maps that are filtered")
        what = "the images of a call in one program or one after the other (default: by device)"
    add("--together", action=argparse.BooleanOptionalAction, help=what)


def run(options: argparse.Namespace) -> None:
    """Measures, and prints the hardware and the tables."""
    import jax

    from toco_jax.benchmark import measure
    from toco_jax.runtime.machine import hardware
    from toco_jax.runtime.outputs import check_file

    if getattr(options, "virtual_devices", 0):
        jax.config.update("jax_num_cpu_devices", options.virtual_devices)
    if options.json:
        check_file(options.json, "--json")
    module = _MODULES.get(options.part, options.part)
    tables = importlib.import_module(f"toco_jax.benchmark.{module}").run(options)
    measure.show("hardware", [hardware()])
    for title, rows in tables.items():
        measure.show(title, rows)
    if options.json:
        measure.save(options.json, options.part, tables)
