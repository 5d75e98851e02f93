"""Networks that were shared on the Hugging Face hub, as folders that are read like runs."""

import os
import pathlib
import re
import shutil
from collections.abc import Callable
from typing import Any

import filelock

from toco_jax.config import ConfigError, validate
from toco_jax.run import saved, workdir
from toco_jax.run.records import CLASSES_FILE, CONFIG_FILE, WEIGHTS_FILE
from toco_jax.runtime import outputs
from toco_jax.runtime.errors import UserError, WeightsError
from toco_jax.weights import download

PREFIX = "hf:"
REPOSITORY = r"[\w-][\w.-]*/[\w-][\w.-]*"
# What is read of a repository, which may hold anything else.
FILES = (WEIGHTS_FILE, CONFIG_FILE, CLASSES_FILE)


class HubError(UserError):
    """A repository of the hub cannot be used; the message says why and what to do."""


def is_name(checkpoint: str | os.PathLike) -> bool:
    """Whether what is given in the place of a run is a name of the hub, `hf:...`."""
    return str(checkpoint).startswith(PREFIX)


def fetch(name: str) -> pathlib.Path:
    """Returns the folder of the network of `hf:owner/name[@revision]`, for `saved.load_run`.

    The repository is one that `toco push` wrote. The hub's files stay in the hub's own cache; each
    of their versions is copied once to the folder of downloaded weights, where results have room.

    Raises:
        HubError: the name has another form, the hub refuses it, or the repository holds no such
            network.
        CheckpointError: its configuration or list of classes is damaged.
    """
    match = re.fullmatch(rf"{PREFIX}({REPOSITORY})(?:@([\w.-]+))?", name)
    if match is None:
        raise HubError(f"{name!r} is not of the form hf:owner/name or hf:owner/name@revision")
    # Imported late, because it is slow to import and only this needs it.
    import huggingface_hub

    repository, revision = match.groups()

    def ask() -> str:
        return huggingface_hub.snapshot_download(
            repository, revision=revision, allow_patterns=list(FILES), library_name="toco_jax"
        )

    source = pathlib.Path(
        asked(ask, f"cannot download {name}", "log in with `hf auth login` if it is private")
    )
    missing = [file for file in FILES[:2] if not (source / file).is_file()]
    if missing:
        raise HubError(
            f"{name} has no {' and no '.join(missing)}, as `toco push` writes them: it holds no "
            f"trained network; to start a training from its weights, use init={name}"
        )
    made = download.cache_folder() / "runs" / f"{repository.replace('/', '--')}--{source.name}"
    if not made.exists():
        config = workdir.load_config(source)
        try:
            validate(config, num_devices=1)
        except ConfigError as error:
            raise HubError(f"{name} is damaged, its {CONFIG_FILE} says {error}") from error
        workdir.class_names(source, config)
        try:
            saved.load_run(source)
        except WeightsError as error:
            raise HubError(f"{name} is damaged: {error}") from error
        outputs.make_folder(made.parent, "TOCO_CACHE")
        with filelock.FileLock(made.with_name(f".{made.name}.lock")):
            if not made.exists():
                _copy(source, made)
    return made


def _copy(source: pathlib.Path, made: pathlib.Path) -> None:
    with outputs.whole_folder(made) as folder:
        for file in FILES:
            if (source / file).is_file():
                shutil.copyfile(source / file, folder / file)


def asked(ask: Callable[[], Any], failed: str, remedy: str) -> Any:
    """Returns what a question to the hub returns.

    Raises:
        HubError: it failed; the message is made of `failed`, the reason and `remedy`.
    """
    try:
        return ask()
    # Errors of the hub and those of the HTTP library beneath it have no base class in common.
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        raise HubError(f"{failed} ({reason}): {remedy}, and see that {endpoint} answers") from error
