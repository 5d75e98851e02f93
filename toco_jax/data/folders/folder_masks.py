"""Finds the masks of a folder's images."""

import collections
import pathlib
from collections.abc import Collection, Mapping, Sequence

from toco_jax.data.files import OnProblem
from toco_jax.data.folders.equal_files import equal_files
from toco_jax.data.folders.folder_names import in_any_case
from toco_jax.data.image_files import image_files
from toco_jax.runtime.errors import DataError, shown

MASKS = "masks"
MAX_CLASSES = 254  # of 8-bit masks, where 0 is the background and 255 ignored


class MaskError(DataError):
    """An image has no mask, or two. Training needs no masks, but scores do."""


def mask_folder_of(root: pathlib.Path, chosen: str) -> pathlib.Path | None:
    """Finds the folder of masks; None if none was chosen and none is there.

    Raises:
        DataError: the chosen folder is not there.
    """
    folder = root / (chosen or MASKS)
    if folder.is_dir():
        return folder
    if chosen:
        raise DataError(f"{folder} is not a folder; correct data.masks or data.train_masks")
    return in_any_case(root, MASKS, pathlib.Path.is_dir)


def folders_there(root: pathlib.Path, chosen: Sequence[str]) -> list[pathlib.Path]:
    """Returns the folders of masks, of those that `mask_folder_of` would take, that are there."""
    there = (mask_folder_of(root, name) for name in chosen if not name or (root / name).is_dir())
    return list(dict.fromkeys(folder for folder in there if folder))


def mask_files(
    folder: pathlib.Path | None,
    names: Sequence[str],
    *,
    images: Collection[str],
    groups: Mapping[str, Sequence[str]],
    split: str,
    num_classes: int,
    partial: bool,
    on_problem: OnProblem,
) -> tuple[pathlib.Path | None, ...]:
    """Finds the mask file of each image, None for an image whose pixels are all to be ignored.

    A mask has the name of its image. The first folders may be left out of that name unless another
    image ends in the same.

    Args:
        folder: folder of the masks; None if there is none.
        names: names of the images.
        images: names of all images of the data set.
        groups: for an image that several files hold, the names of all of them.
        split: name of the split.
        num_classes: number of classes.
        partial: whether images may lack a mask.
        on_problem: called with the name and a `MaskError` for an image with two masks or, unless
            `partial`, without one.

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
    listing = image_files(folder, endings=(".png",))
    there, others = (
        {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}
        for paths in (listing.files, listing.others)
    )
    sharing = collections.Counter(end for image in images for end in _ends(image))
    chosen = []
    for name in names:
        called = [
            end
            for each in groups.get(name, (name,))
            for end in _ends(each)
            if end == each or sharing[end] == 1
        ]
        masks = list(dict.fromkeys(there[n] for n in called if n in there))
        if not masks and (strange := [others[n] for n in called if n in others]):
            raise DataError(f"mask {strange[0]} is no PNG, as masks have to be; save it as one")
        if len(masks) > 1 and [len(group) for group in equal_files(masks)] != [len(masks)]:
            message = (
                f"the same picture has the masks {masks[0]} and {masks[1]}, which differ; join "
                "them into one"
            )
            on_problem(name, MaskError(message))
        chosen.append(masks[0] if masks else None)
    if not partial:
        _name_missing(folder, dict(zip(names, chosen, strict=True)), there, split, on_problem)
    return tuple(chosen)


def _ends(name: str) -> list[str]:
    """Returns a name and what is left of it without its first folders: a/b/c, b/c, c."""
    parts = name.split("/")
    return ["/".join(parts[k:]) for k in range(len(parts))]


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
            f"{len(chosen)} images of {split!r} have none; add it or take {shown(name)} out of the "
            "split"
        )
        on_problem(name, MaskError(message))
