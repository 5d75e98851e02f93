"""Shares the network of a run on the Hugging Face hub.

    toco push runs/x owner/name [--licence apache-2.0] [--private]
    toco push runs/x owner/name --dry_run FOLDER     only writes the files

The repository receives the weights under the published network's names (`model.safetensors`), the
configuration, the classes and a card with the scores of the run. With `--compact` the weights have
8 bits, and the projection heads, which only training uses, are left out. Every verb takes
`hf:owner/name` in the place of a run. `hf auth login` logs in.
"""

import argparse
import pathlib

from toco_jax.cli import process
from toco_jax.cli.parser import Parser

SET_UP = (process.log_errors_only, process.keep_programs)


def add_arguments(parser: Parser) -> None:
    """Adds the words and options of `toco push`."""
    add = parser.add_argument
    parser.add_run()
    add("repository", metavar="OWNER/NAME", help="the repository, created if it is missing")
    add("--private", action="store_true", help="create a private repository")
    add("--licence", metavar="NAME", help="of the network, such as apache-2.0 (default: none)")
    add("--compact", action="store_true", help="weights of 8 bits, in a fraction of the size")
    add(
        "--dry_run",
        metavar="FOLDER",
        type=pathlib.Path,
        help="only write the files (default: none)",
    )


def run(options: argparse.Namespace) -> None:
    """Uploads, and prints where the network is."""
    from toco_jax.convert import hub
    from toco_jax.runtime.console import say

    lines = hub.push(
        pathlib.Path(options.checkpoint),
        options.repository,
        private=options.private,
        licence=options.licence,
        compact=options.compact,
        dry_run=options.dry_run,
    )
    say("\n".join(lines))
