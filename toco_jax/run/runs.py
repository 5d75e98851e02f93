"""Loads a trained network and its configuration from a run's folder, for every command."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from toco_jax.config import resolve, with_values
from toco_jax.data.renumbered import Renumbered, columns_of
from toco_jax.models.network import ToCo
from toco_jax.models.vit import stored_grid
from toco_jax.run import hub, saved, workdir
from toco_jax.run.network import make_model
from toco_jax.run.state import evaluated_params
from toco_jax.runtime.console import say
from toco_jax.runtime.errors import DataError, some_of
from toco_jax.runtime.progress import say_aside


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained network with its configuration.

    Attributes:
        folder: the run's folder.
        recorded: its configuration as `config.json` has it.
        config: the same, with `machine` and `compute_dtype` set for the devices at hand.
        model: the network.
        params: the network's parameters; with `config.ema_decay` the averaged ones.
        teacher_params: the parameters of the teacher's projection head.
        step: the number of training steps taken.
        class_names: the foreground classes; "class 1", ... if their names are not known.
        names_known: whether the names are known.
    """

    folder: pathlib.Path
    recorded: ConfigDict
    config: ConfigDict
    model: ToCo
    params: dict
    teacher_params: dict
    step: int
    class_names: tuple[str, ...]
    names_known: bool

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of all parameters and of the configuration."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(json.dumps(self.config.to_dict(), sort_keys=True).encode())
        for path, array in jax.tree_util.tree_leaves_with_path(self.params):
            digest.update(jax.tree_util.keystr(path).encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def numbered(self, source: Any, *, report: Callable[[str], None] = say) -> Any:
        """Renumbers the classes of a record source as this network's, by their names.

        Args:
            source: the record source.
            report: receives a line if the source has fewer classes or another order, or if the
                network's names are not known and the source's are taken for them.

        Raises:
            DataError: the source has classes that the network does not know.
        """
        names = tuple(source.class_names)
        where = f"the data's split {source.split!r}"
        columns = self.columns(names, where=where, report=report)
        if not self.names_known or names == self.class_names:
            return source
        report(f"{where} has {some_of(names, 100)}: numbered as in {self.folder}")
        return Renumbered(source, self.class_names, columns)

    def columns(
        self, names: tuple[str, ...], *, where: str, report: Callable[[str], None] = say
    ) -> np.ndarray:
        """Returns the index among this network's classes of each class of a data set, by name.

        Args:
            names: the classes of the data set.
            where: what the data set is called in messages.
            report: receives a line if the network's names are not known and the data's are taken
                for them.

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
        report(f"the classes are taken to be those of {where}: {some_of(names, 100)}")
        return np.arange(len(names))


def load(
    checkpoint: str | os.PathLike,
    *,
    portable: bool = False,
    propagate_cams: bool = False,
    report: Callable[[str], None] = say_aside,
) -> Run:
    """Loads a network from a run's folder, from `<run>/checkpoints/<step>`, or from the hub.

    The network computes in the precision that it was trained in.

    Args:
        checkpoint: the folder of a run, for its newest checkpoint, one checkpoint in it, or
            `hf:owner/name[@revision]`.
        propagate_cams: spreads CAMs by the encoder's attention also if the run does not.
        portable: makes the network the same program on every machine, instead of one for the
            devices at hand.
        report: receives a line about each thing that the run does not record.

    Raises:
        CheckpointError: there is no run or no checkpoint, or its `classes.json` is broken.
        HubError: the hub has no such network, or refuses it.
        WeightsError: the network of the hub does not fit its configuration.
    """
    if hub.is_name(checkpoint):
        checkpoint = hub.fetch(str(checkpoint))
    recorded, state = saved.load_run(checkpoint)
    folder, _ = workdir.run_folder(checkpoint)
    names = workdir.class_names(folder, recorded)
    if names is None:
        report(workdir.missing_names(folder, recorded.num_classes))
    if propagate_cams:
        recorded = with_values(recorded, propagate_cams=True)
    if portable:
        config, platform = _executed_anywhere(recorded), "cpu"
    else:
        trained, platform = state["step"] > 0, None
        config = _executed_here(recorded, folder, trained=trained, report=report)
    return Run(
        folder=folder,
        recorded=recorded,
        config=config,
        model=make_model(config, grid=stored_grid(state["params"]["encoder"]), platform=platform),
        params=evaluated_params(state["params"], state["extra"]),
        teacher_params=state["extra"].get("proj_head", state["params"]["proj_head"]),
        step=state["step"],
        class_names=names or workdir.numbered(config.num_classes),
        names_known=names is not None,
    )


def _executed_anywhere(config: ConfigDict) -> ConfigDict:
    """Returns a run's configuration, changed so that any machine can execute it."""
    dtype = "float32" if config.compute_dtype == "auto" else config.compute_dtype
    machine = {"attention": "xla", "low_memory": "off"}
    return with_values(config, machine=machine, compute_dtype=dtype)


def _executed_here(
    config: ConfigDict, folder: pathlib.Path, *, trained: bool, report: Callable[[str], None]
) -> ConfigDict:
    """Returns a run's configuration, changed for the devices at hand."""
    machine = {"low_memory": "auto"}
    if config.machine.attention == "cudnn" and jax.default_backend() != "gpu":
        machine["attention"] = "xla"
        report(
            f"{folder} was trained with cuDNN's attention, which needs a GPU: XLA's stands in "
            "here, the same function in another rounding"
        )
    here = resolve(with_values(config, machine=machine))
    if config.compute_dtype == "auto" and trained:
        report(
            f"{folder / workdir.CONFIG_FILE} is an older one and does not record in which "
            f"precision the run was trained: computing in {here.compute_dtype}"
        )
    return here
