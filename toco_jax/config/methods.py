"""The methods by name: the loss terms of each, and the values that choosing it sets."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from toco_jax.config.keys import LOSS_TERMS, ConfigError

# The loss terms that every method can have beside its own.
ADDED = ("cls_img", "sup")
_TOCO = ("cls", "cls_aux", "ptc", "ctc", "seg", "reg", *ADDED)
# The loss terms that a method computes. Others must have the weight 0.
TERMS = {
    "toco": _TOCO,
    "toco_plus": (*_TOCO, "swap", "cons", "absent"),
    "afa": ("cls", "seg", "reg", "aff", *ADDED),
}
# The maps that segmentation labels can be made from.
LABEL_MAPS = {
    "toco": ("cam", "aux_cam"),
    "toco_plus": ("cam", "aux_cam"),
    "afa": ("cam", "spread_cam"),
}
# What the network of a method has beside that of ToCo, as fields of `models.network.ToCo`.
_NETWORKS = {"afa": {"affinity_head": True}}
# What `use_method` sets: loss weights from the first step on, loss weights from the first step of
# `seg` on, and values in place of 0.
_ALWAYS = {"toco_plus": {"cls_img": 1.0}}
_WEIGHTS = {
    "toco_plus": {"swap": 0.05, "cons": 0.05, "absent": 0.1},
    "afa": {"aff": 0.1, "reg": 0.01},
}
_VALUES = {"toco_plus": {"ema_decay": 0.999, "high_thre_drop": 0.15}}


def network_fields(config: ConfigDict) -> dict[str, bool]:
    """Returns the fields of `models.network.ToCo` that a configuration's method and terms set."""
    fields = _NETWORKS.get(config.method, {})
    has_image_head = first_step(config.loss_weights.cls_img) is not None
    return fields | {"image_head": True} if has_image_head else fields


def first_step(changes: Sequence[tuple[int, float]]) -> int | None:
    """Returns the first step at which a weight of a schedule is not 0, None if it always is."""
    return next((step for step, weight in changes if weight), None)


def use_method(config: ConfigDict, name: str) -> None:
    """Chooses the method of a configuration, with the weights of its terms and its other values.

    Args:
        config: the configuration, changed in place.
        name: one of `TERMS`.

    Raises:
        ConfigError: there is no such method.
    """
    if name not in TERMS:
        raise ConfigError(f"method={name!r} must be one of {', '.join(TERMS)}")
    start = first_step(config.loss_weights.seg) or 0
    for term in LOSS_TERMS:
        if term not in TERMS[name]:
            config.loss_weights[term] = ((0, 0.0),)
    for term, weight in _ALWAYS.get(name, {}).items():
        config.loss_weights[term] = ((0, weight),)
    for term, weight in _WEIGHTS.get(name, {}).items():
        late = ((0, 0.0), (start, weight))
        config.loss_weights[term] = late if start else ((0, weight),)
    config.method = name
    if name == "afa":  # affinities are learnt for half of the time before they are used
        half = (start + config.total_steps) // 2
        config.pseudo_label_cam = ((0, "cam"), (half, "spread_cam"))
    for key, value in _VALUES.get(name, {}).items():
        config[key] = config[key] or value


def check_method(config: ConfigDict) -> None:
    """Checks that a configuration can be trained by its method.

    Raises:
        ConfigError: there is no such method, or it cannot work with another value.
    """
    if config.method not in TERMS:
        raise ConfigError(f"method={config.method!r} must be one of {', '.join(TERMS)}")
    first = {term: first_step(config.loss_weights[term]) for term in LOSS_TERMS}
    for term, step in first.items():
        if step is not None and term not in TERMS[config.method]:
            raise ConfigError(
                f"loss_weights.{term}={config.loss_weights[term]} is no term of method="
                f"{config.method!r}, whose terms are {', '.join(TERMS[config.method])}: set it to "
                "((0, 0.0),) or choose another method"
            )
    maps = LABEL_MAPS[config.method]
    for _, name in config.pseudo_label_cam:
        if name not in maps:
            raise ConfigError(
                f"pseudo_label_cam={config.pseudo_label_cam} names {name!r}, and method="
                f"{config.method!r} makes labels from {' or '.join(maps)}"
            )
    if config.method != "toco_plus":
        return
    if not config.ema_decay:
        raise ConfigError(
            "method='toco_plus' needs a teacher: set ema_decay, such as ema_decay=0.999"
        )
    if config.as_published:
        raise ConfigError(
            "method='toco_plus' compares views pixel by pixel, and as_published=True flips one of "
            "them: use as_published=False"
        )
    decoder = first["seg"]
    for term in ("swap", "cons", "absent"):
        start = first[term]
        if start is not None and (decoder is None or start < decoder):
            raise ConfigError(
                f"loss_weights.{term}={config.loss_weights[term]} needs a decoder that is trained: "
                f"let it start where loss_weights.seg={config.loss_weights.seg} does, or later"
            )
