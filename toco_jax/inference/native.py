"""Runs the network on images of any size, at several scales, with few compilations.

Every image is scaled, mirrored, and padded in whole patches to one of a few fixed shapes; padding
does not change its result (paper, section 4.1: scales 1, 1.25 and 1.5 with mirror images). The
outputs stay at the resolution of patches until a caller asks for them at the image's size.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import cv2
import jax
import numpy as np

from toco_jax.inference.buckets import Buckets, Size
from toco_jax.models.network import ToCo, normalize
from toco_jax.models.vit import Padding
from toco_jax.ops.resize import Method, interpolation_matrix
from toco_jax.run.runs import Run
from toco_jax.runtime.compute import compiler_options, platform_of
from toco_jax.runtime.sharding import batch_sharded, mesh_of, replicated

SEG_SCALES = (1.0, 1.25, 1.5)
# The maximum number of channels that OpenCV resizes.
_CV_CHANNELS = 128


@dataclasses.dataclass(frozen=True)
class Maps:
    """The network's outputs for one image, at the resolution of patches at each scale.

    Attributes:
        size: height and width of the image in pixels.
        cls_logits: `[C]`, of the image at scale 1, not mirrored.
        seg: for each segmentation scale, logits `[h, w, C + 1]`: the sum over the image and its
            mirror image, mirrored back.
        cam: for each CAM scale, the maps `[h, w, C]` of the image and of its mirror image, mirrored
            back.
        aux_cam: the same for the auxiliary classifier.
    """

    size: Size
    cls_logits: np.ndarray
    seg: tuple[np.ndarray, ...]
    cam: tuple[tuple[np.ndarray, np.ndarray], ...]
    aux_cam: tuple[tuple[np.ndarray, np.ndarray], ...]

    def seg_logits(self) -> np.ndarray:
        """Returns `[H, W, C + 1]` float32, the maximum over scales at the image's size."""
        return functools.reduce(np.maximum, (resize_map(logits, self.size) for logits in self.seg))

    def cam_of(self, name: str, classes: np.ndarray) -> np.ndarray:
        """Returns CAMs `[H, W, len(classes)]` float32 in [0, 1] (paper, section 3.3).

        Args:
            name: `"cam"` or `"aux_cam"`.
            classes: ids in 0..C-1 of the classes to compute.
        """
        total = np.zeros((*self.size, len(classes)), np.float32)
        for pair in getattr(self, name):
            full = [resize_map(np.ascontiguousarray(m[..., classes]), self.size) for m in pair]
            total += np.maximum(np.maximum(*full), 0)
        total -= total.min(axis=(0, 1))
        return total / (total.max(axis=(0, 1)) + np.float32(1e-5))


def resize_map(values: np.ndarray, size: Size) -> np.ndarray:
    """Resizes `[h, w, C]` to `[H, W, C]` bilinearly.

    It runs on the host, because images have many sizes and each would be a compilation.
    """
    parts = [
        cv2.resize(values[..., c : c + _CV_CHANNELS], size[::-1], interpolation=cv2.INTER_LINEAR)
        for c in range(0, values.shape[-1], _CV_CHANNELS)
    ]
    parts = [part.reshape(*size, -1) for part in parts]  # [H, W, <= 128]
    if not parts:
        return np.zeros((*size, 0), values.dtype)
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns the softmax over the last axis."""
    exp = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """An image at every scale, ready for the network.

    Attributes:
        size: height and width of the image in pixels.
        frame: the frame it is padded to, see `Buckets.frame`.
        views: by scale, the padded image and its mirror image, float32
            `[2, h * patch, w * patch, 3]`.
    """

    size: Size
    frame: Size
    views: dict[float, np.ndarray]


class NativeNetwork:
    """A network that takes images of any size, on the devices of this process.

    Attributes:
        shapes: the padded shapes used so far; each is one compilation.

    Args:
        model: the network.
        params: its parameters.
        crop_size: side of the training images in pixels.
        cam_scales: scales of the CAMs; empty for no CAMs.
        seg_scales: scales of the segmentation; empty for no segmentation.
        batch_size: images per batch, rounded up to a multiple of the number of devices.
        devices: the devices to use; by default all of this process.
    """

    def __init__(
        self,
        model: ToCo,
        params: dict,
        *,
        crop_size: int,
        cam_scales: tuple[float, ...],
        seg_scales: tuple[float, ...] = SEG_SCALES,
        batch_size: int = 1,
        devices: Sequence[jax.Device] | None = None,
    ):
        devices = jax.local_devices() if devices is None else devices
        self._mesh = mesh_of(devices)
        self.batch_size = -(-batch_size // len(devices)) * len(devices)
        self._model = model
        self._params = jax.device_put(params, replicated(self._mesh))
        self._cam_scales, self._seg_scales = cam_scales, seg_scales
        # Image logits come from scale 1.
        self._scales = sorted({1.0, *cam_scales, *seg_scales})
        self.buckets = Buckets(crop_size, model.backbone.patch, self._scales)
        self.shapes: set[Size] = set()

        def forward(params: dict, images: jax.Array, padding: Padding) -> dict[str, jax.Array]:
            out = model.apply({"params": params}, normalize(images), padding)
            return {name: out[name] for name in ("cls_logits", "seg_logits", "cam", "aux_cam")}

        self.forward = jax.jit(
            forward,
            in_shardings=(replicated(self._mesh), *(batch_sharded(self._mesh),) * 2),
            out_shardings=batch_sharded(self._mesh),
            compiler_options=compiler_options(platform_of(self._mesh.devices.flat[0])),
        )

    def prepare(self, image: np.ndarray) -> Prepared:
        """Scales, mirrors and pads one uint8 image `[H, W, 3]`; threads may call it."""
        size = image.shape[:2]
        frame, patch = self.buckets.frame(size), self._model.backbone.patch
        views = {}
        for scale in self._scales:
            # As float32, so that resizing does not round to 8 bits.
            scaled = resize_map(image.astype(np.float32), self.buckets.scaled(size, scale))
            height, width = (patch * n for n in self.buckets.grid(size, scale))
            shape = self.buckets.shape(frame, scale)
            padded = np.zeros((2, shape[0] * patch, shape[1] * patch, 3), np.float32)
            padded[0, :height, :width] = scaled[:height, :width]
            padded[1, :height, :width] = scaled[:, ::-1][:height, :width]
            views[scale] = padded
        return Prepared(size, frame, views)

    def start(self, images: list[Prepared]) -> Callable[[], list[Maps]]:
        """Starts the computation for prepared images of one frame, at most `batch_size`.

        Returns:
            A function that waits for the result and returns the maps of each image.
        """
        sizes = [image.size for image in images]
        outputs = {}
        for scale in self._scales:
            shape = self.buckets.shape(images[0].frame, scale)
            self.shapes.add(shape)
            grids = [self.buckets.grid(size, scale) for size in sizes]
            filler = self.batch_size - len(images)
            views = [image.views[scale] for image in images]
            views += [np.zeros_like(views[0])] * filler
            padding = make_padding(
                grids + [(1, 1)] * filler,
                shape,
                grid=self._model.grid,
                method=self._model.backbone.position_resize,
            )
            batch = jax.device_put((np.concatenate(views), padding), batch_sharded(self._mesh))
            outputs[scale] = self.forward(self._params, *batch)
        return functools.partial(self._finish, sizes, outputs)

    def _finish(self, sizes: list[Size], outputs: dict[float, dict]) -> list[Maps]:
        outputs = jax.device_get(outputs)

        def pair(name: str, i: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
            height, width = self.buckets.grid(sizes[i], scale)
            straight, mirrored = outputs[scale][name][2 * i : 2 * i + 2, :height, :width]
            return straight, mirrored[:, ::-1]

        return [
            Maps(
                size=size,
                cls_logits=outputs[1.0]["cls_logits"][2 * i],
                seg=tuple(np.add(*pair("seg_logits", i, scale)) for scale in self._seg_scales),
                cam=tuple(pair("cam", i, scale) for scale in self._cam_scales),
                aux_cam=tuple(pair("aux_cam", i, scale) for scale in self._cam_scales),
            )
            for i, size in enumerate(sizes)
        ]


def make_padding(
    grids: list[Size], shape: Size, *, grid: int, method: Method = "bicubic"
) -> Padding:
    """Returns the padding of images and their mirror images, two entries per image.

    Args:
        grids: rows and columns of whole patches in each image.
        shape: rows and columns of patches in the padded batch.
        grid: side of the stored positional grid in patches; 0 if there is none.
        method: how the stored positions are resized.
    """
    count = 2 * len(grids)
    valid = np.zeros((count, *shape), bool)
    rows = np.zeros((count, shape[0], grid), np.float32)
    columns = np.zeros((count, shape[1], grid), np.float32)
    for i, (height, width) in enumerate(grids):
        both = slice(2 * i, 2 * i + 2)
        valid[both, :height, :width] = True
        if not grid:
            continue
        rows[both, :height] = interpolation_matrix(grid, height, method)
        columns[both, :width] = interpolation_matrix(grid, width, method)
    return Padding(valid, rows, columns)


def network_of(
    run: Run,
    *,
    batch_size: int | None = None,
    seg_scales: tuple[float, ...] = SEG_SCALES,
    cam_scales: tuple[float, ...] | None = None,
) -> NativeNetwork:
    """Makes the `NativeNetwork` of a run, on all devices of this process.

    Args:
        run: a trained network.
        batch_size: images per batch; `default_batch_size()` by default.
        seg_scales: scales of the segmentation.
        cam_scales: scales of the CAMs; those of the training by default.
    """
    return NativeNetwork(
        run.model,
        run.params,
        crop_size=run.config.crop_size,
        cam_scales=tuple(run.config.cam_scales) if cam_scales is None else cam_scales,
        seg_scales=seg_scales,
        batch_size=default_batch_size() if batch_size is None else batch_size,
    )


def default_batch_size() -> int:
    """Returns 1 image per CPU device, 8 per GPU or TPU."""
    return jax.local_device_count() * (1 if jax.default_backend() == "cpu" else 8)
