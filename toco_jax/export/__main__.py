"""`python -m toco_jax.export`, the same as `toco export`."""

from toco_jax.cli import commands

commands.start("export")
