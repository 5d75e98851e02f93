"""Finds the masks of a folder's images."""

import collections
import pathlib
from collections.abc import Collection, Mapping, Sequence

from toco_jax.data.files import OnProblem
from toco_jax.data.folders.class_folders import plain
from toco_jax.data.folders.equal_files import equal_files
from toco_jax.data.image_files import image_files
from toco_jax.runtime.errors import DataError

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
    *,
    images: Collection[str],
    groups: Mapping[str, Sequence[str]],
    split: str,
    num_classes: int,
    on_problem: OnProblem,
) -> tuple[pathlib.Path | None, ...]:
    """The mask file of each image, None where all pixels are to be ignored.

    Args:
        folder: the masks' folder, None where there is none.
        names: the images, by whose names the masks are called.
        images: the names of all images of the folder. The last part of a name calls a mask too
            where no other image has it.
        groups: for an image that several files hold, the names of all of them.
        split: whose images these are.
        num_classes: of the folder.
        on_problem: called with the name and a `MaskError` for an image without a mask or with two.

    Raises:
        DataError: more classes than masks can tell apart.
    """
    if folder is None:
        return (None,) * len(names)
    if num_classes > MAX_CLASSES:
        raise DataError(
            f"{num_classes} classes do not fit 8-bit masks, which hold {MAX_CLASSES}; remove "
            f"{folder} or use fewer classes"
        )
    there = {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for path in image_files(folder, endings=(".png",)).files
    }
    sharing = collections.Counter(image.rpartition("/")[2] for image in images)
    chosen = []
    for name in names:
        called = list(groups.get(name, (name,)))
        called += [last for n in called if sharing[last := n.rpartition("/")[2]] == 1]
        masks = list(dict.fromkeys(there[n] for n in called if n in there))
        if len(masks) > 1 and [len(group) for group in equal_files(masks)] != [len(masks)]:
            message = (
                f"the same picture has the masks {masks[0]} and {masks[1]}, which differ; join "
                "them into one"
            )
            on_problem(name, MaskError(message))
        chosen.append(masks[0] if masks else None)
    _name_missing(folder, dict(zip(names, chosen, strict=True)), there, split, on_problem)
    return tuple(chosen)


def _name_missing(
    folder: pathlib.Path,
    chosen: Mapping[str, pathlib.Path | None],
    there: Mapping[str, pathlib.Path],
    split: str,
    on_problem: OnProblem,
) -> None:
    missing = [name for name, mask in chosen.items() if mask is None]
    seen = f" ({min(there)}.png is there)" if there else ""
    for name in missing:
        message = (
            f"mask {folder / name}.png is missing{seen}, so that {len(missing)} of the "
            f"{len(chosen)} images of {split!r} have none; add it or take {name!r} out of the split"
        )
        on_problem(name, MaskError(message))
