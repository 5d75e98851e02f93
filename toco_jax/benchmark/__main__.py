"""`python -m toco_jax.benchmark step` is `toco benchmark step`."""

from toco_jax.cli import commands

if __name__ == "__main__":
    commands.start("benchmark")
