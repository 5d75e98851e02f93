"""Loss terms: published values and gradients, hand-worked values, slow versions, empty cases."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from channels import channels_first, channels_last
from jax.test_util import check_grads

from toco_jax.method import cams, losses


def tolerance(data, field):
    """Ten times the noise of float32, but no less than its last two places."""
    finest = 2 * np.spacing(np.abs(data[field]).max().astype(np.float32))
    return max(10 * float(data[f"f32_maxabs/{field}"]), float(finest))


def compare(data, name, value, grad):
    """Value and gradient against the published ones; NaN values are not compared."""
    if np.isfinite(data[f"{name}/loss"]):
        atol = tolerance(data, f"{name}/loss")
        np.testing.assert_allclose(value, data[f"{name}/loss"], rtol=0, atol=atol, err_msg=name)
    else:
        assert np.isfinite(value)
    atol = tolerance(data, f"{name}/grad")
    np.testing.assert_allclose(grad, data[f"{name}/grad"], rtol=0, atol=atol, err_msg=name)


# Multi-label soft margin


def test_soft_margin_golden(golden):
    data = golden("losses")
    loss = jax.value_and_grad(losses.multilabel_soft_margin)
    value, grad = loss(jnp.asarray(data["mlsm/logits"]), jnp.asarray(data["mlsm/target"]))
    compare(data, "mlsm", value, grad)


def test_soft_margin_by_hand():
    value = losses.multilabel_soft_margin(jnp.array([[0.0, 0.0], [100.0, -100.0]]), jnp.eye(2))
    # log 2 for each entry of the first image, 100 for each wrong entry of the second.
    np.testing.assert_allclose(value, (np.log(2) * 2 + 200) / 4, rtol=1e-6)


# Patch token contrast


@pytest.fixture(scope="module")
def ptc():
    return jax.jit(jax.value_and_grad(losses.patch_token_contrast))


@pytest.mark.parametrize("case", ["mixed", "all_ignored", "single_class", "zero_vec"])
def test_ptc_golden(golden, ptc, case):
    data = golden("losses")
    features = channels_last(data["ptc/inputs"]).copy()
    batch, height, width, dim = features.shape
    if case == "zero_vec":
        features[0, 2, 3] = 0
    tokens = features.reshape(batch, height * width, dim)
    label = data[f"ptc/{'mixed' if case == 'zero_vec' else case}/label"].astype(np.int32)
    value, grad = ptc(tokens, cams.label_to_affinity(jnp.asarray(label)))
    grad = channels_first(np.asarray(grad).reshape(features.shape))
    compare(data, f"ptc/{case}", value, grad)


def slow_ptc(tokens, affinity):
    sums, counts = {0: 0.0, 1: 0.0}, {0: 0, 1: 0}
    for image in range(len(tokens)):
        for i in range(tokens.shape[1]):
            for j in range(tokens.shape[1]):
                relation = int(affinity[image, i, j])
                if relation == 255:
                    continue
                a, b = tokens[image, i], tokens[image, j]
                sums[relation] += abs(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
                counts[relation] += 1
    return 0.5 * (1 - sums[1] / (counts[1] + 1)) + 0.5 * sums[0] / (counts[0] + 1)


@pytest.fixture(scope="module")
def tokens_and_affinity():
    rng = np.random.default_rng(0)
    label = rng.choice([0, 1, 2, 255], (2, 3, 2)).astype(np.int32)
    tokens = rng.standard_normal((2, 6, 4)).astype(np.float32)
    return jnp.asarray(tokens), cams.label_to_affinity(jnp.asarray(label))


def test_ptc_against_plain_loop(ptc, tokens_and_affinity):
    tokens, affinity = tokens_and_affinity
    expected = slow_ptc(np.float64(tokens), np.asarray(affinity))
    np.testing.assert_allclose(ptc(tokens, affinity)[0], expected, rtol=1e-5)
    np.testing.assert_allclose(losses.patch_token_contrast(tokens, affinity), expected, rtol=1e-5)


def test_ptc_gradient(tokens_and_affinity):
    tokens, affinity = tokens_and_affinity
    loss = functools.partial(losses.patch_token_contrast, affinity=affinity)
    check_grads(jax.jit(loss), (tokens,), order=1, modes=["rev"], atol=1e-2, rtol=1e-2)


def test_ptc_by_hand():
    tokens = jnp.array([[[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]])
    # Patches 0 and 2 agree (cosine 1, two ordered pairs); patch 1 differs from both (cosine 0).
    affinity = cams.label_to_affinity(jnp.array([[[1, 0, 1]]]))
    np.testing.assert_allclose(losses.patch_token_contrast(tokens, affinity), 0.5 * (1 - 2 / 3))


def test_ptc_without_pairs_is_half_and_flat(ptc):
    value, grad = ptc(jnp.ones((1, 4, 3)), jnp.full((1, 4, 4), 255))
    assert float(value) == 0.5
    assert not np.asarray(grad).any()


# Class token contrast


@pytest.fixture(scope="module")
def ctc():
    loss = jax.value_and_grad(losses.class_token_contrast)
    return jax.jit(loss, static_argnames="temperature")


@pytest.mark.parametrize("case", ["all_ones", "some_zero", "all_local_neg", "mixed"])
def test_ctc_golden(golden, ctc, case):
    data = golden("losses")
    student = data["ctc/student"].reshape(10, 2, -1)
    teacher = data["ctc/teacher"].reshape(2, 2, -1)
    flags = data[f"ctc/{case}/flags"]
    value, grad = ctc(student, teacher, flags, temperature=0.5)
    for field, found in (("loss_T0.5", value), ("grad_T0.5", grad.reshape(20, -1))):
        atol = tolerance(data, f"ctc/{case}/{field}")
        np.testing.assert_allclose(found, data[f"ctc/{case}/{field}"], rtol=0, atol=atol)
    value, _ = ctc(student, teacher, flags, temperature=1.0)
    atol = tolerance(data, f"ctc/{case}/loss_T1")
    np.testing.assert_allclose(value, data[f"ctc/{case}/loss_T1"], rtol=0, atol=atol)


def slow_ctc(student, teacher, positive, temperature):
    total = 0.0
    for image in range(teacher.shape[1]):
        loss = 0.0
        for p in teacher[:, image]:
            s = np.exp(student[:, image] @ p / temperature)
            negative = s[~positive[image]].sum()
            loss += sum(-np.log(v / (v + negative + 1e-4)) for v in s[positive[image]])
            loss -= np.log(1 / (1 + negative + 1e-4))
        total += loss / (2 * (positive[image].sum() + 1e-4))
    return total / teacher.shape[1]


@pytest.fixture(scope="module")
def views():
    rng = np.random.default_rng(0)
    student, teacher = rng.standard_normal((5, 3, 4)), rng.standard_normal((2, 3, 4))
    positive = np.array([[1, 1, 0, 1, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]], bool)
    return jnp.float32(student), jnp.float32(teacher), jnp.asarray(positive)


def test_ctc_against_plain_loop(ctc, views):
    student, teacher, positive = views
    expected = slow_ctc(np.float64(student), np.float64(teacher), np.asarray(positive), 0.5)
    np.testing.assert_allclose(ctc(*views, temperature=0.5)[0], expected, rtol=1e-5)
    eager = losses.class_token_contrast(student, teacher, positive, temperature=0.5)
    np.testing.assert_allclose(eager, expected, rtol=1e-5)


def test_ctc_gradient(views):
    student, teacher, positive = views
    loss = functools.partial(
        losses.class_token_contrast, teacher=teacher, positive=positive, temperature=0.5
    )
    check_grads(jax.jit(loss), (student,), order=1, modes=["rev"], atol=1e-2, rtol=1e-2)


def test_ctc_by_hand():
    # One positive with p.q = 0 and one negative with p.q = 0 in each of two teacher views.
    student = jnp.array([[[0.0]], [[0.0]]])
    value = losses.class_token_contrast(
        student, jnp.ones((2, 1, 1)), jnp.array([[1, 0]]), temperature=1.0
    )
    np.testing.assert_allclose(value, 2 * 2 * np.log(2.0001) / (2 * 1.0001), rtol=1e-6)


def test_ctc_is_finite_for_huge_products(ctc, views):
    student, teacher, positive = views
    value, grad = ctc(1e4 * student, teacher, positive, temperature=0.5)
    assert np.isfinite(value)
    assert np.isfinite(grad).all()
    assert float(value) > 100


def test_ctc_without_negatives_is_almost_zero(ctc, views):
    student, teacher, _ = views
    value, grad = ctc(student, teacher, np.ones((3, 5), bool), temperature=0.5)
    assert 0 < float(value) < 1e-2
    assert np.isfinite(grad).all()


# Segmentation


@pytest.fixture(scope="module")
def seg():
    return jax.jit(jax.value_and_grad(losses.segmentation))


@pytest.mark.parametrize("case", ["mixed", "no_bg", "no_fg", "all_ignore", "one_image_ignored"])
def test_segmentation_golden(golden, seg, case):
    data = golden("losses")
    label = data[f"seg/{case}/label"].astype(np.int32)
    value, grad = seg(channels_last(data["seg/pred"]), label)
    compare(data, f"seg/{case}", value, channels_first(grad))


def test_segmentation_by_hand(seg):
    logits = jnp.log(jnp.array([[[[0.5, 0.5], [0.25, 0.75], [0.1, 0.9], [0.5, 0.5]]]]))
    value, _ = seg(logits, jnp.array([[[0, 1, 1, 255]]]))
    foreground = -(np.log(0.75) + np.log(0.9)) / 2
    np.testing.assert_allclose(value, 0.5 * (np.log(2) + foreground), rtol=1e-6)


def test_segmentation_sides_without_pixels_give_zero(seg):
    logits = jax.random.normal(jax.random.key(0), (1, 2, 2, 3))
    nothing, grad = seg(logits, jnp.full((1, 2, 2), 255))
    assert float(nothing) == 0
    assert not np.asarray(grad).any()
    only_background, _ = seg(logits, jnp.zeros((1, 2, 2), jnp.int32))
    expected = -jax.nn.log_softmax(logits)[..., 0].mean() / 2
    np.testing.assert_allclose(only_background, expected, rtol=1e-6)


def test_segmentation_gradient():
    logits = jax.random.normal(jax.random.key(1), (1, 2, 3, 3))
    label = jnp.array([[[0, 1, 255], [2, 0, 1]]])
    loss = functools.partial(losses.segmentation, pseudo_label=label)
    check_grads(jax.jit(loss), (logits,), order=1, modes=["rev"], atol=1e-2, rtol=1e-2)


# Dense energy


@pytest.fixture(scope="module")
def energy():
    return jax.jit(jax.value_and_grad(losses.dense_energy, argnums=1))


def test_dense_energy_golden(golden, energy):
    data = golden("dense_energy")
    value, grad = energy(
        channels_last(data["image_u8"]),
        channels_last(np.float32(data["logits"])),
        data["label"].astype(np.int32),
        data["img_box"].astype(np.int32),
    )
    np.testing.assert_allclose(value, data["loss"][0], rtol=1e-5)
    expected = data["grad_rows_even"]
    difference = channels_first(grad)[:, :, ::2] - expected
    assert np.abs(difference).max() <= 1e-5 * np.abs(expected).max()


@pytest.fixture(scope="module")
def energy_inputs():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (2, 16, 12, 3)).astype(np.uint8)
    logits = rng.standard_normal((2, 16, 12, 3)).astype(np.float32)
    label = rng.choice([0, 1, 2, 255], (2, 16, 12)).astype(np.int32)
    return image, logits, label, np.array([[0, 16, 0, 12], [2, 14, 4, 12]], np.int32)


def test_dense_energy_value_and_gradient_by_definition(energy, energy_inputs):
    from toco_jax.ops.permutohedral import bilateral_filter

    image, logits, label, box = energy_inputs
    probs = np.asarray(jax.nn.softmax(logits)).reshape(2, 8, 2, 6, 2, 3).mean(axis=(2, 4))
    inside = np.asarray(cams.inside_box(jnp.asarray(box), (16, 12)))[:, ::2, ::2]
    gate = np.maximum(np.where(label[:, ::2, ::2] == 255, 1, inside - probs.max(-1)), 0)[..., None]
    kept = probs * inside[..., None]
    small, maps = jnp.asarray(image[:, ::2, ::2]), jnp.asarray(kept)
    filtered = [
        bilateral_filter(small[i], maps[i], sigma_rgb=15.0, sigma_xy=50.0) for i in range(2)
    ]
    energy_of = gate * np.asarray(filtered)
    value, grad = energy(*energy_inputs)
    np.testing.assert_allclose(value, -1e-7 / 2 * (kept * energy_of).sum(), rtol=1e-5)
    # Down to the half-size probabilities by hand, back up through mean pooling and softmax.
    upstream = -2e-7 / 2 * energy_of * inside[..., None] / 4
    upstream = upstream.repeat(2, axis=1).repeat(2, axis=2)
    _, softmax_vjp = jax.vjp(jax.nn.softmax, logits)
    np.testing.assert_allclose(grad, softmax_vjp(jnp.float32(upstream))[0], rtol=1e-4, atol=1e-13)


def test_dense_energy_is_zero_outside_the_box(energy, energy_inputs):
    image, logits, label, _ = energy_inputs
    value, grad = energy(image, logits, label, np.zeros((2, 4), np.int32))
    assert float(value) == 0
    assert not np.asarray(grad).any()


def test_a_loss_by_group_is_the_mean_over_the_groups():
    values = jnp.arange(1.0, 5.0)
    for group_size, expected in ((1, 7.5), (2, 29), (4, 100)):
        found = losses.by_group(lambda x: x.sum() ** 2, values, group_size=group_size)
        np.testing.assert_allclose(found, expected)
