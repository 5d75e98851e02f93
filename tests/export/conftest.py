"""A run of a small network, to be exported."""

import json

import pytest
from reference_weights import reference_state_dict
from safetensors.numpy import save_file

from toco_jax import convert
from toco_jax.data.classes import VOC_CLASSES
from toco_jax.models.backbones import backbone_from_name
from toco_jax.models.network import ToCo
from toco_jax.weights import published

SMALL = "width=8,depth=3,heads=2,patch=4"


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A run's folder, and its model and parameters."""
    folder = tmp_path_factory.mktemp("export")
    state = reference_state_dict(8, 3, patch=4, grid=6)
    params, teacher = published.params_from_reference(state, backbone=SMALL, num_classes=20)
    out = folder / "source.safetensors"
    tensors = published.params_to_reference(params, teacher, backbone=SMALL)
    metadata = {"format": "pt", "backbone": SMALL, "classes": json.dumps(VOC_CLASSES)}
    save_file(tensors, out, metadata)
    convert.convert(str(out), folder / "run")
    return folder / "run", ToCo(backbone_from_name(SMALL), num_classes=20, grid=6), params
