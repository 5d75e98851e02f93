"""Prints every key of a configuration with its value, with what "auto" means on this machine.

    toco config voc:vit_base
    toco config configs/coco.py batch_size=16 --platform gpu

A line `key = value` holds a value in Python's notation. The values are checked as training checks
them, but for the number of devices.
"""

import argparse

from toco_jax.cli.parser import Parser

SET_UP = ()


def add_arguments(parser: Parser) -> None:
    """Adds the words and options of `toco config`."""
    parser.add_config()
    about = 'for which "auto" is resolved (default: that of the devices at hand)'
    parser.add_argument("--platform", choices=("cpu", "gpu", "tpu"), help=about)


def run(options: argparse.Namespace) -> None:
    """Prints the keys."""
    from toco_jax.config import flat_values, resolve, validate
    from toco_jax.run.config_files import load_config

    config = load_config(options.config, options.keys)
    validate(config, num_devices=1)
    config = resolve(config, options.platform)
    for key, value in flat_values(config.to_dict()).items():
        print(f"{key} = {value!r}")
