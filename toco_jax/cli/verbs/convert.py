"""Converts weights from and to PyTorch, and says what a file is.

    toco convert model_iter_20000.pth --out runs/released    a run that every verb takes
    toco convert runs/x --out out.safetensors                the published network's names
    toco convert runs/x --out small.safetensors --compact    8 bits, without what training uses
    toco convert --inspect FILE                              format, backbone, classes, tensors

No torch is needed, and nothing in a `.pth` is run.
"""

import argparse

from toco_jax.cli import process
from toco_jax.cli.parser import Parser
from toco_jax.runtime.errors import UserError

SET_UP = (process.log_errors_only, process.keep_programs)


def add_arguments(parser: Parser) -> None:
    """Adds the words and options of `toco convert`."""
    add = parser.add_argument
    add("source", metavar="SOURCE", help="a .pth or .safetensors of ToCo, or a run")
    parser.add_target("a new run's folder, or a .safetensors file", required=False)
    add("--inspect", action="store_true", help="only print what SOURCE is")
    add("--backbone", metavar="NAME", help="name or sizes (default: as read off SOURCE)")
    add("--compact", action="store_true", help="write weights of 8 bits, a fraction of the size")
    add("--config", help="configuration of the new run (default: voc, or coco for 80 classes)")


def run(options: argparse.Namespace) -> None:
    """Converts or inspects, and prints what was done."""
    from toco_jax import convert
    from toco_jax.runtime.console import say
    from toco_jax.weights import inspection

    if options.inspect == (options.out is not None):
        raise UserError("give SOURCE --out PATH, or --inspect SOURCE")
    if options.inspect and (options.backbone or options.config or options.compact):
        raise UserError("--inspect takes neither --backbone nor --config nor --compact")
    if options.inspect:
        lines = inspection.inspect(options.source)
    else:
        lines = convert.convert(
            options.source,
            options.out,
            backbone=options.backbone,
            config_file=options.config,
            compact=options.compact,
        )
    say("\n".join(lines))
