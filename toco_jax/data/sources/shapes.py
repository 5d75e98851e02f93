"""Procedural scenes that need no download: textured objects in random colours amid clutter.

A class is a texture together with a shape ("striped disc"). Colours are drawn from one
distribution for objects, distractors and background alike, so that no pixel's colour tells its
class. Distractors are plain and may carry a class's shape, or carry a texture of no class, so that
neither a shape nor being textured tells an object.
"""

import dataclasses
import math

import cv2
import numpy as np

from toco_jax.runtime.errors import DataError

TEXTURES = ("striped", "checkered", "dotted", "meshed", "speckled")
SHAPES = ("disc", "square", "triangle", "hexagon", "star", "cross")
NUM_CLASSES = 4  # class c has the texture and the shape of index c; later ones are distractors
MAX_OBJECTS = 3

_LENGTHS = {"train": 20_000, "val": 200}
_SUPERSAMPLE = 2  # drawn at twice the size and averaged, against jagged edges
_PERIOD = (6.0, 8.0)  # of a texture, in pixels
_MIN_VISIBLE = 0.02  # of the image's area, for each class that is present


def texture(name: str, height: int, width: int, period: float, rng: np.random.Generator):
    """Draws one of `TEXTURES`, `[height, width]` float32 of 0 and 1, turned by a random angle.

    It repeats every `period` pixels.
    """
    if name == "speckled":
        noise = rng.standard_normal((height, width)).astype(np.float32)
        return (cv2.GaussianBlur(noise, (0, 0), period / 6) > 0).astype(np.float32)
    angle = rng.uniform(0, math.pi)
    phase_u, phase_v = rng.uniform(0, 1, 2)
    y, x = np.mgrid[:height, :width].astype(np.float32) / np.float32(period)
    u = x * np.float32(math.cos(angle)) + y * np.float32(math.sin(angle)) + np.float32(phase_u)
    v = y * np.float32(math.cos(angle)) - x * np.float32(math.sin(angle)) + np.float32(phase_v)
    return _PATTERNS[name](u, v).astype(np.float32)


def _radius_in_cell(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Returns distances to the middle of unit cells; every other column is shifted by half."""
    v = v + 0.5 * (np.floor(u) % 2)
    return np.hypot(u % 1 - 0.5, v % 1 - 0.5)


_PATTERNS = {
    "striped": lambda u, v: u % 1 < 0.5,
    "checkered": lambda u, v: (np.floor(1.6 * u) + np.floor(1.6 * v)) % 2,
    "dotted": lambda u, v: _radius_in_cell(u, v) < 0.3,
    "meshed": lambda u, v: (u % 1 < 0.25) | (v % 1 < 0.25),
}  # fmt: skip


def outline(shape: str, radius: float, angle: float) -> np.ndarray:
    """Returns the corners `[n, 2]` (x, y) float64 of one of `SHAPES` around the origin.

    The radii are scaled so that shapes of equal `radius` look equally large.
    """
    corners, scale, dent = {
        "disc": (40, 0.95, 1.0),
        "square": (4, 1.15, 1.0),
        "triangle": (3, 1.3, 1.0),
        "hexagon": (6, 1.0, 1.0),
        "star": (10, 1.2, 0.6),
        "cross": (12, 1.1, 1.0),
    }[shape]
    if shape == "cross":
        arm = np.array([[0.38, 1], [0.38, 0.38], [1, 0.38]])
        turns = [np.array([[c, -s], [s, c]]) for c, s in ((1, 0), (0, -1), (-1, 0), (0, 1))]
        points = np.concatenate([arm @ turn.T for turn in turns])
        turned = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        return radius * scale * points @ turned.T
    steps = angle + np.arange(corners) * 2 * math.pi / corners
    radii = radius * scale * np.where(np.arange(corners) % 2, dent, 1.0)
    return np.stack([np.cos(steps) * radii, np.sin(steps) * radii], axis=1)


@dataclasses.dataclass(frozen=True)
class Thing:
    """Something to draw: a texture (None is plain), a shape, a place and a size in pixels."""

    texture: str | None
    shape: str
    center: tuple[float, float]  # x, y
    radius: float
    period: float = 7.0


def _colour(rng: np.random.Generator) -> np.ndarray:
    """Draws a random colour `[3]` float32 in 0..1; all colours of scenes come from here."""
    hue, saturation, value = rng.uniform(0, 360), rng.uniform(0.1, 0.9), rng.uniform(0.15, 1)
    pixel = np.array([[[hue, saturation, value]]], np.float32)
    return cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0]


def _two_colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws two colours that differ enough in brightness for a pattern to be seen."""
    while True:
        first, second = _colour(rng), _colour(rng)
        if abs(float(first.mean() - second.mean())) > 0.35:
            return first, second


def background(size: int, rng: np.random.Generator) -> np.ndarray:
    """Draws a background `[s, s, 3]` float32 in 0..1: gradient, blots and strokes."""
    side = size * _SUPERSAMPLE
    corners = np.stack([_colour(rng) for _ in range(4)]).reshape(2, 2, 3)  # [2, 2, 3]
    canvas = cv2.resize(corners, (side, side), interpolation=cv2.INTER_LINEAR)
    for _ in range(rng.integers(3, 8)):
        colour = tuple(float(c) for c in _colour(rng))
        start, end = rng.integers(0, side, (2, 2)).tolist()
        if rng.random() < 0.5:
            cv2.line(canvas, start, end, colour, int(rng.integers(2, 8)), cv2.LINE_AA)
        else:
            axes = rng.integers(4, side // 8, 2).tolist()
            turn = float(rng.uniform(0, 180))
            cv2.ellipse(canvas, start, axes, turn, 0, 360, colour, -1, cv2.LINE_AA)
    return canvas


def draw(canvas: np.ndarray, thing: Thing, rng: np.random.Generator) -> np.ndarray:
    """Paints `thing` on `canvas` in random colours; returns where, `[s, s]` uint8 of 0 and 1."""
    side = canvas.shape[0]
    points = outline(thing.shape, thing.radius, rng.uniform(0, 2 * math.pi)) + thing.center
    points = np.round(points * _SUPERSAMPLE).astype(np.int32)
    covered = np.zeros((side, side), np.uint8)
    cv2.fillPoly(covered, [points], 1)
    (x0, y0), (x1, y1) = np.clip(points.min(0), 0, side), np.clip(points.max(0) + 1, 0, side)
    if x1 <= x0 or y1 <= y0:
        return covered
    if thing.texture is None:
        paint = np.tile(_colour(rng), (y1 - y0, x1 - x0, 1))
    else:
        first, second = _two_colours(rng)
        period = thing.period * _SUPERSAMPLE
        mix = texture(thing.texture, int(y1 - y0), int(x1 - x0), period, rng)[..., None]
        paint = first * mix + second * (1 - mix)
    box = np.s_[y0:y1, x0:x1]
    canvas[box] = cv2.copyTo(paint, covered[box], canvas[box].copy())
    return covered


def finish(canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turns a drawing into an image `[size, size, 3]` uint8: shrunk, unevenly lit, noisy."""
    size = canvas.shape[0] // _SUPERSAMPLE
    image = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
    light = rng.uniform(0.75, 1.15, (3, 3)).astype(np.float32)
    image *= cv2.resize(light, (size, size), interpolation=cv2.INTER_CUBIC)[..., None]
    image += 0.02 * rng.standard_normal(image.shape, np.float32)
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _place(size: int, radius: float, taken: list[Thing], rng: np.random.Generator):
    """Draws a centre in the image, away from what is `taken` if 20 draws find such a place."""
    for _ in range(20):
        center = tuple(rng.uniform(0.6 * radius, size - 0.6 * radius, 2).tolist())
        if all(math.dist(center, t.center) > 0.85 * (radius + t.radius) for t in taken):
            break
    return center


def scene(size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws a scene: image `[size, size, 3]` uint8 and mask `[size, size]` uint8 in 0..4.

    One to three objects with a radius of 17 to 27 pixels at 80, in front of one or two smaller
    plain distractors and, in half of the scenes, a textured one. An image whose classes are not
    each well visible is drawn again.
    """
    unit = size / 80
    while True:
        canvas = background(size, rng)
        objects: list[Thing] = []
        for _ in range(rng.choice([1, 2, 3], p=[0.3, 0.45, 0.25])):
            c, radius = int(rng.integers(NUM_CLASSES)), unit * rng.uniform(17, 27)
            center = _place(size, radius, objects, rng)
            objects.append(Thing(TEXTURES[c], SHAPES[c], center, radius, rng.uniform(*_PERIOD)))
        textures = [None] * rng.integers(1, 3) + [TEXTURES[-1]] * rng.integers(2)
        for name in textures:
            radius = unit * rng.uniform(6, 13)
            center = _place(size, radius, objects, rng)
            thing = Thing(name, str(rng.choice(SHAPES)), center, radius, rng.uniform(*_PERIOD))
            draw(canvas, thing, rng)
        mask = np.zeros((size, size), np.uint8)
        for thing in objects:
            covered = draw(canvas, thing, rng) * np.float32(1)
            covered = cv2.resize(covered, (size, size), interpolation=cv2.INTER_AREA)
            mask[covered > 0.5] = TEXTURES.index(thing.texture) + 1
        image = finish(canvas, rng)
        areas = np.bincount(mask.ravel(), minlength=NUM_CLASSES + 1)[1:]
        wanted = {TEXTURES.index(thing.texture) for thing in objects}
        if all(areas[c] >= _MIN_VISIBLE * size**2 for c in wanted):
            return image, mask


class ShapesSource:
    """Random-access records of procedural scenes, a pure function of (seed, split, index).

    Args:
        split: "train" or "val".
        seed: seed of the training scenes; the validation scenes are always the same.
        masks: whether records carry the true mask.
        size: side of the images in pixels.
        length: number of scenes; by default 20,000 for training and 200 for validation.

    Raises:
        ValueError: the split is unknown.

    Attributes:
        class_names: the 4 classes in words.
        names: one name per record.
        num_present: largest number of classes in one image.
    """

    class_names = tuple(f"{TEXTURES[c]} {SHAPES[c]}" for c in range(NUM_CLASSES))
    num_present = MAX_OBJECTS

    def __init__(
        self, split: str, *, masks: bool, seed: int = 0, size: int = 80, length: int | None = None
    ):
        if split not in _LENGTHS:
            raise DataError(f"unknown split {split!r} of the procedural scenes: use train or val")
        self.split, self.masks, self.size = split, masks, size
        self.seed = seed if split == "train" else 0
        self.names = tuple(f"{split}_{i:05d}" for i in range(length or _LENGTHS[split]))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict:
        """`{"name", "image" uint8 [H, W, 3] RGB, "cls_label" float32 [4]}`, and `"mask"` uint8
        `[H, W]` in 0..4 when the source was made with masks.
        """
        name = self.names[index]
        rng = np.random.default_rng([self.seed, list(_LENGTHS).index(self.split), int(index)])
        image, mask = scene(self.size, rng)
        present = np.bincount(mask.ravel(), minlength=NUM_CLASSES + 1)[1:] > 0
        record = {"name": name, "image": image, "cls_label": present.astype(np.float32)}
        return record | {"mask": mask} if self.masks else record
