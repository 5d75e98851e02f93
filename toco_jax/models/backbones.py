"""The sizes of encoders, by name or spelt out."""

import dataclasses

from toco_jax.ops.resize import Method
from toco_jax.runtime.errors import UserError, shown


@dataclasses.dataclass(frozen=True)
class Backbone:
    """Sizes and parts of an encoder.

    Attributes:
        width: D, the size of a token.
        depth: number of blocks.
        heads: attention heads per block.
        patch: side of a patch in pixels.
        norm_eps: `eps` of the layer norms.
        registers: R, learnt tokens without a position between the class token and the patches.
        layer_scale: whether each residual branch of a block ends in a learnt factor per channel.
        gated: whether the hidden layer of a block is one half of its channels, by SiLU, times the
            other (SwiGLU), instead of GELU.
        half_colours: whether published weights expect colours normalised by means and deviations of
            0.5. Loading converts their patch embedding to ImageNet's, which computes the same.
        rotary: whether positions rotate queries and keys, see `models.rotary`, instead of being
            added to the tokens; keys have no bias then.
        mlp_ratio: width of the hidden layer of a block over that of a token, before a gated one is
            made smaller by a third.
    """

    width: int
    depth: int
    heads: int
    patch: int = 16
    norm_eps: float = 1e-6
    registers: int = 0
    layer_scale: bool = False
    gated: bool = False
    half_colours: bool = False
    rotary: bool = False
    mlp_ratio: int = 4

    @property
    def num_leading(self) -> int:
        """Returns the number of tokens before the patches: the class token and the registers."""
        return 1 + self.registers

    @property
    def hidden(self) -> int:
        """Returns the width of the hidden layer of a block: of both halves if it is gated."""
        half = -(-int(self.mlp_ratio * self.width * 2 / 3) // 8) * 8  # as in DINOv2
        return 2 * half if self.gated else self.mlp_ratio * self.width

    @property
    def position_resize(self) -> Method:
        """Returns how stored positions are resized, a method of `ops.resize`.

        DINOv2 without registers was trained without antialiasing, and with registers with it.
        """
        return "bicubic_antialiased" if self.registers else "bicubic"


_MOST_DIGITS = 5  # of a size that is spelt out
_DEEPEST = 2**10  # more would fill the memory with the names of weights alone
_MOST_REGISTERS = 2**10
_LARGEST_RATIO = 16
_NEEDED = ("width", "depth", "heads", "patch")
_FLAGS = ("layer_scale", "gated", "half_colours", "rotary")
_OPTIONAL = ("registers", "mlp_ratio", *_FLAGS)
_ROTARY_EPS = 1e-5  # `norm_eps` of DINOv3

_DINOV2_SIZES = {"small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
_GIANT = Backbone(1536, 40, 24, patch=14, layer_scale=True, gated=True)


def _dinov3(width: int, depth: int, heads: int, *, plus: bool = False) -> Backbone:
    spec = Backbone(width, depth, heads, norm_eps=_ROTARY_EPS, registers=4, layer_scale=True)
    spec = dataclasses.replace(spec, rotary=True)
    return dataclasses.replace(spec, gated=True, mlp_ratio=6) if plus else spec


BACKBONES = {
    "deit_tiny": Backbone(192, 12, 3),
    "deit_small": Backbone(384, 12, 6),
    "deit_base": Backbone(768, 12, 12),
    "vit_base": Backbone(768, 12, 12),
    "vit_large": Backbone(1024, 24, 16, norm_eps=1e-5),
    **{
        f"dinov2_{size}{ending}": Backbone(*sizes, patch=14, registers=registers, layer_scale=True)
        for ending, registers in (("", 0), ("_reg", 4))
        for size, sizes in _DINOV2_SIZES.items()
    },
    "dinov2_giant": _GIANT,
    "dinov2_giant_reg": dataclasses.replace(_GIANT, registers=4),
    "dinov3_small": _dinov3(384, 12, 6),
    "dinov3_small_plus": _dinov3(384, 12, 6, plus=True),
    "dinov3_base": _dinov3(768, 12, 12),
    "dinov3_large": _dinov3(1024, 24, 16),
    "dinov3_huge_plus": _dinov3(1280, 32, 20, plus=True),
    "dino_small": Backbone(384, 12, 6),
    "dino_base": Backbone(768, 12, 12),
    "dino_small_8": Backbone(384, 12, 6, patch=8),
    "dino_base_8": Backbone(768, 12, 12, patch=8),
    "mae_base": Backbone(768, 12, 12),
    "mae_large": Backbone(1024, 24, 16),
    "deit3_small": Backbone(384, 12, 6, layer_scale=True),
    "deit3_base": Backbone(768, 12, 12, layer_scale=True),
    "deit3_large": Backbone(1024, 24, 16, layer_scale=True),
    "augreg_tiny": Backbone(192, 12, 3, half_colours=True),
    "augreg_small": Backbone(384, 12, 6, half_colours=True),
    "augreg_base": Backbone(768, 12, 12, half_colours=True),
    "augreg_large": Backbone(1024, 24, 16, half_colours=True),
}


def _families() -> str:
    """Returns all names in short: `deit_tiny|small|base, vit_base|large, ...`."""
    sizes: dict[str, list[str]] = {}
    for name in BACKBONES:
        family, _, size = name.partition("_")
        sizes.setdefault(family, []).append(size)
    return ", ".join(f"{family}_{'|'.join(names)}" for family, names in sizes.items())


def backbone_from_name(name: str) -> Backbone:
    """Finds a named backbone, or parses one like `"width=96,depth=6,heads=3,patch=8"`.

    `registers=4`, `layer_scale=1`, `gated=1`, `half_colours=1`, `rotary=1` and `mlp_ratio=6` may
    follow.

    Raises:
        UserError: the name is unknown, a size is missing or not a positive integer or beyond
            reason, the width is not a multiple of 4, or the heads do not divide it.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    sizes: dict[str, int] = {}
    for part in name.split(","):
        key, _, value = part.partition("=")
        known = key in _NEEDED + _OPTIONAL and key not in sizes
        if not known or not value.isdecimal() or len(value) > _MOST_DIGITS:
            raise UserError(
                f"unknown backbone {shown(name)}: use one of {_families()}, or spell the sizes out "
                "as 'width=96,depth=6,heads=3,patch=8'"
            )
        sizes[key] = int(value)
    needed = [sizes.get(key, 0) for key in _NEEDED]
    if min(needed) < 1 or sizes["width"] % sizes["heads"]:
        raise UserError(
            f"backbone {shown(name)} needs width, depth, heads and patch, all at least 1, and a "
            "width that the heads divide"
        )
    if sizes["depth"] > _DEEPEST:
        raise UserError(f"backbone {shown(name)}: the depth may not exceed {_DEEPEST}")
    if sizes["width"] % 4:
        raise UserError(f"backbone {shown(name)}: the width must be a multiple of 4")
    registers, ratio = sizes.get("registers", 0), sizes.get("mlp_ratio", 4)
    if not 1 <= ratio <= _LARGEST_RATIO:
        raise UserError(
            f"backbone {shown(name)}: mlp_ratio must lie between 1 and {_LARGEST_RATIO}"
        )
    flags = {key: sizes.get(key, 0) for key in _FLAGS}
    if max(flags.values()) > 1 or registers > _MOST_REGISTERS:
        raise UserError(
            f"backbone {shown(name)}: {' and '.join(_FLAGS)} must be 0 or 1, and registers may not "
            f"exceed {_MOST_REGISTERS}"
        )
    if flags["rotary"] and not (registers and flags["layer_scale"]):
        raise UserError(
            f"backbone {shown(name)}: rotary positions are those of DINOv3, which has registers=4 "
            "and layer_scale=1, too"
        )
    if flags["rotary"] and sizes["width"] % (4 * sizes["heads"]):
        raise UserError(
            f"backbone {shown(name)}: with rotary positions the width must be a multiple of 4 "
            "times the heads"
        )
    flagged = {key: bool(value) for key, value in flags.items()}
    spec = Backbone(sizes["width"], sizes["depth"], sizes["heads"], sizes["patch"])
    eps = _ROTARY_EPS if flagged["rotary"] else spec.norm_eps
    return dataclasses.replace(spec, registers=registers, mlp_ratio=ratio, norm_eps=eps, **flagged)
