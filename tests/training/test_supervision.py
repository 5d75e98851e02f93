"""Training on given masks alone: where they come from, what the loss is, and that it is learnt."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from eight_devices import make_batch
from PIL import Image

from toco_jax.config import ConfigError
from toco_jax.data import check
from toco_jax.method import losses
from toco_jax.method.phases import phase_at
from toco_jax.run.network import make_model
from toco_jax.runtime.errors import DataError
from toco_jax.runtime.sharding import make_mesh, shard_batch
from toco_jax.training import start, step

ALONE = {f"loss_weights.{term}": ((0, 0.0),) for term in ("cls_aux", "ptc", "ctc", "seg", "reg")}
ALONE |= {"loss_weights.sup": ((0, 1.0),)}


def test_cross_entropy_by_hand():
    logits = jnp.log(jnp.array([[[[0.5, 0.5], [0.25, 0.75], [0.1, 0.9], [0.5, 0.5]]]]))
    loss = jax.jit(jax.value_and_grad(losses.cross_entropy))
    expected = -(np.log(0.5) + np.log(0.75) + np.log(0.1)) / 3
    for dtype in (np.uint8, np.uint16, np.int32):
        value, grad = loss(logits, np.array([[[0, 1, 0, 255]]], dtype))
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        assert not np.asarray(grad)[0, 0, 3].any()
    value, grad = loss(logits, np.full((1, 1, 4), 2, np.uint8))  # two labels: 2 is none
    assert float(value) == 0 and not np.asarray(grad).any()


def test_an_image_without_a_mask_changes_nothing_in_its_group():
    """The mean is over the labelled pixels of a group; one without any is 0, as its gradient."""
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.standard_normal((2, 4, 4, 3)), jnp.float32)
    label = rng.integers(0, 3, (2, 4, 4)).astype(np.uint8)

    @jax.jit
    @jax.value_and_grad
    def loss(logits, label):
        return losses.by_group(losses.cross_entropy, logits, label, group_size=2)

    half = label.copy()
    half[1] = 255
    value, grad = loss(logits, half)
    np.testing.assert_allclose(
        value, losses.cross_entropy(logits[:1], jnp.asarray(label[:1])), rtol=1e-6
    )
    assert np.asarray(grad)[0].all() and not np.asarray(grad)[1].any()
    value, grad = loss(logits, np.full_like(label, 255))
    assert float(value) == 0 and not np.asarray(grad).any()
    both = loss(jnp.concatenate([logits, logits]), np.concatenate([half, np.full_like(half, 255)]))
    np.testing.assert_allclose(2 * both[0], loss(logits, half)[0], rtol=1e-6)


def test_a_mask_is_learnt(tiny_config):
    config = tiny_config(warmup_steps=0, total_steps=1000, learning_rate=1e-2, **ALONE)
    model, mesh = make_model(config, grid=4), make_mesh(1)
    train_step = step.make_train_step(config, model, mesh, phase_at(config, 0), num_present=4)
    params = step.init_params(model, jax.random.key(0))
    state = step.place_state(config, step.init_state(config, params), mesh)
    mask = np.zeros((4, 32, 32), np.uint8)
    mask[:, :, 16:], mask[:, :4] = 3, 255
    batch = shard_batch(make_batch(0, 4) | {"mask": mask}, mesh)
    found = []
    for _ in range(30):
        state, terms = train_step(state, batch)
        found.append(float(terms["sup"]))
    assert set(terms) == {"cls", "sup", "total", step.LEFT_OUT}
    assert found[0] == pytest.approx(np.log(5), abs=0.5)
    assert found[-1] < 0.5 * found[0]
    state, terms = train_step(state, batch | {"mask": jnp.full_like(batch["mask"], 255)})
    assert float(terms["sup"]) == 0 and float(terms[step.LEFT_OUT]) == 0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))


@pytest.fixture
def folder(tmp_path):
    """Two images of train and one of val with masks, and other masks of train in `better`."""
    rng = np.random.default_rng(0)
    for name, masks in (("a", ("masks", "better")), ("b", ("masks", "better")), ("c", ("masks",))):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(tmp_path / f"{name}.jpg")
        for place in masks:
            (tmp_path / place).mkdir(exist_ok=True)
            mask = np.full((40, 40), 1 if place == "masks" else 2, np.uint8)
            mask[:20] = 0
            Image.fromarray(mask).save(tmp_path / place / f"{name}.png")
    (tmp_path / "labels.csv").write_text(
        "file,labels\na.jpg,cat;dog\nb.jpg,cat;dog\nc.jpg,cat;dog\n"
    )
    for split, names in (("train", "a\nb\n"), ("val", "c\n")):
        (tmp_path / f"{split}.txt").write_text(names)
    return tmp_path


@pytest.fixture
def config_of(folder, tiny_config):
    source = {"data.source": "folder", "data.root": str(folder), "num_classes": 0}
    return functools.partial(tiny_config, **source, **ALONE)


def test_masks_of_training_may_lie_elsewhere(config_of, capsys):
    source, val_source = start.open_sources(config_of(**{"data.train_masks": "better"}))
    assert set(np.unique(source[0]["mask"])) == {0, 2}
    assert set(np.unique(val_source[0]["mask"])) == {0, 1}
    assert "2 of them have a mask" in capsys.readouterr().out


def test_masks_of_validation_are_those_of_training_by_default(config_of):
    source, _ = start.open_sources(config_of())
    assert {path.parent.name for path in source.masks} == {"masks"}


def test_without_a_mask_there_is_nothing_to_train_on(config_of, folder):
    for path in (folder / "masks").iterdir():
        path.unlink()
    (folder / "masks").rmdir()
    with pytest.raises(ConfigError, match=r"sup=.* needs masks, .*'train'.*data\.train_masks"):
        start.open_sources(config_of())


def test_images_without_a_mask_are_counted_and_contribute_nothing(config_of, folder, capsys):
    config = config_of(**{"data.train_masks": "better"})
    (folder / "better" / "a.png").unlink()
    source, _ = start.open_sources(config)
    said = "1 of them have a mask, for the loss term sup; the other 1 contribute nothing to it\n"
    assert said in capsys.readouterr().out
    assert (source[0]["mask"] == 255).all() and set(np.unique(source[1]["mask"])) == {0, 2}
    _, problems = check.check(config, threads=1, show=lambda _, steps: list(steps))
    (found,) = [problem for problem in problems if problem.kind == "masks"]
    assert found.message == (
        "1 of the 2 images of 'train' have no mask (a) and contribute nothing to the loss term sup"
    )
    assert not found.fatal and found.names == ("a",)
    # Neither folder of masks is taken for one of images.
    assert {problem.kind for problem in problems} == {"masks", "label says more"}


def test_the_check_stops_where_training_would(config_of, folder):
    def fatal(config):
        _, problems = check.check(config, threads=1, show=lambda _, steps: list(steps))
        return [problem.message for problem in problems if problem.fatal]

    config = config_of(**{"data.train_masks": "better"})
    assert fatal(config) == []
    (folder / "better" / "a.png").write_bytes(b"no picture")
    (message,) = fatal(config)
    assert "a.png" in message
    config.loss_weights.sup = ((0, 0.0),)  # then no mask of training is read
    assert fatal(config) == []
    for name in "ab":
        (folder / "better" / f"{name}.png").unlink()
    config.loss_weights.sup = ((0, 1.0),)
    (message,) = fatal(config)
    assert message.startswith("2 of the 2 images of 'train' have no mask, and the loss term sup")


def test_images_of_validation_need_their_masks(config_of, folder):
    (folder / "masks" / "c.png").unlink()
    with pytest.raises(DataError, match=r"c\.png is missing"):
        start.open_sources(config_of())


def test_folders_of_masks_are_no_classes(tmp_path, config_of):
    for name, value in (("cat/a", 1), ("cat/b", 1), ("dog/c", 2), ("dog/d", 2)):
        for place, pixels in (("", (40, 40, 3)), ("drawn/", (40, 40)), ("masks/", (40, 40))):
            path = tmp_path / f"own/{place}{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full(pixels, value, np.uint8)).save(path)
    (tmp_path / "own" / "train.txt").write_text("cat/a\ndog/c\n")
    (tmp_path / "own" / "val.txt").write_text("cat/b\ndog/d\n")
    found = {"data.root": str(tmp_path / "own"), "data.train_masks": "drawn"}
    for source, place in zip(
        start.open_sources(config_of(**found)), ("drawn", "masks"), strict=True
    ):
        assert source.class_names == ("cat", "dog")
        assert {path.parent.parent.name for path in source.masks} == {place}
