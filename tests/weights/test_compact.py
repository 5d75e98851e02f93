"""Compact files: weights of 8 bits with scales, read wherever a file of weights is."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from toco_jax.runtime.errors import WeightsError
from toco_jax.weights import compact, files


def state_dict():
    rng = np.random.default_rng(0)
    shapes = {
        "classifier.weight": (3, 4, 1, 1),
        "decoder.conv6.weight": (5, 4, 3, 3),
        "encoder.blocks.0.mlp.fc1.bias": (7,),
        "encoder.pos_embed": (1, 5, 4),
        "encoder.head.weight": (10, 4),
        "proj_head.mlp.0.weight": (6, 4),
        "proj_head_t.last_layer.weight_g": (8, 1),
    }
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def test_numbers_move_by_less_than_half_a_step():
    tensors = state_dict()
    tensors["decoder.conv6.weight"][2] *= 1000  # an output does not coarsen the others
    tensors["classifier.weight"][1] = 0
    stored = compact.packed(tensors)
    assert {name for name, value in stored.items() if value.dtype == np.int8} == {
        "classifier.weight",
        "decoder.conv6.weight",
    }
    back = compact.unpacked(stored)
    assert back.keys() == tensors.keys() - {
        "encoder.head.weight",
        "proj_head.mlp.0.weight",
        "proj_head_t.last_layer.weight_g",
    }
    for name in ("encoder.blocks.0.mlp.fc1.bias", "encoder.pos_embed"):
        np.testing.assert_array_equal(back[name], tensors[name])
    for name in ("classifier.weight", "decoder.conv6.weight"):
        assert back[name].dtype == np.float32
        for ours, theirs in zip(back[name], tensors[name], strict=True):
            assert np.abs(ours - theirs).max() <= np.abs(theirs).max() / 254 * (1 + 1e-6)
    assert not back["classifier.weight"][1].any()


def test_a_compact_file_is_read_as_float32(tmp_path):
    tensors = state_dict()
    save_file(compact.packed(tensors), tmp_path / "small.safetensors")
    read = files.read(tmp_path / "small.safetensors").tensors
    expected = compact.unpacked(compact.packed(tensors))
    assert read.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(read[name], value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classifier.weight:scales": np.ones((3, 1), np.float32)}, r"has the shape \(3, 1\)"),
        ({"other:scales": np.ones((3, 1), np.float32)}, "other:scales belongs to no tensor"),
    ],
)
def test_damaged_files_are_refused(tmp_path, change, message):
    save_file(compact.packed(state_dict()) | change, tmp_path / "small.safetensors")
    with pytest.raises(WeightsError, match=f"small.safetensors: .*{message}"):
        files.read(tmp_path / "small.safetensors")
