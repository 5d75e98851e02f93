"""Converts weights from and to PyTorch, and says what a file is; see `toco convert --help`."""

import json
import pathlib

import numpy as np
from ml_collections import ConfigDict
from safetensors.numpy import save

from toco_jax.data.classes import COCO_CLASSES, VOC_CLASSES
from toco_jax.run.config_files import load_config
from toco_jax.runtime import outputs
from toco_jax.runtime.console import silent
from toco_jax.runtime.errors import UserError, WeightsError, shown, some_of
from toco_jax.weights import backbone_files, class_rows, files, load, origin, published
from toco_jax.weights.compact import packed

# Keeps the tensors of a converted checkpoint that the network does not use, so that converting the
# run back restores them.
DROPPED_FILE = "dropped.safetensors"
_NO_TARGETS = (".pth", ".pt", ".pt2", ".bin", ".npz", ".npy", ".ckpt", ".pkl", ".h5", ".onnx")
_NO_TARGETS += (".msgpack", ".gguf", ".zip", ".tar", ".gz", ".json", ".stablehlo")
# Files of the published code do not name their classes, but it was only trained on these.
_PUBLISHED_CLASSES = {20: ("PASCAL VOC", VOC_CLASSES), 80: ("COCO", COCO_CLASSES)}


def convert(
    source: str,
    target: pathlib.Path,
    *,
    backbone: str | None = None,
    config_file: str | None = None,
    compact: bool = False,
) -> list[str]:
    """Writes the network in `source` as a run or as a `.safetensors` file.

    Args:
        source: a checkpoint of the published network (`.pth`, `.safetensors`), or a run.
        target: a path that ends in `.safetensors`, or the folder of a new run.
        backbone: name or sizes of the backbone, if they cannot be read off the file.
        config_file: configuration of the new run, a file or a name, if `source` is a file.
        compact: whether a `.safetensors` file is a compact one, see `weights.compact`.

    Returns:
        Lines that say what was done.

    Raises:
        UserError: an option that this source or target does not use.
        WeightsError: there is no such source, it is not a whole network, or it does not fit.
        CheckpointError: there is no such run.
        OutputError: the target exists, has another ending, or cannot be written.
    """
    ending = target.suffix.lower()
    if ending in _NO_TARGETS:
        raise outputs.OutputError(
            f"{target}: --out is a .safetensors file or the folder of a new run"
        )
    if target.exists():
        raise outputs.OutputError(f"{target} exists already: use another --out or remove it")
    if compact and ending != ".safetensors":
        raise UserError(f"--compact is for a .safetensors file, and {target} is a run: omit it")
    if ending == ".safetensors" and config_file:
        raise UserError(f"--config={config_file} is for a new run, and {target} is a file: omit it")
    outputs.make_folder(target.parent, "--out")
    path = load.resolve(source)
    if path.is_dir():
        for option, value in (("backbone", backbone), ("config", config_file)):
            if value:
                raise UserError(f"--{option}={value} is for files; {path} has its own: omit it")
        network, config = _network_of_run(path)
    else:
        network, config = _network_of_file(source, path, backbone), None
    if ending == ".safetensors":
        return [*network["notes"], *_write_safetensors(network, target, compact=compact)]
    if config is None:
        config = _config(network, source, config_file)
    return [*network["notes"], *_write_run(network, config, target)]


def _network_of_run(path: pathlib.Path) -> tuple[dict, ConfigDict]:
    # Imported late, here and below, because orbax is slow to import and only runs need it.
    from toco_jax.run import runs

    run = runs.load(path, portable=True, report=silent)
    config, kept = run.recorded, run.folder / DROPPED_FILE
    return {
        "class_names": run.class_names if run.names_known else None,
        "params": run.params,
        "teacher_params": run.teacher_params,
        "backbone": config.backbone,
        "dropped": files.read(kept).tensors if kept.exists() else {},
        "notes": [
            f"{path}: step {run.step}, {config.backbone}, {config.num_classes} classes",
            *published.left_out(run.params),
        ],
        "origin": origin.of_run(path, run),
    }, config


def _network_of_file(source: str, path: pathlib.Path, backbone: str | None) -> dict:
    file = files.read(path)
    tensors = backbone_files.without_module(file.tensors)
    layout = backbone_files.layout_of(tensors)
    if layout != "toco":
        raise WeightsError(
            f"{path} is a {backbone_files.LAYOUT_NAMES[layout]}, not a whole network: give it to "
            f"training, init={source}"
        )
    sizes = _sizes_of_network(tensors)
    backbone = backbone or file.metadata.get("backbone") or _backbone(tensors, path)
    try:
        params, teacher = published.params_from_reference(
            tensors, backbone=backbone, num_classes=sizes[0], decoder_width=sizes[1]
        )
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    names = backbone_files.dropped(tensors, layout)
    first = f"{path}: {file.format}, {backbone}, {sizes[0]} classes, {len(tensors)} tensors"
    class_names, note = _class_names_of_file(file.metadata, sizes[0])
    return {
        "class_names": class_names,
        "params": params,
        "teacher_params": teacher,
        "backbone": backbone,
        "dropped": {name: np.float32(tensors[name]) for name in names},
        "notes": [
            *(first, *file.notes, *backbone_files.dropped_note(tensors, layout)),
            *(*published.begun_anew(tensors), *note),
        ],
        "origin": origin.of_file(source, path, file, layout, digest=files.sha256(path)),
    }


def _class_names_of_file(
    metadata: dict[str, str], num: int
) -> tuple[tuple[str, ...] | None, list[str]]:
    """Returns the names of a file's classes and, if they are assumed, a line that says so.

    The names are None if neither the file nor its number of classes tells them.

    Raises:
        WeightsError: the file names another number of classes than it has.
    """
    if "classes" in metadata:
        names = class_rows.names_in(metadata)
        if names is None:
            raise WeightsError(
                f"the metadata's classes are {shown(metadata['classes'])}, not a JSON list of "
                "names: the file is damaged"
            )
        if len(names) != num:
            raise WeightsError(
                f"the metadata names {len(names)} classes ({some_of(names)}), but the tensors "
                f"are of {num}: the file is damaged"
            )
        return names, []
    # Files written here state their backbone; if they name no classes, nobody knew the names.
    if "backbone" in metadata or num not in _PUBLISHED_CLASSES:
        return None, []
    title, names = _PUBLISHED_CLASSES[num]
    return names, [
        f"the file names no classes: its {num} classes are taken to be those of {title}, as in the "
        "published network; where they are others, correct classes.json of the run"
    ]


def _sizes_of_network(tensors: load.Tensors) -> tuple[int, int]:
    """Returns the number of classes and the decoder's width of a network in the published layout.

    Raises:
        WeightsError: the classifier or the decoder is missing.
    """
    names = ("classifier.weight", "decoder.conv6.weight")
    for name in names:
        if name not in tensors or tensors[name].ndim != 4:
            raise WeightsError(f"{name} is missing or has no four axes: this is no whole network")
    return tensors[names[0]].shape[0], tensors[names[1]].shape[0]


def _backbone(tensors: load.Tensors, path: pathlib.Path) -> str:
    """Returns the first name of a backbone of the tensors' sizes; raises `WeightsError`."""
    sizes = backbone_files.sizes_of(tensors, backbone_files.layout_of(tensors))
    names = backbone_files.backbones_of(sizes)
    if not names:
        raise WeightsError(
            f"{path} has an encoder of none of the known sizes, and the number of heads does not "
            f"show in the file: give --backbone={backbone_files.spelt(sizes)}"
        )
    return names[0]


def _config(network: dict, source: str, config_file: str | None) -> ConfigDict:
    """Returns the configuration of a new run that holds the network."""
    num_classes = network["params"]["classifier"]["kernel"].shape[-1]
    config = load_config(config_file or ("coco" if num_classes == 80 else "voc"))
    with config.unlocked():
        config.backbone = network["backbone"]
        config.init = str(source)
        config.num_classes = num_classes
        config.decoder_width = network["params"]["decoder"]["conv6"]["kernel"].shape[-1]
        if network["class_names"] is None and not config_file:
            config.data.source = "folder"  # "voc" and "coco" would imply names for the classes
    return config


def _write_run(network: dict, config: ConfigDict, target: pathlib.Path) -> list[str]:
    from toco_jax.run import saved, workdir
    from toco_jax.training import step

    state = step.init_state(config, network["params"], network["teacher_params"])
    notes = []
    with outputs.whole_folder(target) as folder:
        saved.save_run(folder, config, state)
        workdir.note_start(folder, network["origin"], goes_on=False)
        names = network["class_names"] or workdir.class_names(folder, config)
        if names is None:
            notes = [workdir.missing_names(target, config.num_classes)]
        else:
            workdir.write_class_names(folder, names)
        if network["dropped"]:
            _save(network["dropped"], folder / DROPPED_FILE, {"format": "pt"})
    kept = f" ({DROPPED_FILE} keeps what was dropped)" if network["dropped"] else ""
    notes += [f"{target}: a run at step 0, for evaluate, predict and init={target}{kept}"]
    return notes


def _write_safetensors(network: dict, target: pathlib.Path, *, compact: bool) -> list[str]:
    tensors = published.params_to_reference(
        network["params"], network["teacher_params"], backbone=network["backbone"]
    )
    tensors = packed(tensors) if compact else tensors | network["dropped"]
    outputs.make_folder(target.parent, "--out")
    metadata = {"format": "pt", "backbone": network["backbone"]}
    notes = []
    if network["class_names"] is None:
        notes = [f"{target} does not name its classes, as its source does not"]
    else:
        metadata["classes"] = json.dumps(network["class_names"])
    _save(tensors, target, metadata)
    how = f"for network.load_state_dict(load_file({target.name!r}))"
    if compact:
        how = f"{target.stat().st_size / 1e6:.1f} MB, for init={target}"
    return [*notes, f"{target}: {len(tensors)} tensors, {how}"]


def _save(tensors: dict[str, np.ndarray], target: pathlib.Path, metadata: dict[str, str]) -> None:
    # Not with `save_file`, whose files only their owner may read.
    outputs.write_atomically(target, save(tensors, metadata))
