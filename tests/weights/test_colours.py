"""Colours that weights were trained on: who says so, and what a backbone of others does."""

import json

import numpy as np
import pytest
from reference_weights import reference_shapes
from safetensors.numpy import save_file
from weight_formats import original_state, timm_state

from toco_jax.models.backbones import BACKBONES
from toco_jax.runtime.errors import WeightsError
from toco_jax.weights import colours, load

PLAIN = "width=8,depth=1,heads=2,patch=4"
HALF = f"{PLAIN},half_colours=1"
SATELLITE = {"image_mean": [0.43, 0.411, 0.296], "image_std": [0.213, 0.156, 0.143]}
TIMM = {"pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}}
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def vit():
    """A small ViT with a head of 1000 classes, as DeiT and augreg have it."""
    rng = np.random.default_rng(0)
    shapes = reference_shapes(8, 1, patch=4, grid=3)
    state = timm_state({k: rng.standard_normal(s, np.float32) for k, s in shapes.items()})
    head = {"head.weight": np.zeros((1000, 8), np.float32), "head.bias": np.zeros(1000, np.float32)}
    return {k: np.ascontiguousarray(v) for k, v in state.items()} | head


@pytest.fixture
def file(tmp_path):
    save_file(vit(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def loaded(file, backbone):
    """The patch embedding, and the notes on it."""
    out = load.load(str(file), backbone=backbone, num_classes=3)
    return out["params"]["encoder"]["patch_embed"], "\n".join(out["notes"][1:])


def response(embedding, photo, mean, std):
    """What the patch embedding computes of a patch of colours from 0 to 1."""
    seen = (photo - np.float32(mean)) / np.float32(std)
    return np.einsum("hwc,hwcd->d", seen, embedding["kernel"]) + embedding["bias"]


def assert_converted(found, plain, mean, std):
    photo = np.random.default_rng(1).random((4, 4, 3), np.float32)
    expected = response(plain, photo, mean, std)
    np.testing.assert_allclose(response(found, photo, **IMAGENET), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backbone", [PLAIN, HALF])
@pytest.mark.parametrize(
    ("name", "about", "mean", "std"),
    [
        ("config.json", TIMM, (0.5,) * 3, (0.5,) * 3),
        ("config.json", TIMM["pretrained_cfg"], (0.5,) * 3, (0.5,) * 3),
        ("preprocessor_config.json", SATELLITE, *SATELLITE.values()),
        ("preprocessor_config.json", {"do_normalize": False}, (0,) * 3, (1,) * 3),
    ],
)
def test_what_a_library_wrote_beside_a_file_decides(file, backbone, name, about, mean, std):
    plain, _ = loaded(file, PLAIN)
    file.with_name(name).write_text(json.dumps(about))
    found, notes = loaded(file, backbone)
    assert_converted(found, plain, mean, std)
    assert "their patch embedding was converted to ImageNet's colours, from mean" in notes
    assert "nothing says" not in notes


def test_a_file_of_imagenets_colours_is_not_converted(file):
    plain, notes = loaded(file, PLAIN)
    assert "colours" not in notes
    file.with_name("config.json").write_text(json.dumps({"pretrained_cfg": IMAGENET}))
    found, notes = loaded(file, HALF)
    np.testing.assert_array_equal(found["kernel"], plain["kernel"])
    assert "they were trained on ImageNet's colours and are not converted" in notes


def test_what_nobody_says_is_taken_as_the_backbone_has_it_and_said(file):
    plain, _ = loaded(file, PLAIN)
    found, notes = loaded(file, HALF)
    assert_converted(found, plain, (0.5,) * 3, (0.5,) * 3)
    assert "nothing says which colours they were trained on" in notes
    assert "set backbone to the same sizes without half_colours=1" in notes


@pytest.mark.parametrize(
    "about",
    [
        *("[]", "{", '{"pretrained_cfg": 3}', '{"mean": [0.5], "std": [1]}'),
        *('{"mean": [0, 0, 0], "std": [0, 1, 1]}', '{"mean": ["a", 0, 0], "std": [1, 1, 1]}'),
    ],
)
def test_what_cannot_be_meant_says_nothing(file, about):
    file.with_name("config.json").write_text(about)
    assert colours.stated(file, "0" * 64) is None


def test_published_files_are_known_by_their_hash(file):
    assert colours.stated(file, "cd65a155" + "0" * 56) == colours.IMAGENET
    assert colours.stated(file, "80ecf9dd" + "0" * 56) == colours.HALF


def mae():
    state = {name: value for name, value in vit().items() if not name.startswith("head.")}
    return state | {"decoder_pred.weight": np.zeros((3, 5), np.float32)}


def test_a_kind_of_other_colours_is_refused():
    with pytest.raises(WeightsError, match=r"ImageNet's means .* is for means and deviations of"):
        load.from_tensors(mae(), backbone=HALF, num_classes=3)
    assert load.from_tensors(mae(), backbone=PLAIN, num_classes=3)["notes"]


def test_original_files_in_imagenets_place_are_named():
    original = original_state(vit(), 2)
    out = load.from_tensors(original, backbone=PLAIN, num_classes=3)
    assert "such weights were trained on colours normalised by means and" in out["notes"][-1]
    out = load.from_tensors(original, backbone=HALF, num_classes=3)
    assert "nothing says" not in "".join(out["notes"])
    assert "was converted to ImageNet's colours" in out["notes"][-1]


def test_the_published_runs_gave_imagenets_colours_to_all():
    """`vit_base` stays as it was in the paper, and a line says so."""
    paths = {"encoder/patch_embed/kernel": np.ones((2, 2, 3, 4), np.float32)}
    paths["encoder/patch_embed/bias"] = np.ones(4, np.float32)
    known = {"backbone": "vit_base", "spec": BACKBONES["vit_base"], "kind": None}
    out, notes = colours.fitted(paths, trained=colours.HALF, **known)
    np.testing.assert_array_equal(out["encoder/patch_embed/kernel"], 1)
    assert "as in the published runs; backbone=augreg_base converts them" in notes[0]
    assert colours.fitted(paths, trained=colours.IMAGENET, **known)[1] == []


def test_every_backbone_of_half_colours_has_a_twin_to_name():
    for name, spec in BACKBONES.items():
        if spec.half_colours:
            twin = colours._with_imagenet(spec)
            assert BACKBONES[twin].width == spec.width, name
