"""The recipe for small budgets, such as two CPU cores, from ImageNet weights."""

from ml_collections import ConfigDict

from toco_jax.config.keys import defaults

# Step from which the maps are good enough for the contrasts and for labels.
_MAPS_FROM = 2_800


def quick() -> ConfigDict:
    """Returns every key of a run of `deit_tiny` that learns in 4,000 steps of 8 images.

    The published schedule has hardly begun by then: in 400 of its steps the classifier, which takes
    the maximum over patches of an encoder that was trained by its class token, learns nothing. Here
    the rate is larger, and the classifiers learn alone at first. The contrasts are weaker and their
    head slower, because they swamp a classifier that is not settled. Gradients are clipped, and the
    parameters that are evaluated are averages.
    """
    config = defaults("deit_tiny")
    config.update(crop_size=224, local_crop_size=64, num_local_crops=6, cam_scales=(1.0, 0.5))
    config.update(batch_size=8, group_size=8, total_steps=4_000, warmup_steps=100)
    config.update(learning_rate=2e-4, projection_lr_multiplier=2.0, max_grad_norm=1.0)
    config.update(ema_decay=0.99, eval_every=1_000, save_every=200)
    for term, weight in {"ptc": 0.2, "ctc": 0.1, "seg": 0.1, "reg": 0.05}.items():
        config.loss_weights[term] = ((0, 0.0), (_MAPS_FROM, weight))
    config.data.scale_range = (0.75, 2.0)
    return config
