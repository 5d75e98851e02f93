"""Reads a whole data set once and says what is wrong with it, before a GPU is spent on it.

    toco check voc data.root=VOCdevkit/VOC2012 [--fix]

Prints counts, class frequencies, classes that occur together and image sizes, and each problem with
its file and remedy. The exit code is 1 if training would fail.
"""

import argparse
import pathlib
import sys

from toco_jax.cli import process
from toco_jax.cli.parser import Parser, whole_number

SET_UP = (process.log_errors_only,)


def add_arguments(parser: Parser) -> None:
    """Adds the words and options of `toco check`."""
    parser.add_config()
    add = parser.add_argument
    add("--fix", action="store_true", help="write <split>_clean.txt, without unusable images")
    file = "write counts and problems to this file (default: none)"
    add("--json", metavar="FILE", type=pathlib.Path, help=file)
    add("--threads", type=whole_number(1), default=8, help="files read side by side")


def run(options: argparse.Namespace) -> None:
    """Checks, prints, and exits with 1 where training would fail."""
    from toco_jax.config import validate
    from toco_jax.data import check
    from toco_jax.run.config_files import load_config

    config = load_config(options.config, options.keys)
    validate(config, num_devices=1)
    if config.data.source == "shapes":
        print("procedural scenes have no files to check")
        return
    problems = check.print_check(
        config, threads=options.threads, fix=options.fix, json_file=options.json
    )
    fatal = sum(problem.fatal for problem in problems)
    if fatal:
        sys.exit(f"training would fail: {fatal} of {len(problems)} problems stop it")
    print(f"training can start; {len(problems)} remarks" if problems else "no problem found")
