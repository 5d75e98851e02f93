"""Finds the masks of a folder's images."""

import pathlib
from collections.abc import Mapping, Sequence

from toco_jax.data import DataError
from toco_jax.data.class_folders import plain
from toco_jax.data.equal_files import equal_files
from toco_jax.data.files import OnProblem
from toco_jax.image_files import image_files

MASKS = "masks"
MAX_CLASSES = 254  # of 8-bit masks, where 0 is the background and 255 ignored


class MaskError(DataError):
    """A mask that is missing or of which there are two: training does without, scores do not."""


def mask_folder_of(root: pathlib.Path, chosen: str) -> pathlib.Path | None:
    folder = root / (chosen or MASKS)
    if folder.is_dir():
        return folder
    if chosen:
        raise DataError(f"data.masks={chosen!r}: {folder} is not a folder; correct the path")
    alike = [p for p in root.glob("*") if plain(p.name) == MASKS and p.is_dir()]
    return alike[0] if len(alike) == 1 else None


def mask_files(
    folder: pathlib.Path | None,
    names: Sequence[str],
    groups: Mapping[str, Sequence[str]],
    split: str,
    num_classes: int,
    on_problem: OnProblem,
) -> tuple[pathlib.Path | None, ...]:
    """The mask file of each image, None where all pixels are to be ignored."""
    if folder is None:
        return (None,) * len(names)
    if num_classes > MAX_CLASSES:
        raise DataError(
            f"{num_classes} classes do not fit 8-bit masks, which hold {MAX_CLASSES}; remove "
            f"{folder} or use fewer classes"
        )
    there = {
        path.relative_to(folder).with_suffix("").as_posix()
        for path in image_files(folder, endings=(".png",)).files
    }
    chosen = []
    for name in names:
        masks = [folder / f"{n}.png" for n in groups.get(name, (name,)) if n in there]
        if len(masks) > 1 and [len(group) for group in equal_files(masks)] != [len(masks)]:
            message = (
                f"the same picture has the masks {masks[0]} and {masks[1]}, which differ; join "
                "them into one"
            )
            on_problem(name, MaskError(message))
        chosen.append(masks[0] if masks else None)
    missing = [name for name, mask in zip(names, chosen, strict=True) if mask is None]
    for name in missing:
        seen = f" ({min(there)}.png is there)" if there else ""
        message = (
            f"mask {folder / name}.png is missing{seen}, so that {len(missing)} of the "
            f"{len(names)} images of {split!r} have none; add it or take {name!r} out of the split"
        )
        on_problem(name, MaskError(message))
    return tuple(chosen)
