"""The measures of the figures equal their definitions, written as loops."""

import jax
import numpy as np
import pytest

from toco_jax.inference.analysis.tokens import class_attention, mean_similarity


def by_definition(tokens):
    found = [
        a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        for i, a in enumerate(tokens)
        for j, b in enumerate(tokens)
        if i != j
    ]
    return np.mean(found)


@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_similarity_is_the_mean_over_pairs_of_different_patches(offset):
    tokens = np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32) + offset
    valid = np.array([1, 1, 0, 1, 1, 0, 1], bool)
    expected = by_definition(tokens[valid].astype(np.float64))
    tokens[~valid] = np.inf  # what lies beyond an image has no meaning
    found = jax.jit(mean_similarity)(tokens, valid)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e30])
def test_similarity_of_known_tokens(scale):
    everywhere = np.ones(2, bool)
    same = np.full((4, 3), scale, np.float32)
    np.testing.assert_allclose(mean_similarity(same, np.ones(4, bool)), 1, atol=1e-6)
    opposite = np.array([[scale, scale], [-scale, -scale]], np.float32)
    np.testing.assert_allclose(mean_similarity(opposite, everywhere), -1, atol=1e-6)
    right_angle = np.array([[scale, 0], [0, scale]], np.float32)
    np.testing.assert_allclose(mean_similarity(right_angle, everywhere), 0, atol=1e-6)


def test_zeros_resemble_nothing():
    tokens = np.array([[0, 0], [1, 1], [2, 2]], np.float32)
    np.testing.assert_allclose(mean_similarity(tokens, np.ones(3, bool)), 1 / 3, atol=1e-6)


def test_one_patch_has_no_pair():
    tokens = np.ones((2, 3), np.float32)
    assert np.isnan(mean_similarity(tokens, np.array([True, False])))


def test_attention_of_the_class_token():
    logits = np.random.default_rng(0).standard_normal((2, 6, 6)).astype(np.float32)
    attention = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    patches, leading = class_attention(attention, num_leading=2)
    expected = [sum(attention[head, 0, k] for head in range(2)) / 2 for k in range(6)]
    np.testing.assert_allclose(leading, expected[:2], rtol=1e-6)
    np.testing.assert_allclose(patches, expected[2:], rtol=1e-6)
    np.testing.assert_allclose(patches.sum() + leading.sum(), 1, rtol=1e-6)
