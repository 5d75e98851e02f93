"""The boxes of ToCo plus against numbers worked by hand, and its losses against those of ToCo."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from eight_devices import make_batch

from toco_jax.config import ConfigError, use_method, validate
from toco_jax.method import toco, toco_plus
from toco_jax.method.methods import METHODS
from toco_jax.method.phases import phase_at
from toco_jax.run.network import make_model
from toco_jax.run.state import evaluated_params
from toco_jax.training import step


def test_segmentation_teaches_the_cam_what_it_shows():
    # Two cells of two classes. A negative value counts as 0, whose sigmoid is 1/2.
    cam = jnp.array([[[[2.0, -3.0], [1.0, 5.0]]]])
    target = jnp.array([[[[0.25, 0.75, 0.0], [0.0, 0.0, 1.0]]]])
    inside = jnp.array([[[True, False]]])

    def nll(logit, label):
        sigmoid = 1 / (1 + np.exp(-logit))
        return -label * np.log(sigmoid) - (1 - label) * np.log(1 - sigmoid)

    first = nll(2.0, 0.75), nll(0.0, 0.0)
    np.testing.assert_allclose(toco_plus.swapped(cam, target, inside), np.mean(first), rtol=1e-6)
    everywhere = jnp.ones_like(inside)
    both = (*first, nll(1.0, 0.0), nll(5.0, 1.0))
    np.testing.assert_allclose(toco_plus.swapped(cam, target, everywhere), np.mean(both), rtol=1e-6)
    assert toco_plus.swapped(cam, target, ~everywhere) == 0
    gradient = jax.grad(toco_plus.swapped)(cam, target, inside)[0, 0]
    np.testing.assert_allclose(gradient[0], [(1 / (1 + np.exp(-2.0)) - 0.75) / 2, 0], rtol=1e-6)
    np.testing.assert_array_equal(gradient[1], 0)


def test_the_teacher_labels_only_unknown_pixels_of_which_it_is_confident():
    confident, unsure = [0.0, 9.0, 0.0], [0.0, 1.0, 0.0]
    logits = jnp.array([[[confident, confident, confident, unsure, [9.0, 0.0, 0.0]]]])
    label = jnp.array([[[255, 2, 255, 255, 255]]])
    inside = jnp.array([[[True, True, False, True, True]]])
    found = toco_plus.confident_label(logits, label, inside)
    np.testing.assert_array_equal(found, [[[1, 255, 255, 255, 0]]])


def test_absent_classes_have_no_probability_and_background_keeps_its_own():
    logits = toco_plus.of_present(jnp.array([[[[1.0, 2.0, 9.0]]]]), jnp.array([[1.0, 0.0]]))
    expected = [1 / (1 + np.e), np.e / (1 + np.e), 0]
    np.testing.assert_allclose(jax.nn.softmax(logits)[0, 0, 0], expected, rtol=1e-6)


def test_no_patch_may_show_a_class_that_the_image_does_not_show():
    # Of the probabilities 1/10, 2/10 and 7/10 the image allows background and the first class.
    logits = jnp.log(jnp.array([[[[1.0, 2.0, 7.0], [5.0, 1.0, 1.0], [3.0, 3.0, 3.0]]]]))
    label, inside = jnp.array([[1.0, 0.0]]), jnp.array([[[True, True, False]]])
    expected = -(np.log(3 / 10) + np.log(6 / 7)) / 2
    found = toco_plus.no_absent_class(logits, label, inside)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert toco_plus.no_absent_class(logits, label, ~jnp.ones_like(inside)) == 0
    np.testing.assert_allclose(toco_plus.no_absent_class(logits, label + 1, inside), 0, atol=1e-6)
    gradient = jax.grad(toco_plus.no_absent_class)(logits, label, inside)[0, 0]
    np.testing.assert_allclose(gradient[0], [(0.1 - 1 / 3) / 2, (0.2 - 2 / 3) / 2, 0.35], rtol=1e-5)
    np.testing.assert_array_equal(gradient[2], 0)


def test_the_score_of_foreground_falls_from_the_first_step_of_seg_to_the_last(tiny_config):
    config = tiny_config(
        high_thre_drop=0.15, total_steps=102, **{"loss_weights.seg": ((0, 0.0), (2, 0.1))}
    )
    scores = [toco_plus.high_thre_at(config, at) for at in (0, 2, 52, 102, 500)]
    np.testing.assert_allclose(scores, [0.7, 0.7, 0.625, 0.55, 0.55], rtol=1e-6)


@pytest.fixture(scope="module")
def parts(tiny_config):
    """A configuration of ToCo plus, parameters, and the terms of a method with its state."""
    config = tiny_config(ema_decay=0.5, high_thre_drop=0.1)
    use_method(config, "toco_plus")
    model = make_model(config, grid=4)
    shapes = jax.eval_shape(functools.partial(step.init_params, model), jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape, "f")), shapes)
    batch = jax.tree.map(jnp.asarray, make_batch(0, 4))
    keys = jax.random.split(jax.random.key(1), 4)

    def terms(method, extra):
        loss_fn = method.make_loss_fn(config, model, phase_at(config, 3), num_present=4)
        return loss_fn(params, extra, keys, batch)[1]["terms"]

    return config, params, terms


def test_with_itself_as_the_teacher_it_is_toco_and_its_own_terms(parts):
    config, params, terms = parts
    extra = {"proj_head": params["proj_head"], "ema": params, "high_thre": jnp.float32(0.7)}
    plus = terms(toco_plus, extra)
    own = ("swap", "cons", "absent")
    config.loss_weights.update({name: ((0, 0.0),) for name in own})
    usual = terms(toco, {"proj_head": params["proj_head"]})
    assert plus.keys() - usual.keys() == set(own)
    assert plus["swap"] > 0 and plus["absent"] > 0
    for name in usual.keys() - {"total"}:
        np.testing.assert_allclose(plus[name], usual[name], rtol=1e-5, err_msg=name)


def test_the_average_begins_as_the_network_and_follows_it(tiny_config):
    config = tiny_config(ema_decay=0.25)
    params = {"encoder": {"w": jnp.ones(2)}, "proj_head": {"w": jnp.ones(2)}}
    state = step.init_state(config, params)
    changed = state.replace(params=jax.tree.map(lambda x: 3 * x, params))
    # At step 0 the decay is 1/10, later that of the configuration.
    first = step.moved_extra(config, changed)["ema"]["encoder"]["w"]
    np.testing.assert_allclose(first, 0.1 * 1 + 0.9 * 3, rtol=1e-6)
    late = step.moved_extra(config, changed.replace(step=jnp.int32(90)))
    np.testing.assert_allclose(late["ema"]["encoder"]["w"], 0.25 * 1 + 0.75 * 3, rtol=1e-6)
    assert evaluated_params(changed.params, late) is late["ema"]
    assert evaluated_params(params, {}) is params


def test_methods_have_the_functions_and_terms_that_are_promised(tiny_config):
    for name, method in METHODS.items():
        config = tiny_config()
        use_method(config, name)
        validate(config, num_devices=1)
        assert config.method == name
        assert {"init_extra", "moved_extra", "make_loss_fn"} <= set(dir(method))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"loss_weights.swap": ((0, 0.1),)},
            r"swap=.*is no term of method='toco', whose terms are",
        ),
        ({"method": "toco_plus"}, r"needs a teacher: set ema_decay"),
        (
            {"method": "toco_plus", "ema_decay": 0.9, "as_published": True},
            "use as_published=False",
        ),
        (
            {"method": "toco_plus", "ema_decay": 0.9, "loss_weights.cons": ((0, 0.1),)},
            r"cons=.* needs a decoder that is trained: let it start where loss_weights\.seg=",
        ),
        ({"high_thre_drop": 0.3}, r"high_thre_drop=0\.3 must lie in \[0, 0\.2\)"),
    ],
)
def test_what_does_not_fit_the_method_is_refused(tiny_config, changes, message):
    with pytest.raises(ConfigError, match=message):
        validate(tiny_config(**changes), num_devices=1)
