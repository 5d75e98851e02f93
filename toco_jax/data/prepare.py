"""Prepares a data set for training, once; a run that was stopped goes on where it stopped.

    python -m toco_jax.data.prepare coco --root COCO [--out DIR] [--workers N]
    python -m toco_jax.data.prepare voc --root VOCdevkit/VOC2012 --sbd SBD
    python -m toco_jax.data.prepare tfds --source voc --root DIR --splits train_aug val --out DIR

`coco` reads the official instances_*.json into image-level labels and VOC-style masks; `voc` lays
the masks of SBD beside VOC's; `tfds` writes any of the sources as TFDS records (array_record) for
machines that read from a shared file system or a bucket.
"""

import argparse
import os
import pathlib
from collections.abc import Sequence

from toco_jax.cli import commands
from toco_jax.data import remarks
from toco_jax.runtime.progress import follow


def coco(args: argparse.Namespace) -> None:
    """COCO 2014 from the official annotation files."""
    from toco_jax.data.build.coco_masks import parts_to_prepare, prepare_part
    from toco_jax.data.sources.coco import PREPARED

    out = args.out or args.root / PREPARED
    for part in parts_to_prepare(args.root):
        states = prepare_part(args.root, out, part, workers=args.workers)
        count = follow(part, states)
        print(f"{part}: {count} images with annotations" if count else f"{part}: prepared already")
    print(f"labels and masks are in {out}")


def voc(args: argparse.Namespace) -> None:
    """SegmentationClassAug from VOC's masks and SBD's."""
    from toco_jax.data.build.sbd import prepare_sbd
    from toco_jax.data.sources.voc import derived_train_aug

    count = follow("SegmentationClassAug", prepare_sbd(args.root, args.sbd))
    train_aug = len(derived_train_aug(args.root))
    print(f"{count} masks in {args.root / 'SegmentationClassAug'}; {train_aug} images in train_aug")


def tfds(args: argparse.Namespace) -> None:
    """Any file source as TFDS records."""
    from toco_jax.data import open_source
    from toco_jax.data.build.tfds import build

    sources = {
        split: open_source(
            args.source,
            root=str(args.root),
            split=split,
            masks=not args.no_masks,
            split_seed=args.split_seed,
            splits=args.splits,
            labels=args.labels,
            label_separator=args.label_separator,
            mask_folder=args.masks,
            mask_foreground=args.mask_foreground,
            val_fraction=args.val_fraction,
        )
        for split in args.splits
    }
    for remark in remarks.own(*sources.values()):
        print(f"remark: {remark}")
    folder = build(sources, args.out, kind=args.source)
    counts = ", ".join(f"{split} {len(source)}" for split, source in sources.items())
    print(f"{counts}; use data.source=tfds and data.root={folder}")


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    top = commands.make_parser("python -m toco_jax.data.prepare", __doc__)
    chosen = top.add_subparsers(dest="command", required=True)
    added = {f.__name__: chosen.add_parser(f.__name__, help=f.__doc__) for f in (coco, voc, tfds)}
    for function in (coco, voc, tfds):
        added[function.__name__].set_defaults(run=function)
        commands.add_debug(added[function.__name__])
        added[function.__name__].add_argument(
            "--root", type=pathlib.Path, required=True, help="folder of the data set"
        )
    added["coco"].add_argument("--out", type=pathlib.Path, help="<root>/prepared if unset")
    added["coco"].add_argument(
        "--workers", type=int, default=os.cpu_count(), help="processes; 0 works in this one"
    )
    added["voc"].add_argument("--sbd", type=pathlib.Path, required=True, help="SBD's folder")
    records = added["tfds"]
    records.add_argument("--source", choices=("voc", "coco", "folder"), required=True)
    records.add_argument("--splits", nargs="+", default=["train", "val"])
    records.add_argument("--out", required=True, help="where the records go; a path or a bucket")
    records.add_argument("--labels", default="", help="as data.labels of a configuration")
    records.add_argument(
        "--label-separator", default="", help="as data.label_separator of a configuration"
    )
    records.add_argument("--masks", default="", help="as data.masks of a configuration")
    records.add_argument("--mask-foreground", type=int, default=0, help="as data.mask_foreground")
    records.add_argument("--no-masks", action="store_true", help="leave masks out")
    records.add_argument("--val-fraction", type=float, default=0.1, help="as data.val_fraction")
    records.add_argument("--split-seed", type=int, default=0, help="as data.split_seed")
    return top


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one sub-command; a user's mistake is one sentence and exit code 1."""
    args = commands.parse(parser(), arguments)
    with commands.reported(debug=args.debug):
        args.run(args)


if __name__ == "__main__":
    commands.keep_streams()
    main()
