"""Brings a data set into the form that training reads; see `toco prepare --help`."""

import argparse

from toco_jax.cli import commands
from toco_jax.data import remarks
from toco_jax.runtime.progress import follow


def coco(args: argparse.Namespace) -> None:
    """COCO 2014 from the official annotation files."""
    from toco_jax.data.build.coco_masks import parts_to_prepare, prepare_part
    from toco_jax.data.sources.coco import PREPARED

    out = args.out or args.root / PREPARED
    for part in parts_to_prepare(args.root):
        states = prepare_part(args.root, out, part, workers=args.threads)
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


if __name__ == "__main__":
    commands.start("prepare")
