"""`python -m toco_jax.convert`, the same as `toco convert`."""

from toco_jax.cli import commands

commands.start("convert")
