"""Draws the CAM of every block of the encoder, and scores them: the poster's figure of layers.

The classifier is that of the run. It is applied to the tokens of each block after the encoder's
final LayerNorm, so that the last block's map is the CAM, as it is without `propagate_cams`.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from toco_jax.data import Part, open_configured
from toco_jax.data.pipeline import eval_batches
from toco_jax.evaluation.metrics import confusion_matrix, scores
from toco_jax.inference import drawing
from toco_jax.inference.analysis.photos import Photos, claim
from toco_jax.inference.native import resize_map
from toco_jax.method import cams
from toco_jax.models.layers import LayerNorm
from toco_jax.models.network import ToCo, normalize
from toco_jax.models.vit import ViT
from toco_jax.run import runs
from toco_jax.runtime.compute import compiler_options, platform_of
from toco_jax.runtime.console import say
from toco_jax.runtime.outputs import open_atomically, write_atomically

_ROWS = 6  # images that are drawn
_CELL = 118  # pixels


@dataclasses.dataclass
class Shown:
    """An image and its maps.

    Attributes:
        name: its name.
        image: uint8 `[S, S, 3]`, squashed.
        size: its own height and width.
        mask: the truth, uint8 `[H, W]`; None where there is none.
        classes: numbers of its classes, from 0; predicted where there is no truth.
        maps: float32 `[L + 1, S, S, K]` in [0, 1], see `make_layer_cams`; the classes come first.
    """

    name: str
    image: np.ndarray
    size: tuple[int, int]
    mask: np.ndarray | None
    classes: np.ndarray
    maps: np.ndarray


def make_layer_cams(model: ToCo, scales: tuple[float, ...]) -> Callable:
    """Makes the jitted function `(params, image, class_ids) -> maps`.

    `image` is uint8 `[S, S, 3]`, `class_ids [K]` are numbers of classes from 0, and `maps` float32
    `[L + 1, S, S, K]` in [0, 1]: the CAM of each of the L blocks and last the auxiliary CAM. All
    are summed over `scales` and normalised as in training.
    """
    spec = model.backbone
    depth, leading = spec.depth, spec.num_leading
    aux_block = range(depth)[model.aux_layer]
    encoder = ViT(spec, model.grid, model.compute)
    norm = LayerNorm(spec.norm_eps, model.compute.tokens_dtype)

    def layer_cams(params: dict, image: Array, class_ids: Array) -> Array:
        weights = params["encoder"]
        kernel = params["classifier"]["kernel"][:, class_ids]  # [D, K]
        aux_kernel = params["aux_classifier"]["kernel"][:, class_ids]

        def cam_fn(images: Array) -> tuple[Array, Array]:
            out = encoder.apply({"params": weights}, images)
            raw = [out[f"block_{i}"]["tokens"][:, leading:] for i in range(depth)]
            normed = [norm.apply({"params": weights["norm"]}, tokens) for tokens in raw]
            maps = [tokens.astype(jnp.float32) @ kernel for tokens in normed]
            aux_map = raw[aux_block].astype(jnp.float32) @ aux_kernel
            grid = model.token_grid(images)
            shape = (len(images), *grid, -1)
            return jnp.concatenate(maps, axis=-1).reshape(shape), aux_map.reshape(shape)

        found, aux = cams.multi_scale_cams(cam_fn, normalize(image[None]), scales=scales)
        found = found.reshape(*found.shape[:3], depth, -1)[0]  # [S, S, L, K]
        return jnp.concatenate([jnp.moveaxis(found, 2, 0), aux])

    options = compiler_options(platform_of(jax.local_devices()[0]))
    return jax.jit(layer_cams, compiler_options=options)


class LayerCams:
    """The CAMs of every block of a run, for images one after the other.

    Args:
        run: the run.
        num_present: K, the most classes of an image.
    """

    def __init__(self, run: runs.Run, num_present: int):
        self._run, self._num = run, min(num_present, run.config.num_classes)
        self._cams = make_layer_cams(run.model, tuple(run.config.cam_scales))
        device = jax.local_devices()[0]
        self._params = jax.device_put(run.params, device)
        self._predict = jax.jit(
            lambda params, image: run.model.apply({"params": params}, normalize(image[None])),
            compiler_options=compiler_options(platform_of(device)),
        )

    def of(
        self,
        name: str,
        image: np.ndarray,
        size: tuple[int, int],
        *,
        cls_label: np.ndarray | None = None,
        mask: np.ndarray | None = None,
    ) -> Shown:
        """Computes the maps of an image uint8 `[S, S, 3]`, of its own or of predicted classes."""
        if cls_label is None:
            logits = np.asarray(self._predict(self._params, image)["cls_logits"][0])
            order = np.argsort(-logits)[: self._num]
            count = max(1, int((logits[order] > 0).sum()))
        else:
            order = np.argsort(-cls_label, kind="stable")[: self._num]
            count = int(cls_label.sum())
        maps = np.asarray(self._cams(self._params, image, order.astype(np.int32)))
        return Shown(name, image, size, mask, order[:count], maps[..., :count])


def layers(options: argparse.Namespace) -> list[dict[str, str]]:
    """Writes `layers.json` and `layers.png`, as `toco analyze layers` says.

    Returns:
        `{"file": path, "error": message}` for each photo that could not be used.

    Raises:
        CheckpointError: there is no run.
        DataError: the data set is broken, or has classes that the run does not know.
        OutputError: the results cannot be written, or would overwrite other files.
        UserError: none of the photos could be used.
    """
    picture = options.out / "layers.png"
    numbers = claim(picture, options.path)
    run = runs.load(options.checkpoint)
    photos = Photos(options.path) if options.path else None
    if photos:
        found, count = _of_photos(run, photos), 0
        about: dict[str, Any] = {"split": None}
    else:
        source, num_present = _split(run, options)
        found, count = _of_split(run, source, num_present), len(source)
        about = {"split": options.split or run.config.data.val_split}
    depth, num_labels = run.model.backbone.depth, run.config.num_classes + 1
    confusions = np.zeros((depth + 1, num_labels, num_labels), np.int64)
    wanted = set(np.linspace(0, count - 1, min(_ROWS, count)).astype(int)) if count else None
    rows: list[Shown] = []
    files = []
    for i, shown in enumerate(found):
        if shown.mask is not None:
            confusions += _counted(shown, num_labels, run.config.bkg_thre)
        if i in wanted if wanted is not None else i < _ROWS:
            rows.append(shown)
        files.append(shown.name)
    if photos:
        photos.refuse_none(files)
    scored = [scores(matrix) for matrix in confusions]
    mious = [100 * score["miou"] for score in scored]
    aux_block = range(depth)[run.model.aux_layer] + 1
    content = {
        "measure": "mIoU in percent of the CAM of each block: the run's classifier on the block's "
        "tokens after the final LayerNorm; aux: the auxiliary classifier on those of its block",
        "run": str(options.checkpoint),
        "step": run.step,
        **about,
        "images": len(files),
        "threshold": run.config.bkg_thre,
        "scales": list(run.config.cam_scales),
        "blocks": [_rounded(miou) for miou in mious[:-1]],
        "aux": {"block": aux_block, "miou": _rounded(mious[-1])},
        "drawn": [shown.name for shown in rows],
        "failed": photos.failed if photos else [],
    }
    write_atomically(numbers, json.dumps(content, indent=1) + "\n")
    with open_atomically(picture) as file:
        drawn(rows, mious, aux_block, run.class_names).save(file, "png")
    if not photos:
        say(f"mIoU by block {' '.join(f'{v:.1f}' for v in mious[:-1])}, aux CAM {mious[-1]:.1f}")
    say(f"{len(files)} images, {len(rows)} of them drawn; {numbers}, {picture}")
    return content["failed"]


def _rounded(miou: float) -> float | None:
    return None if np.isnan(miou) else round(miou, 4)


def _split(run: runs.Run, options: argparse.Namespace) -> tuple[Part, int]:
    """Returns the first images of a split, and the most classes of an image of it."""
    changed = {"root": options.root, "split": options.split}
    changed = {name: value for name, value in changed.items() if value}
    source = run.numbered(open_configured(run.config, part="val", masks=True, **changed))
    most = min(options.limit or len(source), len(source))
    return Part(source, range(most)), source.num_present


def _of_split(run: runs.Run, source: Part, num_present: int) -> Iterator[Shown]:
    cams_of, config = LayerCams(run, num_present), run.config
    batches = eval_batches(
        source, batch_size=1, size=config.crop_size, num_threads=config.machine.num_threads
    )
    for batch in batches:
        mask = batch["mask"][0]
        yield cams_of.of(
            batch["name"][0],
            batch["image"][0],
            mask.shape,
            cls_label=batch["cls_label"][0],
            mask=mask,
        )


def _of_photos(run: runs.Run, photos: Photos) -> Iterator[Shown]:
    cams_of, side = LayerCams(run, 3), run.config.crop_size
    for path, _, image in photos:
        squashed = cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR)
        yield cams_of.of(str(path), squashed, image.shape[:2])


def _counted(shown: Shown, num_labels: int, bkg_thre: float) -> np.ndarray:
    """Confusion matrices `[L + 1, C + 1, C + 1]` of an image's maps."""
    assert shown.mask is not None
    label_of = np.concatenate([[0], shown.classes + 1])
    present = np.ones((1, len(shown.classes)), np.float32)
    found = []
    for cam in shown.maps:
        label = np.zeros(shown.size, np.int64)
        if len(shown.classes):
            whole = resize_map(cam, shown.size)[None]
            label = label_of[cams.cam_to_label(whole, present, bkg_thre=bkg_thre)[0]]
        found.append(confusion_matrix(shown.mask, label, num_labels))
    return np.stack(found)


def drawn(rows: list[Shown], mious: list[float], aux_block: int, class_names: Any) -> Any:
    """Draws a row per image: the image, the truth where there is one, and the map of each block.

    A map shows at each pixel the strongest of the image's classes.
    """
    with_truth = any(shown.mask is not None for shown in rows)
    names = [f"block {i + 1}" for i in range(len(mious) - 1)] + [f"aux, block {aux_block}"]
    scored = [
        name if np.isnan(miou) else f"{name}: {miou:.1f}"
        for name, miou in zip(names, mious, strict=True)
    ]
    cells, captions, shown_labels = [], [], {0}
    for shown in rows:
        size = shown.size[::-1]
        image = cv2.resize(shown.image, size, interpolation=cv2.INTER_LINEAR)
        heat = shown.maps.max(axis=-1, initial=0)  # [L + 1, S, S]
        maps = [drawing.heat_map(image, cv2.resize(level, size)) for level in heat]
        truth = [] if shown.mask is None else [drawing.colorize(shown.mask)]
        cells.append([image, *truth, *maps])
        captions.append(f"{shown.name}: {', '.join(class_names[c] for c in shown.classes)}")
        shown_labels |= set() if shown.mask is None else set(np.unique(shown.mask).tolist())
    labels = sorted(shown_labels) if with_truth else []
    legend = dict.fromkeys(labels, "ignored") | dict(enumerate(("background", *class_names)))
    return drawing.grid(
        cells,
        columns=["image", *(["truth"] if with_truth else []), *scored],
        captions=captions,
        labels=labels,
        names=legend,
        cell=_CELL,
    )
