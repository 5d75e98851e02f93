"""Shares trained networks on the Hugging Face hub; `run.hub` fetches what was shared."""

import pathlib
import re
import tempfile

from ml_collections import ConfigDict

from toco_jax import convert
from toco_jax.config import with_values
from toco_jax.convert import card
from toco_jax.run import workdir
from toco_jax.run.hub import PREFIX, REPOSITORY, HubError, asked
from toco_jax.run.records import WEIGHTS_FILE
from toco_jax.runtime import outputs


def push(
    run: pathlib.Path,
    repository: str,
    *,
    private: bool = False,
    licence: str | None = None,
    compact: bool = False,
    dry_run: pathlib.Path | None = None,
) -> list[str]:
    """Uploads the network of a run as a repository of the hub, with a card that describes it.

    Paths of this machine are left out.

    Args:
        run: the folder of a run, or one checkpoint in it.
        repository: `owner/name`; it is created if it is missing.
        private: whether a repository that is created is private.
        licence: the licence of the network, such as "apache-2.0", for the card.
        compact: whether the weights are those of `weights.compact`.
        dry_run: a new folder that receives the files, instead of the hub.

    Returns:
        Lines that say what was done.

    Raises:
        HubError: the name has another form, or the hub refuses it.
        CheckpointError: there is no such run.
        OutputError: `dry_run` exists or cannot be written.
    """
    if not re.fullmatch(REPOSITORY, repository):
        raise HubError(f"{repository!r} is not of the form owner/name, such as me/animals")
    if dry_run is not None:
        if dry_run.exists():
            raise outputs.OutputError(f"{dry_run} exists already: use another --dry_run")
        outputs.make_folder(dry_run.parent, "--dry_run")
        with outputs.whole_folder(dry_run) as folder:
            lines = _write(run, folder, repository, licence, compact=compact)
        return [*lines, f"{dry_run}: what would be uploaded to {repository}"]
    with tempfile.TemporaryDirectory(prefix="toco_jax_push_") as temporary:
        lines = _write(run, pathlib.Path(temporary), repository, licence, compact=compact)
        address = _upload(pathlib.Path(temporary), repository, private)
    return [*lines, f"{address}: uploaded; use it as {PREFIX}{repository}"]


def _write(
    run: pathlib.Path,
    folder: pathlib.Path,
    repository: str,
    licence: str | None,
    *,
    compact: bool,
) -> list[str]:
    """Writes the files of a repository; returns what the conversion says."""
    place, _ = workdir.run_folder(run)
    config = workdir.load_config(place)
    lines = convert.convert(str(run), folder / WEIGHTS_FILE, compact=compact)
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

    return asked(upload, f"cannot upload to {repository}", "log in with `hf auth login`")
