"""The command line."""

import argparse
import importlib
import pathlib
import sys
from collections.abc import Sequence

import jax

from toco_jax import benchmark
from toco_jax.benchmark import measure
from toco_jax.cli import commands
from toco_jax.runtime.host_memory import keep_memory
from toco_jax.runtime.outputs import check_file

# Sub-commands and the modules of this package that do them.
COMMANDS = {
    "step": "step",
    "lattice": "lattice",
    "crf": "crf",
    "par": "par",
    "attention": "attention",
    "compile": "compilation",
    "scaling": "scaling",
    "plan": "plan",
    "pipeline": "pipeline",
}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """A sub-command's options with its `command` and, as `run`, what does it."""
    program = "python -m toco_jax.benchmark"
    top = commands.make_parser(program, benchmark.__doc__)
    top.add_argument("command", choices=COMMANDS)
    command = top.parse_args(arguments[:1]).command
    module = importlib.import_module(f"toco_jax.benchmark.{COMMANDS[command]}")
    options = commands.make_parser(f"{program} {command}", module.__doc__)
    options.set_defaults(command=command, run=module.run)
    options.add_argument(
        "--repeats", type=int, default=5, help="rounds after the warm-up (default: %(default)s)"
    )
    options.add_argument("--json", type=pathlib.Path, help="write the tables to this file")
    module.add_arguments(options)
    return commands.parse(options, arguments[1:])


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one sub-command; a user's mistake is one sentence and exit code 1."""
    args = parse(sys.argv[1:] if arguments is None else arguments)
    if getattr(args, "virtual_devices", 0):
        jax.config.update("jax_num_cpu_devices", args.virtual_devices)
    with commands.reported(debug=args.debug):
        if args.json:
            check_file(args.json, "--json")
        tables = args.run(args)
    measure.show("hardware", [measure.hardware()])
    for title, rows in tables.items():
        measure.show(title, rows)
    if args.json:
        measure.save(args.json, args.command, tables)


if __name__ == "__main__":
    # As training does.
    keep_memory()
    commands.keep_streams()
    main()
