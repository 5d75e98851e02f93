"""Loss terms at ordinary and extreme values: finite, in range, and what must not change them."""

import jax
import numpy as np
import pytest
from extreme_values import (
    BF16,
    FLUSHED,
    arrays,
    assert_finite,
    boxes,
    class_labels,
    label_maps,
    permuted,
    seeds,
)
from hypothesis import given
from hypothesis import strategies as st

from toco_jax.method import cams, losses


def with_grad(loss, argnums=0, **options):
    return jax.jit(jax.value_and_grad(loss, argnums), **options)


soft_margin = with_grad(losses.multilabel_soft_margin)
ptc = with_grad(losses.patch_token_contrast)
ctc = with_grad(losses.class_token_contrast, argnums=(0, 1), static_argnames="temperature")
seg = with_grad(losses.segmentation)
energy = with_grad(losses.dense_energy, argnums=1)
affinity_of = jax.jit(cams.label_to_affinity)
inside_box = jax.jit(cams.inside_box, static_argnums=1)

DTYPES = pytest.mark.parametrize(("num", "dtype"), [(1, np.float32), (3, BF16)])


def close(value, expected):
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


@DTYPES
@given(data=st.data())
def test_soft_margin(num, dtype, data):
    logits = data.draw(arrays((num, 5), dtype=dtype))
    labels = data.draw(class_labels((num, 5), dtype))
    value, grad = soft_margin(logits, labels)
    assert_finite((value, grad))
    assert value.dtype == np.float32 and grad.dtype == dtype
    assert value >= 0
    # Towards the label, and by no more than the share of an entry.
    towards = np.float32(grad) * (1 - 2 * np.float32(labels))
    assert (towards >= 0).all() and (towards <= 1.01 / labels.size).all()
    order, back = permuted(data.draw(seeds()), 5)
    again, grad_again = soft_margin(logits[:, order], labels[:, order])
    close(again, value)
    close(np.float32(grad_again)[:, back], np.float32(grad))


@DTYPES
@given(data=st.data())
def test_patch_token_contrast(num, dtype, data):
    tokens = data.draw(arrays((num, 6, 4), dtype=dtype))
    label = data.draw(label_maps((num, 2, 3), 3))
    affinity = np.asarray(affinity_of(label))
    value, grad = ptc(tokens, affinity)
    assert_finite((value, grad))
    assert grad.dtype == dtype
    assert -1e-5 <= value <= 1 + 1e-5
    order, back = permuted(data.draw(seeds()), 6)
    again, grad_again = ptc(tokens[:, order], affinity[:, order][:, :, order])
    close(again, value)
    # The gradient for a token is one over its length times a sum of numbers up to 1, which for
    # parallel tokens is rounding alone.
    length = np.linalg.norm(np.float64(np.float32(tokens)), axis=-1, keepdims=True)
    near = 1e-4 / np.maximum(length, 1e-8) + 0.02 * np.abs(np.float32(grad)) + FLUSHED
    assert (np.abs(np.float32(grad_again)[:, back] - np.float32(grad)) <= near).all()
    ignored = np.array(label == 255).reshape(num, 6)
    assert not np.float32(grad)[ignored].any()


@given(tokens=arrays((2, 6, 4), low=-1e3, high=1e3), factor=st.sampled_from([2.0**-60, 2.0**90]))
def test_patch_token_contrast_ignores_lengths(tokens, factor):
    tokens = np.where(np.abs(tokens).max(-1, keepdims=True) > 1e-3, tokens, 1).astype(np.float32)
    # Lengths below 1e-8 count as 1e-8, as published.
    small = np.abs(tokens * np.float32(factor)).max() < 1e-8
    affinity = affinity_of(np.int32([[[0, 0, 1], [1, 255, 2]]] * 2))
    value, scaled = ptc(tokens, affinity)[0], ptc(tokens * np.float32(factor), affinity)[0]
    close(scaled, 0.5 if small else value)


@DTYPES
@given(data=st.data(), temperature=st.sampled_from([0.07, 1.0]))
def test_class_token_contrast(num, dtype, data, temperature):
    # The products of tokens reach 1e30.
    student = data.draw(arrays((5, num, 4), low=-1e14, high=1e14, dtype=dtype))
    teacher = data.draw(arrays((2, num, 4), low=-1e14, high=1e14, dtype=dtype))
    positive = data.draw(class_labels((num, 5))).astype(bool)
    value, grads = ctc(student, teacher, positive, temperature=temperature)
    assert_finite((value, grads))
    assert value >= 0 and value.dtype == np.float32
    order, _ = permuted(data.draw(seeds()), 5)
    again, _ = ctc(student[order], teacher, positive[:, order], temperature=temperature)
    np.testing.assert_allclose(again, value, rtol=1e-4, atol=1e-5)
    # Flags may be numbers, too.
    same, _ = ctc(student, teacher, positive.astype(np.float32), temperature=temperature)
    close(same, value)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((2, 3, 5, 4), np.float32), ((1, 1, 1, 3), np.float32), ((2, 3, 5, 4), BF16)],
)
@given(data=st.data())
def test_segmentation(shape, dtype, data):
    logits = data.draw(arrays(shape, dtype=dtype))
    label = data.draw(label_maps(shape[:3], shape[3]))
    value, grad = seg(logits, label)
    assert_finite((value, grad))
    assert value >= 0 and grad.dtype == dtype
    ignored = label == 255
    assert not np.float32(grad)[ignored].any()
    # What is ignored has no influence, and adding a number to all logits of a pixel neither.
    other = np.where(ignored[..., None], data.draw(arrays(shape)), np.float32(logits))
    close(seg(other.astype(dtype), label)[0], value)
    if ignored.all():
        assert value == 0
    order, back = permuted(data.draw(seeds()), shape[3] - 1)
    renamed = np.where(
        (label > 0) & ~ignored, 1 + back[np.clip(label - 1, 0, len(back) - 1)], label
    )
    again, _ = seg(logits[..., [0, *(1 + order)]], renamed.astype(np.int32))
    np.testing.assert_allclose(again, value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "dtype", "pixels"), [((5, 7), np.float32, np.float32), ((2, 2), BF16, np.uint8)]
)
@given(data=st.data())
def test_dense_energy(size, dtype, pixels, data):
    image = data.draw(arrays((2, *size, 3), low=0, high=255)).astype(pixels)
    logits = data.draw(arrays((2, *size, 3), dtype=dtype))
    label = data.draw(label_maps((2, *size), 3))
    box = data.draw(boxes(2, size))
    value, grad = energy(image, logits, label, box)
    assert_finite((value, grad))
    assert grad.dtype == dtype
    # At most all pixels of a map, alike in colour: a negative number of that order.
    pairs = (size[0] // 2 * (size[1] // 2)) ** 2
    assert -1e-7 * 3 * pairs <= value <= 0
    if not inside_box(box, size)[:, ::2, ::2].any():
        assert value == 0 and not np.float32(grad).any()
    again, grad_again = energy(image[::-1], logits[::-1], label[::-1], box[::-1])
    np.testing.assert_allclose(again, value, rtol=1e-4, atol=1e-12)
    np.testing.assert_allclose(
        np.float32(grad_again)[::-1], np.float32(grad), rtol=1e-4, atol=1e-12
    )
