"""A trained network as evaluation and prediction need it."""

import dataclasses
import os
import pathlib
import zlib

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from toco_jax import checkpoints, commands, export, step
from toco_jax.inference import SEG_SCALES, NativeNetwork
from toco_jax.models.toco import ToCo


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained network with its configuration.

    Attributes:
        folder: the run's folder.
        config: its configuration.
        model: the network.
        params: its parameters.
        step: training step they belong to.
        class_names: the foreground classes.
    """

    folder: pathlib.Path
    config: ConfigDict
    model: ToCo
    params: dict
    step: int
    class_names: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """Tells this network from another one in the same folder."""
        return f"{zlib.crc32(np.asarray(self.params['classifier']['kernel']).tobytes()):08x}"

    def network(
        self,
        *,
        batch_size: int,
        seg_scales: tuple[float, ...] = SEG_SCALES,
        cam_scales: tuple[float, ...] | None = None,
    ) -> NativeNetwork:
        """The network on images of any size, on all devices of this process; the CAM's scales are
        the training's unless given.
        """
        return NativeNetwork(
            self.model,
            self.params,
            crop_size=self.config.crop_size,
            cam_scales=tuple(self.config.cam_scales) if cam_scales is None else cam_scales,
            seg_scales=seg_scales,
            batch_size=batch_size,
        )


def load(checkpoint: str | os.PathLike) -> Run:
    """A network from a run's folder or `<run>/checkpoints/<step>`.

    Raises:
        CheckpointError: there is no run or no checkpoint.
    """
    path = pathlib.Path(checkpoint)
    config, state = checkpoints.load_run(path)
    folder = path if (path / checkpoints.CONFIG_FILE).is_file() else path.parents[1]
    grid = round((state["params"]["encoder"]["pos_embed"].shape[1] - 1) ** 0.5)
    return Run(
        folder,
        config,
        step.make_model(config, grid=grid),
        state["params"],
        state["step"],
        export.class_names(config, folder),
    )


def default_batch_size() -> int:
    """One image a CPU device, eight a GPU or TPU."""
    return jax.local_device_count() * (1 if jax.default_backend() == "cpu" else 8)


def set_up_command() -> None:
    """Keeps compiled programs between commands and the command's streams to its end, and silences
    orbax, which warns of opening a checkpoint read-only.
    """
    logging.set_verbosity(logging.ERROR)
    commands.keep_streams()
    commands.keep_programs()
