"""Makes SegmentationClassAug from the Semantic Boundaries Dataset's .mat files."""

import pathlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from toco_jax.data.classes import VOC_CLASSES
from toco_jax.data.files import READERS
from toco_jax.data.labels import read_mask
from toco_jax.data.mask_files import write_mask
from toco_jax.runtime.errors import DataError


def prepare_sbd(root: pathlib.Path, sbd: pathlib.Path) -> Iterator[tuple[int, int]]:
    """Fills <root>/SegmentationClassAug with the masks of VOC and those of SBD.

    If both have an image, VOC's own mask is taken, as it is finer and has ignored borders. Masks
    that are there are kept, so a run that was stopped goes on where it stopped.

    Args:
        root: the devkit, .../VOCdevkit/VOC2012.
        sbd: folder of SBD, with `cls/*.mat` in it or in its `dataset`.

    Yields:
        (masks done, masks in all), the first time before any is written.

    Raises:
        DataError: no .mat file, a damaged one, or scipy is not installed.
    """
    own = root / "SegmentationClass"
    if not own.is_dir():
        raise DataError(f"{own} is no folder; unpack the VOC 2012 devkit and give its VOC2012")
    sources = {path.stem: path for path in own.glob("*.png")}
    mats = _mat_files(sbd)
    sources = {path.stem: path for path in mats} | sources
    folder = root / "SegmentationClassAug"
    folder.mkdir(exist_ok=True)
    there = {path.stem for path in folder.glob("*.png")}
    missing = [path for name, path in sorted(sources.items()) if name not in there]
    loadmat = _loadmat()

    def convert(path: pathlib.Path) -> None:
        is_mat = path.suffix == ".mat"
        mask = read_mat(path, loadmat) if is_mat else read_mask(path, len(VOC_CLASSES))
        write_mask(folder / f"{path.stem}.png", mask)

    done = len(sources) - len(missing)
    yield done, len(sources)
    with ThreadPoolExecutor(READERS) as threads:
        for _ in threads.map(convert, missing):
            done += 1
            yield done, len(sources)


def _mat_files(sbd: pathlib.Path) -> list[pathlib.Path]:
    for folder in (sbd / "cls", sbd / "dataset" / "cls"):
        files = sorted(folder.glob("*.mat"))
        if files:
            return files
    raise DataError(f"{sbd} holds no cls/*.mat; unpack SBD's benchmark.tgz and give its folder")


def _loadmat() -> Any:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise DataError(
            "reading SBD's .mat files needs scipy, which is not installed: pip install scipy"
        ) from error
    return loadmat


def read_mat(path: pathlib.Path, loadmat: Any) -> np.ndarray:
    """Reads labels uint8 [H, W] in 0..20 from one of SBD's `cls` files."""
    try:
        mask = np.asarray(loadmat(path)["GTcls"]["Segmentation"][0, 0])
        whole = np.isin(mask, np.arange(len(VOC_CLASSES) + 1)).all()
        mask.astype(float)  # no text
    except Exception as error:  # a damaged file raises whatever scipy stumbles over
        raise DataError(
            f"{path} is not a class annotation of SBD ({type(error).__name__}: {error}); unpack "
            "benchmark.tgz again"
        ) from error
    if mask.ndim != 2 or mask.size == 0 or not whole:
        raise DataError(
            f"{path} holds values of shape {mask.shape} that are not labels 0..{len(VOC_CLASSES)}; "
            "unpack benchmark.tgz again"
        )
    return mask.astype(np.uint8)
