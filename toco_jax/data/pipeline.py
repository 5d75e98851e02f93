"""Makes batches from a record source, with grain's threads.

A training stream is a pure function of (seed, step): it does not depend on the number of threads or
processes, and starts anywhere with nothing to restore. Batch k of all processes, concatenated in
process order, is the global batch k.

All functions return an iterator with `close()`, which stops its threads; a program may also end
without closing it. `next()` raises the error of a record unchanged, after which the iterator cannot
be used.
"""

import logging
import sys
from collections.abc import Iterator
from typing import Any

import cv2
import grain
import numpy as np

from toco_jax.data import augment
from toco_jax.runtime.errors import DataError

Batch = dict[str, Any]

# With so many broken records in a row, the data set itself is broken.
_MOST_SKIPPED = 100

_PASSED_ON = ("name", "cls_label", "skipped")


def train_batches(
    source: Any,
    *,
    seed: int,
    start_step: int,
    batch_size: int,
    crop_size: int,
    as_published: bool,
    num_threads: int,
    scale_range: tuple[float, float] = (0.5, 2.0),
    blur_sigma: tuple[float, float] = (0.1, 2.0),
    mask_border: int = 0,
    on_error: str = "raise",
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator:
    """Yields batches of augmented views without end, reshuffled every epoch.

    Args:
        source: record source, opened with masks if batches are to have them.
        seed: seed of order and augmentation, 0 or more.
        start_step: number of global batches to skip, as if they had been taken before.
        batch_size: size of the global batch; B below is the process's share of it.
        crop_size: side S of the views, in pixels.
        as_published: see `augment.make_views`.
        num_threads: 0 reads in the caller's thread.
        scale_range: range of the rescaling factor before the base crop.
        blur_sigma: range of the standard deviation of blurs, in pixels.
        mask_border: pixels of masks so near to another label are ignored.
        on_error: "raise" stops at a record that cannot be read; "skip" replaces it by the next one
            of the source, logs each broken record once and counts them.
        process_index: which contiguous block of each global batch this process gets.
        process_count: must divide `batch_size`.

    Returns:
        Iterator of {"image", "view2", "local": uint8 [B, S, S, 3], "cls_label": float32 [B, C],
        "valid_box": int32 [B, 4] as (y0, y1, x0, x1), "name": list of B str}; with "skip" also
        "skipped": int32 [B], broken records passed over on the way to each; with masks also "mask":
        uint8 or uint16 [B, S, S], labels of "image", above C where they are to be ignored.
    """
    share = batch_size // process_count

    def views(record: dict, rng: np.random.Generator) -> dict:
        drawn = augment.make_views(
            record["image"],
            rng,
            mask=record.get("mask"),
            crop_size=crop_size,
            as_published=as_published,
            scale_range=scale_range,
            blur_sigma=blur_sigma,
        )
        if "mask" in drawn:
            drawn["mask"] = augment.without_borders(drawn["mask"], mask_border)
        kept = {key: record[key] for key in _PASSED_ON if key in record}
        return kept | drawn

    if on_error == "skip":
        source = _Unbroken(source)
    # The generator of a record is keyed by its place in the endless stream, so all slicing by step
    # and process has to happen behind it.
    stream = (
        grain.MapDataset.source(source).seed(seed).shuffle().repeat(None).random_map(views)
    )  # [step * batch_size + place in the global batch]

    def record_at(i: int) -> dict:
        return stream[start_step * batch_size + _global_place(i, batch_size, share, process_index)]

    endless = grain.MapDataset.range(sys.maxsize // batch_size)
    return _iterate(endless.map(record_at), share, num_threads, _stack)


def configured_batches(
    source: Any, config: Any, *, start_step: int, **options
) -> grain.DatasetIterator:
    """Calls `train_batches` with the values of a run's configuration, except for `options`."""
    data = config.data
    chosen = {
        "seed": config.seed,
        "batch_size": config.batch_size,
        "crop_size": config.crop_size,
        "as_published": config.as_published,
        "num_threads": config.machine.num_threads,
        "scale_range": tuple(data.scale_range),
        "blur_sigma": tuple(data.blur_sigma),
        "mask_border": data.mask_border,
        "on_error": data.on_error,
    }
    return train_batches(source, start_step=start_step, **(chosen | options))


def eval_batches(source: Any, *, batch_size: int, size: int, num_threads: int) -> Iterator[Batch]:
    """Yields a split once, in order, with each image squashed to a square.

    Args:
        source: record source, usually opened with masks.
        batch_size: B; the last batch is padded to it.
        size: side of the squashed images (bilinear, half-pixel centres, no antialiasing).
        num_threads: 0 reads in the caller's thread.

    Returns:
        Iterator of {"image": uint8 [B, size, size, 3], "cls_label": float32 [B, C], "valid": bool
        [B], "name": list of str, "mask": list of uint8 [H, W] at native size}. Valid records come
        first; the lists hold those only, and "mask" is empty if the source has no masks.

    """
    padding = {
        "image": np.zeros((size, size, 3), np.uint8),
        "cls_label": np.zeros(len(source.class_names), np.float32),
        "valid": False,
    }

    def record_at(i: int) -> dict:
        if i >= len(source):
            return padding
        record = source[i]
        image = cv2.resize(record["image"], (size, size), interpolation=cv2.INTER_LINEAR)
        return {**record, "image": image, "valid": True}

    num_batches = -(-len(source) // batch_size)
    records = grain.MapDataset.range(num_batches * batch_size).map(record_at)
    return _iterate(records, batch_size, num_threads, _stack_eval)


class _Unbroken:
    """A record source that gives the next record in place of a broken one."""

    def __init__(self, source: Any):
        self._source = source
        self._reported: set[str] = set()

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, i: int) -> dict:
        count = len(self._source)
        for skipped in range(min(count, _MOST_SKIPPED)):
            try:
                record = self._source[(i + skipped) % count]
            except DataError as error:
                last = error
                if str(error) not in self._reported:
                    self._reported.add(str(error))
                    logging.getLogger(__name__).warning("skipped: %s", error)
            else:
                return record | {"skipped": np.int32(skipped)}
        raise DataError(
            f"{min(count, _MOST_SKIPPED)} broken records in a row are too many to skip; the last: "
            f"{last}"
        )


def _global_place(i: int, batch_size: int, share: int, process_index: int) -> int:
    """Returns the position of a process's i-th record in the stream of global batches."""
    batch, offset = divmod(i, share)
    return batch * batch_size + process_index * share + offset


def _iterate(
    records: grain.MapDataset, share: int, num_threads: int, batch_fn: Any
) -> grain.DatasetIterator:
    """Iterates with one batch prepared ahead; more would cost memory (1.8 MB a view at 448)."""
    buffered = max(2 * share, num_threads) if num_threads else 0
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=buffered)
    return iter(records.to_iter_dataset(options).batch(share, batch_fn=batch_fn))


def _stack(records: list[dict]) -> Batch:
    return {
        key: [record[key] for record in records]
        if key == "name"
        else np.stack([record[key] for record in records])
        for key in records[0]
    }


def _stack_eval(records: list[dict]) -> Batch:
    return {
        **{key: np.stack([r[key] for r in records]) for key in ("image", "cls_label", "valid")},
        **{key: [r[key] for r in records if key in r] for key in ("name", "mask")},
    }
