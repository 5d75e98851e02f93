"""The training step written plainly, to compare the real one with.

Every view takes a pass of its own through a network without options; labels, regions, crops, losses
and AdamW are a line or two each of numpy or jax. What golden files hold piece by piece is taken
from the package: the network, PAR's propagation and the bilateral filter.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from ml_collections import ConfigDict
from reference_weights import reference_state_dict

from toco_jax.method import crops, par
from toco_jax.models.backbones import backbone_from_name
from toco_jax.models.network import ToCo
from toco_jax.ops.permutohedral import bilateral_filter_images
from toco_jax.weights import published

MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
GRID, PATCH = 4, 8
WEIGHTS = {"cls": 1.0, "cls_aux": 0.7, "ptc": 0.3, "ctc": 0.5, "seg": 0.2, "reg": 50.0}
# A tiny run with the heads of published sizes, whose first step is at the full rate, and in which
# no two values that a step could mix up are equal.
CHANGES = {
    "decoder_width": 512,
    "cam_scales": (1.0, 0.5),
    "group_size": 2,
    "warmup_steps": 0,
    "head_lr_multiplier": 10.0,
    "projection_lr_multiplier": 3.0,
    "weight_decay": 0.1,
    "max_grad_norm": 0.5,
    **{f"loss_weights.{name}": ((0, weight),) for name, weight in WEIGHTS.items()},
}


def start_weights() -> tuple[dict[str, np.ndarray], dict, dict]:
    """Weights of the network of `CHANGES`: as a published state dict, as parameters, and those of
    its teacher head, which is another than the student's.
    """
    state_dict = reference_state_dict(16, 2, num_classes=4, grid=GRID, patch=PATCH)
    params, teacher = published.params_from_reference(
        state_dict, backbone="width=16,depth=2,heads=2,patch=8", num_classes=4
    )
    return state_dict, params, teacher


def resized(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear, half-pixel centres, one map `[H, W, C]` after the other."""
    return np.stack([cv2.resize(m, size[::-1], interpolation=cv2.INTER_LINEAR) for m in maps])


def inside(valid_box: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """`[B, n, n]`: whether points at rows and columns `centres` lie in boxes `[B, 4]`."""
    y0, y1, x0, x1 = valid_box.T[:, :, None]
    rows, columns = ((a <= centres) & (centres < b) for a, b in ((y0, y1), (x0, x1)))
    return rows[:, :, None] & columns[:, None, :]


def plain_network(config: ConfigDict, *, grid: int) -> ToCo:
    """The network of a configuration in float32, without loops and parts."""
    return ToCo(
        backbone_from_name(config.backbone),
        num_classes=config.num_classes,
        aux_layer=config.aux_layer,
        grid=grid,
        decoder_width=config.decoder_width,
        decoder_dilation=config.decoder_dilation,
    )


class SlowStep:
    """The losses and gradients of a configuration, and what its update makes of them."""

    def __init__(self, config: ConfigDict):
        self.config = config
        self.model = plain_network(config, grid=GRID)
        self.forward = jax.jit(lambda params, x: self.model.apply({"params": params}, x))
        self.grad = jax.jit(jax.grad(self._losses, has_aux=True))
        self.refine = jax.jit(par.refine)

    def __call__(
        self,
        params: dict,
        teacher: dict,
        batch: dict[str, np.ndarray],
        origins: np.ndarray,
        *,
        weights: dict[str, float],
        refined: str = "cam",
        truncated: bool = False,
        scaled_box: bool = True,
    ) -> tuple[dict[str, float], dict, dict]:
        """Terms with `total`, gradients of the total, and the labels that they were made from.

        Args:
            params: the student's.
            teacher: the teacher head's, moved already.
            batch: as the pipeline makes it.
            origins: top-left corners of the local crops `[B, n, 2]`.
            weights: of the six terms.
            refined: which CAM becomes the segmentation's labels.
            truncated: PAR's image as the published code has it.
            scaled_box: whether the valid box is brought to the tokens' size.
        """
        labels = self.labels(params, batch, origins, refined, truncated, scaled_box)
        grads, terms = self.grad(params, teacher, weights, labels)
        terms = {name: float(value) for name, value in terms.items()}
        terms["total"] = sum(weights[name] * value for name, value in terms.items())
        return terms, jax.device_get(grads), labels

    def cams(self, params: dict, images: np.ndarray) -> dict[str, np.ndarray]:
        """CAM and auxiliary CAM `[B, H, W, C]` of normalised images."""
        size, totals = images.shape[1:3], {"cam": 0.0, "aux_cam": 0.0}
        for scale in self.config.cam_scales:
            scaled = resized(images, tuple(int(scale * side) for side in size))
            plain = self.forward(params, scaled)
            mirror = self.forward(params, scaled[:, :, ::-1])
            for name, total in totals.items():
                straight = resized(np.asarray(plain[name]), size)
                turned_back = resized(np.asarray(mirror[name])[:, :, ::-1], size)
                totals[name] = total + np.maximum(np.maximum(straight, turned_back), 0)
        for name, total in totals.items():
            shifted = total - total.min(axis=(1, 2), keepdims=True)
            totals[name] = shifted / (shifted.max(axis=(1, 2), keepdims=True) + np.float32(1e-5))
        return totals

    def labels(self, params, batch, origins, refined, truncated, scaled_box) -> dict[str, Any]:
        """Everything of a step that has no gradient."""
        low, high = self.config.low_thre, self.config.high_thre
        cls_label, box = batch["cls_label"], batch["valid_box"]
        view1 = (batch["image"] / np.float32(255) - MEAN) / STD
        maps = self.cams(params, view1)
        out = {"view1": view1, "cls_label": cls_label}
        out["view2"] = (batch["view2"] / np.float32(255) - MEAN) / STD

        tokens = resized(maps["aux_cam"], (GRID, GRID)) * cls_label[:, None, None]
        value, label = tokens.max(axis=-1), tokens.argmax(axis=-1) + 1
        label = np.where(value <= high, 255, label)
        label = np.where(value <= low, 0, label)
        centres = PATCH * (np.arange(GRID) + 0.5) if scaled_box else np.arange(GRID)
        label = np.where(inside(box, centres), label, 255).reshape(len(label), -1)
        affinity = (label[:, :, None] == label[:, None, :]).astype(int)
        affinity[(label[:, :, None] == 255) | (label[:, None, :] == 255)] = 255
        affinity[:, np.arange(GRID**2), np.arange(GRID**2)] = 255
        out["affinity"] = affinity

        value = (maps["aux_cam"] * cls_label[:, None, None]).max(axis=-1)
        region = np.where(value <= low, 0, np.where(value >= high, 2, 1))
        side, num = self.config.local_crop_size, origins.shape[1]
        crops = np.zeros((num, len(region), side, side, 3), np.uint8)
        positive = np.ones((2 + num, len(region)), bool)
        for i, j in np.ndindex(len(region), num):
            y, x = origins[i, j]
            crops[j, i] = batch["local"][i, y : y + side, x : x + side]
            positive[2 + j, i] = region[i, y : y + side, x : x + side].mean() > 0.2
        out["crops"] = (crops / np.float32(255) - MEAN) / STD
        out |= {"region": region, "positive": positive}

        out["box"] = inside(box, np.arange(view1.shape[1]) + 0.5)
        image = batch["image"]
        if truncated:
            image = par.published_image_table()[image, np.arange(3)]
        out["pseudo_label"] = self.pseudo_label(image, maps[refined], cls_label, out["box"])
        out["image"] = batch["image"].astype(np.float32)
        return out

    def pseudo_label(self, image, cam, cls_label, box) -> np.ndarray:
        """Segmentation labels `[B, H, W]` from a CAM and uint8 images."""
        size = image.shape[1:3]
        half = (size[0] // 2, size[1] // 2)
        small_image = resized(image.astype(np.float32) / 255, half)
        scores, winners = resized(cam, half), []
        for background in (self.config.high_thre, self.config.low_thre):
            exp = np.exp(scores) * cls_label[:, None, None]
            exp = np.concatenate([np.full_like(exp[..., :1], np.exp(background)), exp], axis=-1)
            refined = self.refine(small_image, exp / exp.sum(axis=-1, keepdims=True))
            winners.append(resized(np.asarray(refined), size).argmax(axis=-1))
        at_high, at_low = winners
        label = np.where(at_high > 0, at_high, np.where(at_low == 0, 0, 255))
        return np.where(box, label, 255)

    def _losses(self, params, teacher, weights, labels) -> tuple[jax.Array, dict[str, jax.Array]]:
        """What to differentiate for the total's gradient, and the six terms."""
        groups = range(0, len(labels["view1"]), self.config.group_size)
        groups = [slice(start, start + self.config.group_size) for start in groups]
        out = self.model.apply({"params": params}, labels["view1"])
        terms = {
            "cls": soft_margin(out["cls_logits"], labels["cls_label"]),
            "cls_aux": soft_margin(out["aux_cls_logits"], labels["cls_label"]),
        }
        pairs = [(out["patch_tokens"][g], labels["affinity"][g]) for g in groups]
        terms["ptc"] = sum(patch_contrast(*pair) for pair in pairs) / len(groups)

        second = self.model.apply({"params": params}, labels["view2"])
        tokens = [out["cls_token"], second["cls_token"]]
        tokens += [
            self.model.apply({"params": params}, crop)["cls_token"] for crop in labels["crops"]
        ]
        student = [self.project(params["proj_head"], token) for token in tokens]
        fixed = [self.project(teacher, jax.lax.stop_gradient(token)) for token in tokens[:2]]
        terms["ctc"] = class_contrast(
            jnp.stack(student), jnp.stack(fixed), labels["positive"], self.config.temperature
        )

        shape = (*labels["pseudo_label"].shape, self.config.num_classes + 1)
        logits = jax.image.resize(out["seg_logits"], shape, "linear", antialias=False)
        pairs = [(logits[g], labels["pseudo_label"][g]) for g in groups]
        terms["seg"] = sum(balanced_entropy(*pair) for pair in pairs) / len(groups)
        terms["reg"] = energy(logits, labels)
        # The energy is quadratic in the probabilities, one side of which `energy` holds constant.
        factor = {"reg": 2.0}
        return sum(weights[k] * factor.get(k, 1.0) * value for k, value in terms.items()), terms

    def project(self, head: dict, cls_token: jax.Array) -> jax.Array:
        return self.model.apply({"params": {"proj_head": head}}, cls_token, method="project")

    def update(
        self, params: dict, grads: dict, moments: tuple[dict, dict] | None, *, step: int
    ) -> tuple[dict, tuple[dict, dict]]:
        """Parameters and both moments after AdamW, all as flat dictionaries of arrays."""
        config = self.config
        params, grads = flat(params), flat(grads)
        norm = np.sqrt(sum(np.sum(np.float64(g) ** 2) for g in grads.values()))
        assert norm > 2 * config.max_grad_norm, "the gradients would not be clipped"
        first, second = moments or ({}, {})
        rate = config.learning_rate * (1 - step / config.total_steps) ** 0.9
        multipliers = {"encoder": 1.0, "proj_head": config.projection_lr_multiplier}
        new = {}
        for name, param in params.items():
            grad = grads[name] * (config.max_grad_norm / norm)
            first[name] = 0.9 * first.get(name, 0) + 0.1 * grad
            second[name] = 0.999 * second.get(name, 0) + 0.001 * grad**2
            bias1, bias2 = 1 - 0.9 ** (step + 1), 1 - 0.999 ** (step + 1)
            direction = (first[name] / bias1) / (np.sqrt(second[name] / bias2) + 1e-8)
            part = name.split("/")[0]
            scale = multipliers.get(part, config.head_lr_multiplier)
            scale *= name != "encoder/pos_embed"
            new[name] = param - rate * scale * (direction + config.weight_decay * param)
        return new, (first, second)


def flat(tree: dict) -> dict[str, np.ndarray]:
    """Nested parameters by path."""
    return {k: np.asarray(v) for k, v in traverse_util.flatten_dict(tree, sep="/").items()}


def moved(teacher: dict, student: dict) -> dict:
    """The teacher head after one step's move."""
    return jax.tree.map(lambda t, s: np.float32(0.9) * t + np.float32(0.1) * s, teacher, student)


def soft_margin(logits, label):
    return jnp.mean(label * jnp.logaddexp(0, -logits) + (1 - label) * jnp.logaddexp(0, logits))


def patch_contrast(tokens, affinity):
    unit = tokens / jnp.linalg.norm(tokens, axis=-1, keepdims=True)
    cosine = jnp.abs(unit @ unit.swapaxes(1, 2))
    same, other = ((affinity == kind).astype(jnp.float32) for kind in (1, 0))
    pull = (cosine * same).sum() / (same.sum() + 1)
    return 0.5 * (1 - pull) + 0.5 * (cosine * other).sum() / (other.sum() + 1)


def class_contrast(student, teacher, positive, temperature):
    positive = positive.astype(jnp.float32)
    alike = jnp.exp(jnp.einsum("tbe,vbe->tvb", teacher, student) / temperature)
    negative = (alike * (1 - positive[None])).sum(axis=1)  # [2, B]
    each = -jnp.log(alike / (alike + negative[:, None] + 1e-4)) * positive[None]
    extra = -jnp.log(1 / (1 + negative + 1e-4))
    return jnp.mean((each.sum(axis=1) + extra).sum(axis=0) / (2 * (positive.sum(axis=0) + 1e-4)))


def balanced_entropy(logits, label):
    loss = -jax.nn.log_softmax(logits) * jax.nn.one_hot(label, logits.shape[-1])
    sides = label == 0, (label > 0) & (label < 255)
    sums = [
        (loss.sum(axis=-1) * mask).sum() / jnp.maximum(mask.sum(), 1)
        for mask in (side.astype(jnp.float32) for side in sides)
    ]
    return sum(sums) / 2


def energy(logits, labels):
    batch, height, width, num = logits.shape
    probs = jax.nn.softmax(logits).reshape(batch, height // 2, 2, width // 2, 2, num)
    box = labels["box"][:, ::2, ::2].astype(np.float32)
    probs = probs.mean(axis=(2, 4))
    gate = jnp.clip(box - probs.max(axis=-1), 0)
    gate = jnp.where(labels["pseudo_label"][:, ::2, ::2] == 255, 1.0, gate)
    values = probs * box[..., None]
    image = labels["image"][:, ::2, ::2]
    filtered = bilateral_filter_images(image, values, sigma_rgb=15.0, sigma_xy=50.0)
    fixed = jax.lax.stop_gradient(gate[..., None] * filtered)
    return -1e-7 / batch * (values * fixed).sum()


@contextmanager
def recorded_crops() -> Iterator[list[tuple[np.ndarray, np.ndarray]]]:
    """Lists each local image `[S, S, 3]` and the corners of its crops `[n, 2]` of the steps that
    are traced meanwhile, in no order.
    """
    cut, taken = crops.crop_and_flag, []

    def note(*arrays: jax.Array) -> None:
        taken.extend(zip(*map(np.asarray, arrays), strict=True))

    def cut_and_note(images, roi_mask, origins, *, size):
        jax.debug.callback(note, images, origins)
        return cut(images, roi_mask, origins, size=size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crops, "crop_and_flag", cut_and_note)
        yield taken


def assert_updated(params: dict, expected: dict, before: dict, first: dict) -> None:
    """That parameters moved as expected, where the first moment is more than rounding noise."""
    compared = 0
    for name, value in flat(params).items():
        known = np.abs(first[name]) > 1e-6
        step, expected_step = (x[known] - before[name][known] for x in (value, expected[name]))
        largest = np.abs(expected_step).max(initial=0)
        np.testing.assert_allclose(step, expected_step, rtol=0, atol=0.01 * largest, err_msg=name)
        compared += known.sum()
    assert compared > 1e6
