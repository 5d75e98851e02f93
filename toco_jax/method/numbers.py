"""The numbers of a configuration, as the keyword arguments of each box of the poster's figure."""

from ml_collections import ConfigDict

from toco_jax.method.phases import Phase
from toco_jax.models.network import ToCo


def numbers_of(
    config: ConfigDict, model: ToCo, phase: Phase, *, num_present: int
) -> dict[str, dict]:
    """Collects the keyword numbers of each box of the figure.

    Args:
        config: a validated configuration.
        model: the network.
        phase: the source of the pseudo labels.
        num_present: the most foreground classes that any image of the data shows.
    """
    patch = model.backbone.patch
    grid = (config.crop_size // patch,) * 2
    regions = {"low_thre": config.low_thre, "high_thre": config.high_thre}
    labels = regions | {"bkg_thre": config.bkg_thre}
    pooled = {"group_size": config.group_size}
    box_unit = 1 if config.as_published else patch
    quirks = {"truncated": config.as_published, "unrolled": model.compute.unrolled}
    return {
        "class_maps": {"scales": tuple(config.cam_scales), "num_present": num_present},
        "patch_contrast": pooled | labels | {"grid": grid, "patch": box_unit},
        "uncertain_crops": regions
        | {"num": config.num_local_crops, "size": config.local_crop_size},
        "class_contrast": {"temperature": config.temperature},
        "segmentation": pooled | regions | quirks | {"source": phase.pseudo_label_cam},
        "supervision": pooled,
    }
