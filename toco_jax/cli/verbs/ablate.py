"""Trains variants of a configuration with several seeds, and compares their scores.

    toco ablate shapes
    toco ablate voc --grid=taus.json --out=runs/taus --seeds 0 1 2

One run after the other trains in <out>/<variant>/seed_<k>, as `toco train` does. Then ablation.json
and ablation.md in <out> hold mean, lowest and highest score of each variant. Started again, the
command keeps the runs that are finished and goes on with the others. Told to stop (SIGTERM or
Ctrl-C), it saves and exits with 75.

The grid `poster` adds the parts of the method one after the other. `methods` trains every method,
ToCo with propagated CAMs, and on true masks, which is the ceiling. `aux_layer`, `temperature`,
`crops` (number and size) and `ema_momentum` vary that, with the configuration's own value among
them. Another one is a JSON file:

    [{"name": "as it is"}, {"name": "tau 0.1", "set": ["temperature=0.1"]}]
"""

import argparse
import pathlib
import sys

from toco_jax.cli import process
from toco_jax.cli.parser import Parser, whole_number
from toco_jax.runtime.host_memory import keep_memory

SET_UP = (process.end_at_once, keep_memory, process.keep_programs)


def add_arguments(parser: Parser) -> None:
    """Adds the words and options of `toco ablate`."""
    parser.add_config()
    add = parser.add_argument
    grids = "variants: poster, methods, aux_layer, temperature, crops, ema_momentum, or a JSON file"
    add("--grid", metavar="GRID", default="poster", help=grids)
    seeds = "seeds of the runs of each variant"
    add("--seeds", metavar="N", type=whole_number(0), nargs="+", default=[0, 1, 2], help=seeds)
    some = "also the mean IoU of these labels, such as: background cat dog"
    add("--labels", metavar="NAME", nargs="+", default=[], help=some)
    folder = "the folder of all runs (default: runs/<config name>-ablation)"
    add("--out", metavar="DIR", type=pathlib.Path, help=folder)


def run(options: argparse.Namespace) -> None:
    """Trains and compares; exits with 75 where a run was stopped and saved."""
    from toco_jax.cli.verbs.train import default_folder
    from toco_jax.runtime.console import say
    from toco_jax.runtime.exit_codes import RESTART
    from toco_jax.runtime.processes import Preempted
    from toco_jax.training import ablation

    folder = default_folder(options.config)
    out = options.out or folder.with_name(f"{folder.name}-ablation")
    try:
        ablation.ablate(
            options.config,
            options.keys,
            out,
            grid=options.grid,
            seeds=options.seeds,
            labels=options.labels,
        )
    except Preempted as stopped:
        say(f"{stopped}; the same command goes on")
        sys.exit(RESTART)
