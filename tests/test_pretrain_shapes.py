import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from toco_jax import pretrain_shapes as pretraining
from toco_jax.data.sources.shapes import TEXTURES
from toco_jax.models.backbones import backbone_from_name
from toco_jax.models.vit import ViT, sincos_positions


@pytest.fixture(scope="module")
def encoder_shapes():
    encoder = ViT(backbone_from_name(pretraining.BACKBONE), pretraining.GRID)
    image = jnp.zeros((1, 80, 80, 3))
    params = jax.eval_shape(encoder.init, jax.random.key(0), image)["params"]
    return {k: v.shape for k, v in traverse_util.flatten_dict({"encoder": params}, sep="/").items()}


def test_mosaics_carry_each_tiles_label_at_its_place(monkeypatch):
    made = iter(range(8))

    def numbered(size, rng, *, zoom):
        i = next(made)
        return np.full((size, size, 3), i, np.uint8), i

    monkeypatch.setattr(pretraining, "single", numbered)
    images, labels = pretraining.mosaic_batch(None, 2, 2, 3, 1.0)
    assert images.shape == (2, 6, 6, 3)
    np.testing.assert_array_equal(images[:, ::3, ::3, 0], labels)
    np.testing.assert_array_equal(images[:, 2::3, 2::3, 0], labels)


def test_a_label_of_0_is_a_plain_object(monkeypatch):
    drawn = []
    monkeypatch.setattr(pretraining, "draw", lambda canvas, thing, rng: drawn.append(thing))
    rng = np.random.default_rng(1)
    labels = [pretraining.single(24, rng, zoom=1.0)[1] for _ in range(30)]
    assert [thing.texture for thing in drawn] == [(None, *TEXTURES)[label] for label in labels]
    assert set(labels) == set(range(len(TEXTURES) + 1))


def test_images_are_a_function_of_the_generator():
    first, again = (
        pretraining.mosaic_batch(np.random.default_rng(7), 2, 2, 24, 1.0) for _ in range(2)
    )
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)


def test_pool_takes_the_largest_patches_of_each_tile_after_a_0():
    grid = np.zeros((4, 4, 1), np.float32)
    grid[:2, :2, 0] = [[1, 2], [3, 4]]
    grid[2:, 2:, 0] = [[8, 0], [0, 4]]
    logits = jnp.asarray(grid.reshape(1, 16, 1))  # [1, 16, 1]
    half = pretraining.pool_tiles(logits, 2, 0.5)[0]
    np.testing.assert_allclose(half[..., 1], [[3.5, 0], [0, 6]])
    whole = pretraining.pool_tiles(logits, 2, 1.0)[0]
    np.testing.assert_allclose(whole[..., 1], [[2.5, 0], [0, 3]])
    np.testing.assert_array_equal(whole[..., 0], 0)


def test_stages_give_zoomed_objects_then_mosaics_small_and_large():
    batches = list(pretraining.stages((1, 2, 1), np.random.default_rng(0), 8))
    sizes = [images.shape[:2] for images, *_ in batches]
    assert sizes == [(8, 24), (1, 72), (1, 72), (2, 80)]
    tiles = [labels.shape for _, labels, _ in batches]
    assert tiles == [(8, 1, 1), (1, 3, 3), (1, 3, 3), (2, 2, 2)]
    assert [share for *_, share in batches] == [1.0] + [1 / 3] * 3


def test_two_steps_train_and_write_a_file_that_loads(tmp_path, capsys):
    small = "width=12,depth=4,heads=3,patch=8"
    params, accuracy = pretraining.pretrain(seed=3, steps=(2, 0, 0), batch=4, backbone=small)
    assert 0 <= accuracy <= 100
    assert "step 2/2" in capsys.readouterr().out
    start = sincos_positions(pretraining.GRID, 12)
    np.testing.assert_array_equal(params["encoder"]["pos_embed"], start)  # never trained
    bias = params["encoder"]["blocks_0"]["attn"]["qkv"]["bias"]
    assert float(jnp.abs(bias).max()) > 0  # starts at 0

    path = tmp_path / "new" / "encoder.npz"
    pretraining.save_encoder(path, params, {"seed": 3})
    flat = traverse_util.flatten_dict({"encoder": params["encoder"]}, sep="/")
    with np.load(path) as stored:
        assert json.loads(str(stored["metadata"])) == {"seed": 3}
        assert set(stored) == {*flat, "metadata"}
        for name, value in flat.items():
            np.testing.assert_allclose(stored[name], value, rtol=1e-3, atol=1e-6)


def test_shipped_encoder_fits_the_backbone_and_says_how_it_was_made(encoder_shapes):
    assert pretraining.OUT.stat().st_size < 3e6
    with np.load(pretraining.OUT) as stored:
        metadata = json.loads(str(stored["metadata"]))
        arrays = {k: stored[k] for k in stored if k != "metadata"}
    assert {k: v.shape for k, v in arrays.items()} == encoder_shapes
    assert all(v.dtype == np.float16 and np.isfinite(v).all() for v in arrays.values())
    assert metadata["backbone"] == pretraining.BACKBONE
    assert metadata["command"].startswith("python -m toco_jax.pretrain_shapes --seed")
    assert metadata["accuracy"] > 80
