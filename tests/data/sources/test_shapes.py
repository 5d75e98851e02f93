import numpy as np
import pytest

from toco_jax.data.sources import shapes
from toco_jax.data.sources.shapes import SHAPES, TEXTURES, ShapesSource
from toco_jax.demo.baselines import baselines


@pytest.fixture(scope="module")
def records():
    source = ShapesSource("val", masks=True, length=60)
    return [source[i] for i in range(len(source))]


def test_a_record_is_a_function_of_seed_split_and_index():
    first, again = (ShapesSource("train", masks=True, length=8)[5] for _ in range(2))
    for key in ("image", "mask", "cls_label"):
        np.testing.assert_array_equal(first[key], again[key])
    assert first["name"] == again["name"] == "train_00005"
    others = (
        ShapesSource("train", masks=True)[4],
        ShapesSource("val", masks=True)[5],
        ShapesSource("train", masks=True, seed=1)[5],
    )
    for other in others:
        assert (first["image"] != other["image"]).mean() > 0.5


def test_every_seed_is_scored_on_the_same_validation_scenes():
    first, other = (ShapesSource("val", masks=True, seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(first[3]["image"], other[3]["image"])
    assert first.seed == other.seed


def test_a_longer_source_has_the_same_scenes_first():
    short, long = ShapesSource("train", masks=False, length=3), ShapesSource("train", masks=False)
    np.testing.assert_array_equal(short[2]["image"], long[2]["image"])
    assert (len(short), len(long)) == (3, 20_000)
    assert long.names[-1] == "train_19999"


def test_records_have_the_shapes_and_types_of_a_record_source(records):
    source = ShapesSource("val", masks=False, size=64, length=2)
    assert "mask" not in source[0]
    assert source[0]["image"].shape == (64, 64, 3)
    record = records[0]
    assert record["image"].shape == (80, 80, 3)
    assert record["mask"].shape == (80, 80)
    assert record["image"].dtype == record["mask"].dtype == np.uint8
    assert record["cls_label"].shape == (len(source.class_names),)
    assert record["cls_label"].dtype == np.float32
    assert source.class_names[0] == "striped disc"


def test_labels_are_the_classes_in_the_mask_and_each_is_well_visible(records):
    for record in records:
        areas = np.bincount(record["mask"].ravel(), minlength=5)[1:]
        np.testing.assert_array_equal(areas > 0, record["cls_label"] > 0)
        assert areas[areas > 0].min() >= 0.02 * 80**2
    labels = np.stack([record["cls_label"] for record in records])
    assert labels.sum(axis=1).max() == ShapesSource.num_present
    assert labels.sum(axis=0).min() > 0


def test_an_object_of_the_mask_carries_its_texture(monkeypatch):
    """Classes painted flat, one grey each, must be found again under their own label."""
    greys = {name: 0.9 - 0.08 * i for i, name in enumerate(TEXTURES)}

    def flat_draw(canvas, thing, rng):
        covered = shapes_draw(canvas, thing, rng)
        canvas[covered > 0] = greys.get(thing.texture, 0.1)
        return covered

    shapes_draw = shapes.draw
    monkeypatch.setattr(shapes, "draw", flat_draw)
    monkeypatch.setattr(shapes, "finish", lambda canvas, rng: canvas[::2, ::2])
    image, mask = shapes.scene(80, np.random.default_rng(3))
    inner = [(mask == c + 1) for c in range(shapes.NUM_CLASSES)]
    for name, inside in zip(TEXTURES, inner, strict=False):
        if inside.any():
            right = np.isclose(image[inside], greys[name], atol=1e-6).mean()
            assert right > 0.9  # the rest is the border's half pixel


@pytest.mark.parametrize("name", TEXTURES)
def test_textures_are_two_valued_and_repeat_within_their_period(name):
    pattern = shapes.texture(name, 96, 96, 8.0, np.random.default_rng(0))
    assert set(np.unique(pattern)) == {0.0, 1.0}
    assert 0.15 < pattern.mean() < 0.75
    changes = (np.diff(pattern, axis=0) != 0).mean() + (np.diff(pattern, axis=1) != 0).mean()
    assert 0.1 < changes < 1  # neither plain nor noise


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_of_equal_radius_are_about_equally_large(name):
    x, y = shapes.outline(name, 10.0, 0.3).T
    area = 0.5 * abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)))
    assert 150 < area < 320  # a disc of radius 10 has 314


def test_unknown_split_is_refused():
    with pytest.raises(ValueError, match=r"'test'.*train or val"):
        ShapesSource("test", masks=False)


class TwoColours:
    """Two images: class 1 is red on the left half of the first, class 2 blue in the second."""

    class_names = ("one", "two")
    seed, size = 0, 4

    def __len__(self):
        return 2

    def __getitem__(self, i):
        image = np.full((4, 4, 3), 128, np.uint8)
        image[:, :2] = (255, 0, 0) if i == 0 else (0, 0, 255)
        mask = np.zeros((4, 4), np.uint8)
        mask[:, :2] = i + 1
        return {"image": image, "mask": mask, "cls_label": np.eye(2, dtype=np.float32)[i]}


def test_baselines_by_hand():
    out = baselines(TwoColours(), TwoColours())
    # Half of all pixels are background: its IoU is 1/2, the classes' are 0.
    assert out["all_background"] == pytest.approx(100 / 6)
    assert out["colour"] == out["colour_memorised"] == pytest.approx(100)


def test_a_colour_seen_in_both_classes_is_told_apart_by_the_labels_alone():
    class OneColour(TwoColours):
        def __getitem__(self, i):
            record = super().__getitem__(i)
            record["image"][:, :2] = (255, 0, 0)
            return record

    assert baselines(OneColour(), OneColour())["colour"] == pytest.approx(100)

    class BothLabels(OneColour):
        def __getitem__(self, i):
            return super().__getitem__(i) | {"cls_label": np.ones(2, np.float32)}

    # Red goes to one class everywhere: IoU 1 for the background, 1/2 and 0 for the classes.
    assert baselines(BothLabels(), BothLabels())["colour"] == pytest.approx(50)


def test_no_class_of_the_scenes_is_told_by_its_colour():
    source = ShapesSource("val", masks=True, length=40)
    out = baselines(source, ShapesSource("train", masks=True, length=80))
    assert out["colour"] < 30
    assert out["all_background"] < 15
