"""The maps that a run trains, by which it is scored."""

from ml_collections import ConfigDict

from toco_jax.config.keys import LOSS_TERMS
from toco_jax.data.label_maps import MAPS

# The loss terms of which any trains what makes a map.
_TRAINED_BY = {"seg": ("seg", "reg", "sup"), "cam": ("cls",), "aux_cam": ("cls_aux",)}


def scored_maps(config: ConfigDict) -> tuple[str, ...]:
    """Returns which of `MAPS` are trained by a run, and so scored; all if it trains none."""
    trained = {
        term
        for term in LOSS_TERMS
        for start, weight in config.loss_weights[term]
        if weight > 0 and start < config.total_steps
    }
    found = tuple(name for name in MAPS if trained & set(_TRAINED_BY[name]))
    return found or tuple(MAPS)
