import itertools
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest

from toco_jax.data import pipeline
from toco_jax.runtime.errors import DataError


class Noise:
    """Record source of ten images of noise; `broken` is the index of one that cannot be read."""

    split = "train"
    class_names = ("a", "b", "c")
    num_present = 1
    names = tuple(f"noise_{i}" + "x" * i for i in range(10))

    def __init__(self, masks=False, broken=None, slow=False):
        self.masks, self.broken, self.slow = masks, broken, slow

    def __len__(self):
        return len(self.names)

    def __getitem__(self, i):
        if i == self.broken:
            raise DataError("image noise.jpg cannot be decoded; replace the file")
        if self.slow:
            time.sleep(0.002 * ((7 * i) % 5))  # lets threads finish out of order
        rng = np.random.default_rng(i)
        height, width = 20 + i, 30 - i
        label = np.zeros(3, np.float32)
        label[i % 3] = 1
        record = {"name": self.names[i], "cls_label": label}
        record["image"] = rng.integers(0, 256, (height, width, 3), np.uint8)
        if self.masks:
            record["mask"] = np.full((height, width), i % 4, np.uint8)
        return record


def _train(count, source=None, **changes):
    arguments = {"seed": 7, "start_step": 0, "batch_size": 4, "crop_size": 16, "num_threads": 0}
    arguments |= {"as_published": False} | changes
    batches = pipeline.train_batches(source or Noise(), **arguments)
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken


def _eval(source=None, **changes):
    arguments = {"batch_size": 4, "size": 16, "num_threads": 0} | changes
    return list(pipeline.eval_batches(source or Noise(masks=True), **arguments))


def test_an_image_may_be_squashed_to_one_pixel():
    (batch, *_) = _eval(size=1)
    assert batch["image"].shape == (4, 1, 1, 3)


def _assert_equal(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for key, value in batch.items():
            assert len(value) == len(other[key]), key
            for one, same in zip(value, other[key], strict=True):
                np.testing.assert_array_equal(one, same, err_msg=key)


def _concatenate(per_process):
    """Lists of batches, one list a process -> list of global batches."""
    return [
        {key: [item for part in parts for item in part[key]] for key in parts[0]}
        for parts in zip(*per_process, strict=True)
    ]


@pytest.fixture(scope="module")
def stream():
    """Eight batches of four: three epochs of ten and a bit."""
    return _train(8)


def test_train_batch_is_as_agreed(stream):
    batch = stream[0]
    assert set(batch) == {"image", "view2", "local", "cls_label", "valid_box", "name"}
    for key in ("image", "view2", "local"):
        assert batch[key].shape == (4, 16, 16, 3) and batch[key].dtype == np.uint8
    assert batch["valid_box"].shape == (4, 4) and batch["valid_box"].dtype == np.int32
    assert batch["cls_label"].shape == (4, 3) and batch["cls_label"].dtype == np.float32
    assert [Noise.names.index(name) % 3 for name in batch["name"]] == batch["cls_label"].argmax(
        1
    ).tolist()


@pytest.mark.parametrize("num_threads", [2, 8])
def test_train_stream_does_not_depend_on_threads(stream, num_threads):
    _assert_equal(stream, _train(8, Noise(slow=True), num_threads=num_threads))


@pytest.mark.parametrize("process_count", [2, 4])
def test_train_stream_does_not_depend_on_processes(stream, process_count):
    parts = [
        _train(8, process_index=i, process_count=process_count, num_threads=2)
        for i in range(process_count)
    ]
    assert parts[0][0]["image"].shape[0] == 4 // process_count
    _assert_equal(stream, _concatenate(parts))


@pytest.mark.parametrize("start_step", [1, 5])
def test_train_stream_resumes_within_an_epoch(stream, start_step):
    _assert_equal(stream[start_step:], _train(8 - start_step, start_step=start_step))
    second = _train(8 - start_step, start_step=start_step, process_index=1, process_count=2)
    tails = [{key: value[2:] for key, value in batch.items()} for batch in stream[start_step:]]
    _assert_equal(tails, second)


def test_each_epoch_has_every_record_once_in_another_order(stream):
    names = [name for batch in stream for name in batch["name"]]
    epochs = [tuple(names[i : i + 10]) for i in (0, 10, 20)]
    assert all(sorted(epoch) == sorted(Noise.names) for epoch in epochs)
    assert len({*epochs, Noise.names}) == 4


def test_a_record_is_augmented_anew_each_epoch(stream):
    views = [
        batch["view2"][i].tobytes()
        for batch in stream
        for i, name in enumerate(batch["name"])
        if name == Noise.names[3]
    ]
    assert len(views) >= 3 and len(set(views)) == len(views)


def test_seeds_give_other_streams(stream):
    others = [_train(3, seed=seed) for seed in (8, 9)]
    orders = {tuple(n for batch in run[:3] for n in batch["name"]) for run in (stream, *others)}
    assert len(orders) == 3


def test_train_options_reach_the_views(stream):
    enlarged = _train(3, scale_range=(1.9, 2.0))
    assert all((batch["valid_box"] == [0, 16, 0, 16]).all() for batch in enlarged)
    assert not all((batch["valid_box"] == [0, 16, 0, 16]).all() for batch in stream)
    _assert_equal(stream[:3], _train(3, scale_range=(0.5, 2.0), blur_sigma=(0.1, 2.0)))
    published = _train(3, as_published=True)
    assert [b["name"] for b in published] == [b["name"] for b in stream[:3]]
    assert not np.array_equal(published[0]["image"], stream[0]["image"])


def test_one_record_and_batches_beyond_an_epoch():
    class One(Noise):
        names = Noise.names[:1]

    batch = _train(1, One(), batch_size=3)[0]
    assert batch["name"] == [Noise.names[0]] * 3
    assert not np.array_equal(batch["view2"][0], batch["view2"][1])


@pytest.mark.parametrize("num_threads", [0, 2])
def test_errors_of_a_record_arrive_as_they_are(num_threads):
    with pytest.raises(DataError) as in_training:
        _train(3, Noise(broken=4), num_threads=num_threads)
    with pytest.raises(DataError) as in_evaluation:
        _eval(Noise(broken=9), num_threads=num_threads)
    for caught in (in_training, in_evaluation):
        assert str(caught.value) == "image noise.jpg cannot be decoded; replace the file"


def test_close_stops_the_threads():
    def reading():
        return [t for t in threading.enumerate() if t.name.startswith("grain-prefetch")]

    before = set(reading())
    batches = pipeline.train_batches(
        Noise(), seed=0, start_step=0, batch_size=4, crop_size=16, as_published=False, num_threads=3
    )
    next(batches)
    started = set(reading()) - before
    assert started
    batches.close()
    for thread in started:
        thread.join(timeout=20)
    assert not any(thread.is_alive() for thread in started)
    with pytest.raises(ValueError, match="closed"):
        next(batches)


def test_leaving_the_program_without_close_is_clean():
    program = """
import numpy as np
from toco_jax.data import pipeline
class Grey:
    class_names, names, split, num_present = ("a",), tuple("abcdefgh"), "train", 1
    def __len__(self): return 8
    def __getitem__(self, i):
        image = np.full((64, 64, 3), i, np.uint8)
        return {"name": "x", "image": image, "cls_label": np.ones(1, "f")}
batches = pipeline.train_batches(Grey(), seed=0, start_step=0, batch_size=8, crop_size=64,
                                 as_published=False, num_threads=4)
for _ in range(3): next(batches)
print("left")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "left\n", "")


@pytest.fixture(scope="module")
def evaluated():
    return _eval()


def test_eval_goes_through_the_split_once_in_order_and_pads(evaluated):
    assert [len(batch["name"]) for batch in evaluated] == [4, 4, 2]
    assert [name for batch in evaluated for name in batch["name"]] == list(Noise.names)
    for batch in evaluated:
        assert set(batch) == {"image", "cls_label", "valid", "name", "mask"}
        assert batch["image"].shape == (4, 16, 16, 3) and batch["image"].dtype == np.uint8
        assert batch["cls_label"].shape == (4, 3) and batch["cls_label"].dtype == np.float32
        assert batch["valid"].shape == (4,) and batch["valid"].dtype == bool
    last = evaluated[-1]
    assert last["valid"].tolist() == [True, True, False, False]
    assert not last["image"][2:].any() and not last["cls_label"][2:].any()


def test_eval_masks_stay_at_native_size(evaluated):
    source = Noise(masks=True)
    masks = [mask for batch in evaluated for mask in batch["mask"]]
    assert len(masks) == 10
    for i, mask in enumerate(masks):
        np.testing.assert_array_equal(mask, source[i]["mask"])


def test_eval_squashes_like_a_half_pixel_bilinear_resize(evaluated):
    source = Noise()
    for i in range(4):
        image = source[i]["image"].astype(np.float32)
        expected = jax.image.resize(image, (16, 16, 3), "bilinear", antialias=False)
        assert np.abs(evaluated[0]["image"][i] - np.asarray(expected)).max() <= 1


@pytest.mark.parametrize("num_threads", [2, 8])
def test_eval_does_not_depend_on_threads(evaluated, num_threads):
    _assert_equal(evaluated, _eval(Noise(masks=True, slow=True), num_threads=num_threads))


def test_eval_without_masks():
    assert [batch["mask"] for batch in _eval(Noise())] == [[], [], []]


# Broken records that are passed over.


def _skipping(count, source, **changes):
    return _train(count, source, on_error="skip", **changes)


def test_skipping_changes_nothing_where_nothing_is_broken(stream):
    skipped = _skipping(8, Noise())
    assert all(batch.pop("skipped").tolist() == [0] * 4 for batch in skipped)
    _assert_equal(stream, skipped)


def test_a_broken_record_is_replaced_by_the_next_and_counted(stream):
    batches = _skipping(8, Noise(broken=4))
    for batch, sound in zip(batches, stream, strict=True):
        assert batch["skipped"].dtype == np.int32
        for i, name in enumerate(sound["name"]):
            broken = name == Noise.names[4]
            assert batch["skipped"][i] == broken
            assert batch["name"][i] == (Noise.names[5] if broken else name)
    assert sum(batch["skipped"].sum() for batch in batches) == 3  # once an epoch
    for changes in ({"num_threads": 4}, {"start_step": 3}):
        start = changes.get("start_step", 0)
        _assert_equal(batches[start:], _skipping(8 - start, Noise(broken=4), **changes))


def test_skipping_wraps_around_and_logs_each_broken_record_once(caplog):
    batches = _skipping(5, Noise(broken=9))
    replaced = [
        name
        for batch in batches
        for name, count in zip(batch["name"], batch["skipped"], strict=True)
        if count
    ]
    assert replaced == [Noise.names[0]] * 2
    assert [r.message for r in caplog.records] == [
        "skipped: image noise.jpg cannot be decoded; replace the file"
    ]


def test_skipping_gives_up_where_all_is_broken():
    class Broken(Noise):
        def __getitem__(self, i):
            raise DataError(f"image {i} is broken; replace it")

    with pytest.raises(DataError, match="10 broken records in a row are too many to skip; the las"):
        _skipping(1, Broken())
