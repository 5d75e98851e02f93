"""Brings a data set into the form that training reads; done once, and resumable.

    toco prepare coco --root COCO [--out DIR]
    toco prepare voc --root VOCdevkit/VOC2012 --sbd SBD
    toco prepare tfds --source voc --root DIR --splits train_aug val --out DIR

`coco` reads the official instances_*.json into image-level labels and VOC-style masks; `voc` puts
the masks of SBD beside VOC's; `tfds` writes any of the sources as TFDS records (array_record) for
machines that read from a shared file system or a bucket.
"""

import argparse
import os
import pathlib

from toco_jax.cli.parser import Parser, whole_number

SET_UP = ()

PARTS = {
    "coco": "COCO 2014 from the official annotation files",
    "voc": "SegmentationClassAug from VOC's masks and SBD's",
    "tfds": "any file source as TFDS records",
}


def add_arguments(parser: Parser, part: str) -> None:
    """Adds the options of one of `PARTS`."""
    add = parser.add_argument
    path = pathlib.Path
    folder = "folder of the data set (no default)"
    add("--root", metavar="DIR", type=path, required=True, help=folder)
    if part == "coco":
        add("--out", metavar="DIR", type=path, help="folder to write (default: <root>/prepared)")
        number, most = whole_number(0), os.cpu_count()
        add("--threads", type=number, default=most, help="processes; 0 works in this one")
    elif part == "voc":
        add("--sbd", metavar="DIR", type=path, required=True, help="SBD's folder (no default)")
    else:
        _add_record_arguments(parser)


def _add_record_arguments(parser: Parser) -> None:
    add = parser.add_argument
    kinds = ("voc", "coco", "folder")
    add("--source", choices=kinds, required=True, help="kind of the data set (no default)")
    add("--splits", metavar="NAME", nargs="+", default=["train", "val"], help="splits to write")
    add("--out", metavar="DIR", required=True, help="folder or bucket of the records (no default)")
    add("--labels", default="", help="as the key data.labels")
    add("--label_separator", default="", help="as data.label_separator")
    add("--masks", metavar="DIR", default="", help="as data.masks")
    add("--mask_foreground", type=int, default=0, help="as data.mask_foreground")
    add("--no_masks", action="store_true", help="leave masks out")
    add("--val_fraction", type=float, default=0.1, help="as data.val_fraction")
    add("--split_seed", type=int, default=0, help="as data.split_seed")


def run(options: argparse.Namespace) -> None:
    """Prepares, and prints what was written."""
    from toco_jax.data import prepare

    {"coco": prepare.coco, "voc": prepare.voc, "tfds": prepare.tfds}[options.part](options)
