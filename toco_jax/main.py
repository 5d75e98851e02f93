"""Trains ToCo.

    python -m toco_jax.main --config=configs/voc.py[:variant] [--workdir=DIR] [--config.key=value]

The run's folder (`runs/<config name>` if unset) receives checkpoints, metrics.jsonl, TensorBoard
events, results.json and samples.png. Started again on the same folder, a run goes on where it was.
Told to stop (SIGTERM), it saves and exits with 75: start it again.

Several processes are one job with --distributed (under SLURM, on a TPU pod, in a JobSet), or with
--coordinator=HOST:PORT --num_processes=N --process_id=I.
"""

import pathlib
import sys

from absl import flags, logging
from ml_collections import config_flags

from toco_jax.cli import command_line, commands
from toco_jax.runtime import processes
from toco_jax.runtime.console import say
from toco_jax.runtime.host_memory import keep_memory
from toco_jax.training.loop import train

command_line.define_config()
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; runs/<config name> if unset.")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Find the other processes of this job.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes of this job.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")
flags.mark_flag_as_required("config")


def default_workdir(config_path: str) -> pathlib.Path:
    """`runs/<config name>`, with the variant where there is one."""
    path, _, variant = config_path.partition(":")
    stem = pathlib.Path(path).stem
    return pathlib.Path("runs") / (f"{stem}-{variant}" if variant else stem)


def main(_argv: list[str]) -> None:
    """Runs the flags' configuration; a user's mistake is one sentence and exit code 1."""
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    config = flags.FLAGS.config
    config_path = config_flags.get_config_filename(flags.FLAGS["config"])
    workdir = pathlib.Path(_WORKDIR.value) if _WORKDIR.value else default_workdir(config_path)
    # Reported within as well: a process of several ends at once with its sentence.
    with processes.ends_all(), commands.reported(debug=flags.FLAGS.debug):
        try:
            processes.join(
                distributed=_DISTRIBUTED.value,
                coordinator=_COORDINATOR.value,
                num_processes=_NUM_PROCESSES.value,
                process_id=_PROCESS_ID.value,
            )
            train(config, workdir)
        except processes.Preempted as stopped:
            say(f"{stopped}; the same command goes on")
            sys.exit(processes.RESTART)


if __name__ == "__main__":
    keep_memory()
    commands.keep_programs()
    command_line.run(main)
