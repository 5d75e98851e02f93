"""Trains ToCo on images with image-level labels.

    toco train shapes
    toco train voc:vit_base data.root=VOCdevkit/VOC2012 --out runs/voc

The run's folder receives checkpoints, metrics.jsonl, TensorBoard events, results.json, samples.png
and report.html, which shows all of it. Started again on the same folder, a run goes on where it
was, with more total_steps and other intervals if these have changed, and with other values of any
key only with --override. Told to stop (SIGTERM or Ctrl-C), it saves and exits with 75: start it
again. A second Ctrl-C ends it at once.

Several processes are one job with --distributed (under SLURM, on a TPU pod, in a JobSet), or with
--coordinator=HOST:PORT --num_processes=N --process_id=I.
"""

import argparse
import pathlib
import sys
from typing import TYPE_CHECKING

from toco_jax.cli import commands, process
from toco_jax.cli.parser import Parser, whole_number
from toco_jax.runtime.host_memory import keep_memory

if TYPE_CHECKING:  # the library takes a second, which `--help` need not wait for
    from ml_collections import ConfigDict

SET_UP = (process.end_at_once, keep_memory, process.keep_programs)


def add_arguments(parser: Parser) -> None:
    """Adds the words and options of `toco train`."""
    parser.add_config()
    add = parser.add_argument
    folder = "the run's folder (default: runs/<config name>)"
    add("--out", metavar="DIR", type=pathlib.Path, help=folder)
    add("--override", action="store_true", help="go on with other values than the run began with")
    add("--distributed", action="store_true", help="find the other processes of this job")
    add("--coordinator", metavar="HOST:PORT", help="address of process 0 (default: one process)")
    number, place = whole_number(1), whole_number(0)
    add("--num_processes", type=number, help="processes of this job (default: one process)")
    add("--process_id", type=place, help="which of them this is, from 0 (default: one process)")


def run(options: argparse.Namespace) -> None:
    """Trains; exits with 75 where the run was stopped and saved."""
    from toco_jax.runtime import processes
    from toco_jax.runtime.console import say
    from toco_jax.runtime.exit_codes import RESTART
    from toco_jax.training.loop import train

    # Reported within as well: one process of several ends at once with its sentence.
    with processes.ends_all(), commands.reported(debug=options.debug):
        try:
            config = configured(options)
            out = options.out or default_folder(options.config)
            train(config, out, override=options.override)
        except processes.Preempted as stopped:
            say(f"{stopped}; the same command goes on")
            sys.exit(RESTART)


def configured(options: argparse.Namespace) -> "ConfigDict":
    """Meets the other processes of the job, and returns the configuration.

    A process whose configuration is wrong meets the others, too: else they would wait for it.
    """
    import jax

    from toco_jax.run.config_files import load_config
    from toco_jax.runtime import agreement, processes
    from toco_jax.runtime.errors import UserError

    mistake = None
    try:
        config = load_config(options.config, options.keys)
    except UserError as error:
        mistake = error
    prints = processes.join(
        distributed=options.distributed,
        coordinator=options.coordinator,
        num_processes=options.num_processes,
        process_id=options.process_id,
    )
    if not prints:
        process.print_nothing()
    if jax.distributed.is_initialized():
        with agreement.together():
            if mistake:
                raise mistake
    elif mistake:
        raise mistake
    return config


def default_folder(config: str) -> pathlib.Path:
    """Returns `runs/<config name>`, with the variant where there is one."""
    path, _, variant = config.partition(":")
    stem = pathlib.Path(path).stem
    return pathlib.Path("runs") / (f"{stem}-{variant}" if variant else stem)
