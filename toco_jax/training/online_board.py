"""Sends a run's numbers to Weights & Biases, where that is asked for and installed."""

import pathlib
import secrets
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from toco_jax.config import ConfigError
from toco_jax.runtime.console import say
from toco_jax.runtime.errors import clipped
from toco_jax.runtime.outputs import write_atomically
from toco_jax.runtime.processes import is_first

# Which of the project's runs belongs to a folder, so that one that goes on stays one.
ID_FILE = "wandb_id"


def check(config: ConfigDict) -> None:
    """Raises `ConfigError` if the numbers are to be sent and the package is missing."""
    if config.wandb and is_first():
        _package(config.wandb)


def open_board(config: ConfigDict, workdir: pathlib.Path) -> "OnlineBoard | None":
    """Returns what sends the numbers of a run, None in all but the first process or if not asked.

    Raises:
        ConfigError: the package is missing, or refuses to begin.
    """
    return OnlineBoard(config, workdir) if config.wandb and is_first() else None


class OnlineBoard:
    """A run of the project `config.wandb`.

    Points of steps that a run takes again, after it was killed, are sent again, with equal values.
    """

    def __init__(self, config: ConfigDict, workdir: pathlib.Path):
        package, path = _package(config.wandb), workdir / ID_FILE
        if not path.exists():
            write_atomically(path, secrets.token_hex(6) + "\n")
        try:
            self._run = package.init(
                project=config.wandb,
                id=path.read_text(encoding="utf-8").strip(),
                resume="allow",
                name=workdir.absolute().name,
                dir=str(workdir),
                config=config.to_dict(),
                settings=package.Settings(console="off"),
            )
            # Their own count of steps refuses to go back.
            self._run.define_metric("step")
            self._run.define_metric("*", step_metric="step")
        except Exception as error:  # of many kinds: no key, no network, a project of others
            raise ConfigError(
                f"wandb={config.wandb!r}: Weights & Biases refuses it ({clipped(error, 300)}): "
                "call `wandb login`, set WANDB_MODE=offline, or use wandb=''"
            ) from error

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Sends the values of a step; if that fails, a line says so and nothing more is sent."""
        if self._run is None:
            return
        try:
            self._run.log({"step": step, **values})
        except Exception as error:
            say(
                f"warning: Weights & Biases takes no more numbers ({clipped(error, 300)}); "
                "training goes on",
                error=True,
            )
            self._run = None

    def close(self) -> None:
        """Waits until all is sent."""
        if self._run is not None:
            self._run.finish()


def _package(project: str) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise ConfigError(
            f"wandb={project!r} sends the run's numbers to Weights & Biases, and its package is "
            "not installed: `pip install wandb`, or leave the key out"
        ) from error
    return wandb
