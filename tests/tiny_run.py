"""A run that was never trained and a devkit of a few small photos, for tests of the commands."""

import pathlib
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np
from PIL import Image

from toco_jax.data.classes import VOC_CLASSES
from toco_jax.run import saved
from toco_jax.run.network import make_model
from toco_jax.training import step

# Name, size, classes in the annotation, which are bands in the mask. For a network trained at 32
# pixels all are ordinary lying photos but the last, which is long: two frames mean few programs.
PHOTOS = (
    ("2007_000001", (24, 36), ("cat",)),
    ("2007_000002", (26, 35), ("dog", "person")),
    ("2007_000003", (20, 30), ("cat", "dog")),
    ("2007_000004", (23, 23), ("person",)),
    ("2007_000005", (27, 33), ("cat", "person")),
    ("2007_000006", (50, 20), ("dog",)),
)


def make_run(
    folder: pathlib.Path,
    get_config,
    root: pathlib.Path,
    *,
    cam_scales: tuple[float, ...] = (1.0,),
    depth: int = 2,
) -> pathlib.Path:
    """A run's folder with random weights that tell classes apart, for photos of about 32 pixels."""
    config = get_config("deit_tiny")
    config.backbone = f"width=24,depth={depth},heads=2,patch=8"
    config.aux_layer = -2
    config.decoder_width = 8
    config.decoder_dilation = 1
    config.crop_size = 32
    config.cam_scales = cam_scales
    config.batch_size = 4
    config.data.root = str(root)
    config.machine.num_threads = 2
    model = make_model(config, grid=4)
    shapes = jax.eval_shape(lambda key: step.init_params(model, key), jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: 0.3 * rng.standard_normal(x.shape, np.float32), shapes)
    saved.save_run(folder, config, step.init_state(config, params))
    return folder


def make_devkit(root: pathlib.Path) -> pathlib.Path:
    """VOCdevkit/VOC2012 of `PHOTOS`; both `val` and `train` list them all."""
    root = root / "VOCdevkit" / "VOC2012"
    lists = root / "ImageSets" / "Segmentation"
    for folder in ("JPEGImages", "Annotations", "SegmentationClassAug"):
        (root / folder).mkdir(parents=True)
    lists.mkdir(parents=True)
    for i, (name, size, classes) in enumerate(PHOTOS):
        Image.fromarray(photo(size, i)).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
        objects = "".join(f"<object><name>{c}</name></object>" for c in classes)
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")
        mask = np.zeros(size, np.uint8)
        for k, label in enumerate(classes):
            mask[4 + 8 * k : 10 + 8 * k, 3:-3] = VOC_CLASSES.index(label) + 1
        mask[:2] = 255
        picture = Image.fromarray(mask)
        picture.putpalette([90, 0, 0, 0, 128, 0] * 128)
        picture.save(root / "SegmentationClassAug" / f"{name}.png")
    for split in ("val", "train"):
        (lists / f"{split}.txt").write_text("\n".join(name for name, _, _ in PHOTOS) + "\n")
    return root


def photo(size: tuple[int, int], seed: int) -> np.ndarray:
    """Smooth blobs of colour, uint8 `[*size, 3]`."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BILINEAR))


@contextmanager
def compilation_cache() -> Iterator[None]:
    """Keeps small programs in the tests' cache too, so that each is compiled once."""
    settings = {
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
