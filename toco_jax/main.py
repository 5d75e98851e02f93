"""Trains ToCo: `python -m toco_jax.main --config=configs/voc.py` is `toco train configs/voc.py`."""

from toco_jax.cli import commands

if __name__ == "__main__":
    commands.start("train")
