"""Writes a page that shows a run, or that compares several.

    toco report runs/x                                    runs/x/report.html anew
    toco report runs/a runs/b runs/c --out compared.html

Training writes `report.html` itself, at every evaluation and at its end. A comparison shows runs
that differ in their seed alone as one: their mean, the lowest and the highest. The pages need no
network and no other file.
"""

import argparse
import pathlib

from toco_jax.cli.parser import Parser

SET_UP = ()


def add_arguments(parser: Parser) -> None:
    """Adds the words and options of `toco report`."""
    path = pathlib.Path
    parser.add_argument("runs", metavar="RUN", nargs="+", type=path, help="folders of runs")
    target = "the page (default: report.html in the run, comparison.html for several)"
    parser.add_argument("--out", metavar="FILE", type=path, help=target)


def run(options: argparse.Namespace) -> None:
    """Writes the page and says where it is."""
    from toco_jax.report import comparison_page, run_page
    from toco_jax.runtime.console import say
    from toco_jax.runtime.outputs import check_file

    out = options.out
    if len(options.runs) > 1:
        out = check_file(out or pathlib.Path("comparison.html"), "--out")
        say(comparison_page.write(options.runs, out))
    else:
        say(run_page.write(options.runs[0], out and check_file(out, "--out")))
