"""A trained network as evaluation and prediction need it."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from toco_jax.config import resolve, with_values
from toco_jax.data.renumbered import Renumbered, columns_of
from toco_jax.models.network import ToCo
from toco_jax.run import checkpoints, workdir
from toco_jax.run.network import make_model
from toco_jax.runtime.console import say
from toco_jax.runtime.errors import DataError


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained network with its configuration.

    Attributes:
        folder: the run's folder.
        config: its configuration.
        model: the network.
        params: its parameters.
        step: training step they belong to.
        class_names: the foreground classes; "class 1", ... where their names are not known.
        names_known: whether they are.
    """

    folder: pathlib.Path
    config: ConfigDict
    model: ToCo
    params: dict
    step: int
    class_names: tuple[str, ...]
    names_known: bool

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of all parameters and of the configuration."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(json.dumps(self.config.to_dict(), sort_keys=True).encode())
        for path, array in jax.tree_util.tree_leaves_with_path(self.params):
            digest.update(jax.tree_util.keystr(path).encode())
            digest.update(np.ascontiguousarray(array))
        return digest.hexdigest()

    def numbered(self, source: Any) -> Any:
        """A record source with this network's classes, by their names.

        Prints a line where the source has fewer, or in another order, or where the network's names
        are not known and the source's are taken for them.

        Raises:
            DataError: the source has classes that the network does not know.
        """
        names = tuple(source.class_names)
        where = f"the data's split {source.split!r}"
        columns = self.columns(names, where=where)
        if not self.names_known or names == self.class_names:
            return source
        say(f"{where} has {', '.join(names)}: numbered as in {self.folder}")
        return Renumbered(source, self.class_names, columns)

    def columns(self, names: tuple[str, ...], *, where: str) -> np.ndarray:
        """The place among this network's classes of each class of a data set, by name.

        Prints a line where the network's names are not known, and the data's are taken for them.

        Args:
            names: classes of the data set.
            where: what the data set is called in messages.

        Raises:
            DataError: classes that the network does not know.
        """
        if self.names_known:
            return columns_of(names, self.class_names, run=self.folder, where=where)
        if len(names) != len(self.class_names):
            raise DataError(
                f"{self.folder} knows {len(self.class_names)} classes, but {where} has "
                f"{len(names)}: give the data set it was trained on"
            )
        say(f"the classes are taken to be those of {where}: {', '.join(names)}")
        return np.arange(len(names))


def load(checkpoint: str | os.PathLike) -> Run:
    """A network from a run's folder or `<run>/checkpoints/<step>`.

    The network computes in the precision it was trained in, executed as suits the devices at hand.
    What is not known of the run is said on stderr.

    Raises:
        CheckpointError: there is no run or no checkpoint, or its `classes.json` is broken.
    """
    config, state = checkpoints.load_run(checkpoint)
    folder, _ = checkpoints.run_folder(checkpoint)
    names = workdir.class_names(folder, config)
    if names is None:
        say(workdir.missing_names(folder, config.num_classes), error=True)
    config = _executed_here(config, folder, trained=state["step"] > 0)
    grid = round((state["params"]["encoder"]["pos_embed"].shape[1] - 1) ** 0.5)
    return Run(
        folder,
        config,
        make_model(config, grid=grid),
        state["params"],
        state["step"],
        names or workdir.numbered(config.num_classes),
        names is not None,
    )


def _executed_here(config: ConfigDict, folder: pathlib.Path, *, trained: bool) -> ConfigDict:
    """A run's configuration for evaluation on the devices at hand."""
    machine = {"low_memory": "auto"}
    if config.machine.attention == "cudnn" and jax.default_backend() != "gpu":
        machine["attention"] = "xla"
        say(
            f"{folder} was trained with cuDNN's attention, which needs a GPU: XLA's stands in "
            "here, the same function in another rounding",
            error=True,
        )
    here = resolve(with_values(config, machine=machine))
    if config.compute_dtype == "auto" and trained:
        say(
            f"{folder / checkpoints.CONFIG_FILE} is an older one and does not record in which "
            f"precision the run was trained: computing in {here.compute_dtype}",
            error=True,
        )
    return here
