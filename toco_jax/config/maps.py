"""The maps that a run is scored by, and what those scores are compared with, by name."""

from ml_collections import ConfigDict

from toco_jax.config.keys import LOSS_TERMS

# Short name of each map of a network: its name in tables.
MAPS = {"seg": "segmentation", "cam": "CAM", "aux_cam": "aux CAM"}
# The same of the label maps that `evaluation.baselines` makes.
BASELINES = {
    "background": "background alone",
    "seg_of_tags": "segmentation, classes given",
    "token_truth": "truth at token resolution",
}
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
