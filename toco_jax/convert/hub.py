"""Shares trained networks on the Hugging Face hub, and fetches what was shared."""

import os
import pathlib
import re
import tempfile
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from toco_jax import convert
from toco_jax.config import ConfigError, validate, with_values
from toco_jax.convert import card
from toco_jax.run import records, workdir
from toco_jax.runtime import outputs
from toco_jax.runtime.errors import UserError
from toco_jax.weights import download

PREFIX = "hf:"
WEIGHTS_FILE = "model.safetensors"
# What `fetch` reads. A repository may hold anything else.
FILES = (WEIGHTS_FILE, records.CONFIG_FILE, records.CLASSES_FILE)
_REPOSITORY = r"[\w-][\w.-]*/[\w-][\w.-]*"


class HubError(UserError):
    """A repository of the hub cannot be used; the message says why and what to do."""


def push(
    run: pathlib.Path,
    repository: str,
    *,
    private: bool = False,
    licence: str | None = None,
    dry_run: pathlib.Path | None = None,
) -> list[str]:
    """Uploads the network of a run as a repository of the hub, with a card that describes it.

    Paths of this machine are left out.

    Args:
        run: the folder of a run, or one checkpoint in it.
        repository: `owner/name`; it is created if it is missing.
        private: whether a repository that is created is private.
        licence: the licence of the network, such as "apache-2.0", for the card.
        dry_run: a new folder that receives the files, instead of the hub.

    Returns:
        Lines that say what was done.

    Raises:
        HubError: the name has another form, or the hub refuses it.
        CheckpointError: there is no such run.
        OutputError: `dry_run` exists or cannot be written.
    """
    if not re.fullmatch(_REPOSITORY, repository):
        raise HubError(f"{repository!r} is not of the form owner/name, such as me/animals")
    if dry_run is not None:
        if dry_run.exists():
            raise outputs.OutputError(f"{dry_run} exists already: use another --dry_run")
        outputs.make_folder(dry_run.parent, "--dry_run")
        with outputs.whole_folder(dry_run) as folder:
            lines = _write(run, folder, repository, licence)
        return [*lines, f"{dry_run}: what would be uploaded to {repository}"]
    with tempfile.TemporaryDirectory(prefix="toco_jax_push_") as temporary:
        lines = _write(run, pathlib.Path(temporary), repository, licence)
        address = _upload(pathlib.Path(temporary), repository, private)
    return [*lines, f"{address}: uploaded; use it as {PREFIX}{repository}"]


def _write(
    run: pathlib.Path, folder: pathlib.Path, repository: str, licence: str | None
) -> list[str]:
    """Writes the files of a repository; returns what the conversion says."""
    place, _ = workdir.run_folder(run)
    config = workdir.load_config(place)
    lines = convert.convert(str(run), folder / WEIGHTS_FILE)
    workdir.save_config(folder, _without_paths(config))
    names = workdir.class_names(place, config)
    if names is not None:
        workdir.write_class_names(folder, names)
    text = card.text(
        place, config, names or workdir.numbered(config.num_classes), repository, licence
    )
    outputs.write_atomically(folder / card.FILE, text)
    return lines[:-1]  # the last one is on a file that is moved away


def _without_paths(config: ConfigDict) -> ConfigDict:
    """Returns a configuration in which nothing tells where the files of its owner lie."""
    init = config.init
    if not init.startswith(PREFIX):
        init = pathlib.PurePath(init).name
    return with_values(config, init=init, data={"root": ""})


def _upload(folder: pathlib.Path, repository: str, private: bool) -> str:
    # Imported late, because it is slow to import and only this needs it.
    import huggingface_hub

    def upload() -> str:
        api = huggingface_hub.HfApi(library_name="toco_jax")
        address = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="toco push")
        return str(address)

    return _asked(upload, f"cannot upload to {repository}", "log in with `hf auth login`")


def fetch(name: str) -> pathlib.Path:
    """Returns the folder of a run with the network of `hf:owner/name[@revision]`.

    The repository is one that `push` wrote. The hub's files stay in the hub's own cache, the run is
    made once for each of their versions, in the folder of downloaded weights.

    Raises:
        HubError: the name has another form, the hub refuses it, or the repository holds no such
            network.
        CheckpointError: its configuration or list of classes is damaged.
        WeightsError: its weights do not fit its configuration.
    """
    match = re.fullmatch(rf"{PREFIX}({_REPOSITORY})(?:@([\w.-]+))?", name)
    if match is None:
        raise HubError(f"{name!r} is not of the form hf:owner/name or hf:owner/name@revision")
    import huggingface_hub

    repository, revision = match.groups()

    def ask() -> str:
        return huggingface_hub.snapshot_download(
            repository, revision=revision, allow_patterns=list(FILES), library_name="toco_jax"
        )

    source = pathlib.Path(
        _asked(ask, f"cannot download {name}", "log in with `hf auth login` if it is private")
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
            raise HubError(f"{name} is damaged, its {records.CONFIG_FILE} says {error}") from error
        outputs.make_folder(made.parent, "TOCO_CACHE")
        names = workdir.class_names(source, config)
        convert.write_run(name, source / WEIGHTS_FILE, config, names, made)
    return made


def _asked(ask: Callable[[], Any], failed: str, remedy: str) -> Any:
    try:
        return ask()
    # Errors of the hub and those of the HTTP library beneath it have no base class in common.
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        raise HubError(f"{failed} ({reason}): {remedy}, and see that {endpoint} answers") from error
