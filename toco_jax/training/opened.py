"""Opens up one training step of a run, panel by panel; see `toco analyze step --help`."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict
from PIL import Image

from toco_jax.data import open_configured
from toco_jax.data.pipeline import configured_batches
from toco_jax.inference import drawing
from toco_jax.inference.analysis.photos import claim
from toco_jax.inference.native import resize_map
from toco_jax.inference.views import BOX, NEGATIVE, POSITIVE, framed, tiled, tinted
from toco_jax.method.cams import IGNORE_INDEX, label_to_affinity
from toco_jax.method.methods import METHODS
from toco_jax.method.phases import phase_at
from toco_jax.run import runs
from toco_jax.run.state import TrainState
from toco_jax.runtime.console import say
from toco_jax.runtime.outputs import open_atomically, write_atomically
from toco_jax.training.step import moved_extra

_CELL = 150
_SAME, _DIFFERENT, _IGNORED = (230, 60, 40), (40, 80, 220), (190, 190, 190)
# What is drawn or told of what the losses of a step compute.
_WANTED = (
    *("image", "view2", "valid_box", "cls_label", "present", "full_cam", "full_aux_cam"),
    *("pseudo_label_aux", "affinity_label", "affinity", "patch_tokens", "roi_mask", "local_crops"),
    *("is_foreground", "crop_similarity", "pseudo_label", "seg_logits"),
)
_LABEL_MAPS = ("pseudo_label_aux", "pseudo_label")

Seen = dict[str, Any]


def step(options: argparse.Namespace) -> list[dict[str, str]]:
    """Writes `step.json` and `step.png`, as `toco analyze step` says; returns no failures.

    Raises:
        CheckpointError: there is no run.
        DataError: the data set is broken, or has classes that the run does not know.
        OutputError: the results cannot be written, or would overwrite other files.
    """
    picture = options.out / "step.png"
    numbers = claim(picture, ())
    run = runs.load(options.checkpoint)
    changed = {"root": options.root} if options.root else {}
    source = run.numbered(open_configured(run.config, part="train", masks=False, **changed))
    names, batch = first_images(run.config, source, start_step=run.step, num=options.images)
    seen = seen_in_step(run, batch, num_present=source.num_present)
    terms = {name: round(float(value), 6) for name, value in seen.pop("terms").items()}
    rows = [{key: value[i] for key, value in seen.items()} for i in range(len(names))]
    images = [
        {"name": name} | told(row, run.class_names) for name, row in zip(names, rows, strict=True)
    ]
    content = {"run": str(options.checkpoint), "step": run.step + 1, "terms": terms}
    write_atomically(numbers, json.dumps(content | {"images": images}, indent=1) + "\n")
    with open_atomically(picture) as file:
        sheet(rows, images, label_names(run.class_names)).save(file, "png")
    say(" ".join(f"{name} {value:.4f}" for name, value in terms.items()))
    say(f"{len(names)} images; {numbers}, {picture}")
    return []


def first_images(
    config: ConfigDict, source: Any, *, start_step: int, num: int
) -> tuple[list[str], Seen]:
    """Returns names and arrays of the first images of a step's batch.

    There are `num` of them, or up to the next multiple of `group_size`, or the whole batch.
    """
    batches = configured_batches(
        source, config, start_step=start_step, num_threads=0, on_error="raise"
    )
    batch = next(iter(batches))
    batches.close()
    num = min(-(-num // config.group_size) * config.group_size, config.batch_size)
    return batch.pop("name")[:num], {key: value[:num] for key, value in batch.items()}


def seen_in_step(run: runs.Run, batch: Seen, *, num_present: int) -> Seen:
    """Returns the arrays of a step's losses on a batch, each `[B, ...]`, and the loss terms.

    The terms are those at the end of the configuration's `loss_weights`, so that a run of any age
    and length shows all of them, without `sup`, which needs masks. Crops are drawn by the run's
    seed. The network is the one that is evaluated, which for some methods is an average.
    """
    config = run.config
    phase = phase_at(config, sys.maxsize)
    weights = tuple((term, 0.0 if term == "sup" else weight) for term, weight in phase.weights)
    phase = dataclasses.replace(phase, weights=weights)
    method, count = METHODS[config.method], len(batch["image"])
    loss_fn = method.make_loss_fn(config, run.model, phase, num_present=num_present)
    extra = method.init_extra(config, run.params) | {"proj_head": run.teacher_params}
    if config.ema_decay:
        extra["ema"] = run.params
    key = jax.random.key(config.seed)
    state = TrainState(jnp.int32(run.step), run.params, extra, opt_state=(), key=key)

    @jax.jit
    def compute(state: TrainState, batch: Seen) -> Seen:
        keys = jax.random.split(state.key, count)
        seen = loss_fn(state.params, moved_extra(config, state), keys, batch)[1]
        if "pseudo_label_aux" in seen:
            seen["affinity_label"] = label_to_affinity(seen["pseudo_label_aux"])
        if "student" in seen:
            # Of each crop to the two global views, in the space of the class token contrast.
            seen["crop_similarity"] = cosine(seen["student"][2:], seen["teacher"])
        return {name: seen[name] for name in (*_WANTED, "terms") if name in seen}

    return jax.device_get(compute(state, batch))


def cosine(student: Array, teacher: Array) -> Array:
    """Mean cosine similarity `[B, n]` of projections `[n, B, E]` to those `[2, B, E]`."""
    unit, other = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (student, teacher))
    return jnp.einsum("nbe,gbe->bn", unit, other, precision="highest") / len(other)


def told(row: Seen, class_names: tuple[str, ...]) -> dict[str, Any]:
    """Returns what the JSON says of an image."""
    about: dict[str, Any] = {
        "classes": [class_names[c] for c in np.flatnonzero(row["cls_label"])],
        "valid_box": row["valid_box"].tolist(),
    }
    if "roi_mask" in row:
        shares = np.bincount(row["roi_mask"].ravel(), minlength=3) / row["roi_mask"].size
        regions = ("background", "uncertain", "foreground")
        about["regions"] = dict(zip(regions, np.round(shares, 4).tolist(), strict=True))
        about["crops"] = [
            {"foreground": bool(flag), "similarity": round(float(similarity), 4)}
            for flag, similarity in zip(row["is_foreground"], row["crop_similarity"], strict=True)
        ]
    if "affinity_label" in row:
        pairs = {"same": 1, "different": 0, "ignored": IGNORE_INDEX}
        about["pairs"] = {
            name: int((row["affinity_label"] == k).sum()) for name, k in pairs.items()
        }
    for name in _LABEL_MAPS:
        if name in row:
            labels, counts = np.unique(row[name], return_counts=True)
            known = label_names(class_names)
            about[name] = {
                known[int(k)]: round(float(n / row[name].size), 4)
                for k, n in zip(labels, counts, strict=True)
            }
    return about


def label_names(class_names: Sequence[str]) -> dict[int, str]:
    """Returns the name of every label."""
    return dict(enumerate(("background", *class_names))) | {IGNORE_INDEX: "ignored"}


def sheet(rows: Sequence[Seen], images: Sequence[dict], names: dict[int, str]) -> Image.Image:
    """Draws a row of panels for each image; what no loss term needed has no panel.

    Args:
        rows: the arrays of each image.
        images: what `told` says of each.
        names: the name of each label.
    """
    columns = [name for name, panel in PANELS.items() if panel(rows[0]) is not None]
    drawn = [[PANELS[name](row) for name in columns] for row in rows]
    cells = [[panel for panel in row if panel is not None] for row in drawn]
    captions = []
    for about in images:
        crops = about.get("crops", ())
        means = []
        for kind, flag in (("foreground", True), ("background", False)):
            found = [crop["similarity"] for crop in crops if crop["foreground"] == flag]
            means += [f"{len(found)} {kind} crops {np.mean(found):.2f}"] if found else []
        like = f"; cosine to the global views: {', '.join(means)}" if means else ""
        captions.append(f"{about['name']}: {', '.join(about['classes']) or 'no class'}{like}")
    maps = [row[name] for row in rows for name in _LABEL_MAPS if name in row]
    maps += [row["seg_logits"].argmax(axis=-1) for row in rows if "seg_logits" in row]
    labels = sorted({int(label) for found in maps for label in np.unique(found)})
    return drawing.grid(
        cells, columns=columns, captions=captions, labels=labels, names=names, cell=_CELL
    )


def _view1(row: Seen) -> np.ndarray:
    return framed(row["image"], [row["valid_box"]], [BOX])


def _heat(name: str) -> Callable:
    def panel(row: Seen) -> np.ndarray | None:
        if name not in row or "present" not in row:
            return None
        return drawing.heat_map(row["image"], (row[name] * row["present"]).max(axis=-1))

    return panel


def _regions(row: Seen) -> np.ndarray | None:
    return tinted(row["image"], row["roi_mask"]) if "roi_mask" in row else None


def _crops(row: Seen) -> np.ndarray | None:
    if "local_crops" not in row:
        return None
    return tiled(row["local_crops"], [POSITIVE if x else NEGATIVE for x in row["is_foreground"]])


def _labels(name: str) -> Callable:
    return lambda row: drawing.colorize(row[name]) if name in row else None


def _affinity(row: Seen) -> np.ndarray | None:
    if "affinity_label" not in row:
        return None
    colours = np.array([_DIFFERENT, _SAME, _IGNORED], np.uint8)
    return colours[np.where(row["affinity_label"] == IGNORE_INDEX, 2, row["affinity_label"])]


def _similarity(row: Seen) -> np.ndarray | None:
    if "affinity_label" not in row:
        return None
    tokens = row["patch_tokens"].astype(np.float32)
    unit = tokens / np.maximum(np.linalg.norm(tokens, axis=1, keepdims=True), 1e-12)
    return _mixed((unit @ unit.T + 1) / 2)  # [N, N, 3]


def _predicted(row: Seen) -> np.ndarray | None:
    return _mixed(row["affinity"]) if "affinity" in row else None


def _mixed(level: np.ndarray) -> np.ndarray:
    """Colours `[N, M]` in [0, 1], from that of two labels to that of one."""
    mixed = level[..., None] * np.array(_SAME) + (1 - level[..., None]) * np.array(_DIFFERENT)
    return np.clip(mixed, 0, 255).astype(np.uint8)


def _segmentation(row: Seen) -> np.ndarray | None:
    if "seg_logits" not in row:
        return None
    logits = resize_map(row["seg_logits"], row["image"].shape[:2])
    return drawing.colorize(logits.argmax(axis=-1))


# From the heading of a panel to what draws it of an image's arrays, None where these are not there.
PANELS: dict[str, Callable[[Seen], np.ndarray | None]] = {
    "view 1, valid box": _view1,
    "view 2": lambda row: row["view2"],
    "CAM": _heat("full_cam"),
    "auxiliary CAM": _heat("full_aux_cam"),
    "labels of patches": _labels("pseudo_label_aux"),
    "affinity of patches": _affinity,
    "similarity of patches": _similarity,
    "predicted affinity": _predicted,
    "regions": _regions,
    "local crops, flags": _crops,
    "refined pseudo label": _labels("pseudo_label"),
    "segmentation": _segmentation,
}
