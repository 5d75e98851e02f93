"""Which maps a run is scored by: those that a loss term trains before the last step."""

import pytest

from toco_jax.config.maps import scored_maps
from toco_jax.run.config_files import load_config

OFF = {term: f"loss_weights.{term}=((0, 0.0),)" for term in ("cls", "cls_aux", "seg", "reg")}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ("seg", "cam", "aux_cam")),
        (["method=afa"], ("seg", "cam")),
        ([OFF["seg"], OFF["reg"]], ("cam", "aux_cam")),
        (["loss_weights.seg=((0, 0.0), (250, 1.0))", OFF["reg"]], ("cam", "aux_cam")),
        ([*OFF.values(), "loss_weights.sup=((0, 1.0),)"], ("seg",)),
        (["loss_weights.cls_aux=((0, 0.0), (249, 1.0))"], ("seg", "cam", "aux_cam")),
        ([*OFF.values()], ("seg", "cam", "aux_cam")),
    ],
)
def test_maps_that_are_trained(words, expected):
    assert scored_maps(load_config("shapes", ["total_steps=250", *words])) == expected
