"""Reads the image-level labels of a folder, from a label file, texts beside images or folders."""

import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from toco_jax.data.files import OnProblem
from toco_jax.data.folders import labelme_files
from toco_jax.data.folders.class_folders import mask_folders, read_class_folders
from toco_jax.data.folders.folder_label_files import (
    label_file_there,
    label_files_of_splits,
    labels_of,
    labels_of_files,
)
from toco_jax.data.folders.folder_splits import split_folder, split_list
from toco_jax.data.folders.found_labels import Labels, unlabelled, without_label
from toco_jax.data.image_files import Listing
from toco_jax.data.labelling.label_files import ENDINGS
from toco_jax.data.labelling.sidecars import read_sidecars
from toco_jax.data.remarks import DataRemark, as_remarks, count, some
from toco_jax.runtime.errors import DataError, shown

CLASSES_FILE = "classes.txt"


def read_labels(
    root: pathlib.Path,
    files: Mapping[str, pathlib.Path],
    listing: Listing,
    kind: str,
    *,
    label_separator: str,
    listed: Sequence[str],
    splits: Collection[str],
    masks: pathlib.Path | None,
    on_problem: OnProblem,
) -> Labels:
    """Reads the labels of all images; see `sources.folder.open_folder` for the arguments.

    `files` holds the path of each image file by its name, `listing` all files of the folder,
    `kind` what is `labels` there, `listed` the classes if they are known, and `masks` the folder of
    the masks, if there is one.

    Raises:
        DataError: labels of an unknown kind, or a label file that cannot be read.
    """
    texts = _texts(root, listing, splits)
    with_text = {name: texts.pop(text) for name in files for text in _beside(name, texts)}
    jsons = labelme_files.json_files(root, listing)
    kind = kind or _labels_there(root, files, with_text, jsons, on_problem)
    if kind == "folders":
        found = _labels_of_folders(root, files, listed, splits, on_problem)
    elif kind == "labelme":
        file, used = labelme_files.read_files(root, jsons, files, on_problem)
        found = labels_of(file, root, files, listed, used, on_problem)
    elif kind == "sidecars":
        found = _labels_of_texts(root, files, with_text, listed, label_separator)
    elif pathlib.PurePath(kind).suffix.lower() in ENDINGS:
        found = labels_of_files(root, kind, files, listed, label_separator, on_problem)
    else:
        raise DataError(
            f"data.labels={kind!r} is none of sidecars, labelme, folders or a label file "
            f"({', '.join(ENDINGS)}); correct it"
        )
    if with_text and kind != "sidecars":
        message = (
            f"{count(len(with_text), 'text file')} beside images passed over ({some(with_text)}), "
            f"as labels come from {kind}; set data.labels=sidecars if they are the labels"
        )
        found.remarks.append(DataRemark("files passed over", message, tuple(with_text)))
    if texts:
        names = tuple(str(path.relative_to(root)) for path in texts.values())
        message = (
            f"{count(len(names), 'text file')} passed over ({some(names)}), beside no image and "
            f"neither {CLASSES_FILE} nor a list of these splits; rename those that are meant"
        )
        found.remarks.append(DataRemark("files passed over", message, names))
    if not found.joined:
        found.remarks += _mask_remarks(root, files, found.entries, masks)
    return found


def _texts(
    root: pathlib.Path, listing: Listing, splits: Collection[str]
) -> dict[str, pathlib.Path]:
    """Returns the text files by their names without ending, except lists in the root."""
    lists = {f"{split}.txt".casefold() for split in splits} | {CLASSES_FILE}
    return {
        path.relative_to(root).with_suffix("").as_posix(): path
        for path in listing.others
        if path.suffix.lower() == ".txt"
        and not (path.parent == root and path.name.casefold() in lists)
    }


def _beside(name: str, texts: Mapping[str, pathlib.Path]) -> tuple[str, ...]:
    """Returns the name of an image's text, () if it has none.

    YOLO's tools look for that of `images/train/x` in `labels/train/x`.
    """
    before, images, after = f"/{name}".rpartition("/images/")
    twin = f"{before}/labels/{after}".removeprefix("/")
    return next(
        ((text,) for text in (name, twin) if text in texts and (images or text == name)), ()
    )


def _labels_of_folders(
    root: pathlib.Path,
    files: Mapping[str, pathlib.Path],
    listed: Sequence[str],
    splits: Collection[str],
    on_problem: OnProblem,
) -> Labels:
    lists = {split: split_list(root, split) for split in splits}
    entries, remarks = read_class_folders(
        root,
        files,
        listed=listed,
        splits=splits,
        in_folders=any(split_folder(root, split, listed) for split in splits if not lists[split]),
        in_lists=any(lists.values()),
        on_problem=on_problem,
    )

    def missing(name: str) -> DataError:
        return DataError(
            f"image {files.get(name, root / name)} lies in no class folder; move it into one or "
            "take it out of the split"
        )

    return Labels(entries, missing, joined=True, remarks=remarks)


def _labels_of_texts(
    root: pathlib.Path,
    files: Mapping[str, pathlib.Path],
    with_text: Mapping[str, pathlib.Path],
    listed: Sequence[str],
    label_separator: str,
) -> Labels:
    entries, messages = read_sidecars(root, with_text, known=listed, separator=label_separator)

    def missing(name: str) -> DataError:
        return DataError(
            f"label file {root / name}.txt is missing; add the file or take {shown(name)} out of "
            "the split"
        )

    remarks = without_label(files, entries, "text file of the same name", "an empty one")
    return Labels(entries, missing, remarks=[*as_remarks(messages), *remarks])


def _labels_there(
    root: pathlib.Path,
    files: Mapping[str, pathlib.Path],
    with_text: Mapping[str, pathlib.Path],
    jsons: Mapping[str, pathlib.Path],
    on_problem: OnProblem,
) -> str:
    if there := label_file_there(root):
        return there
    if pattern := label_files_of_splits(root):
        return pattern
    if with_text:
        if any(path.with_suffix("") != root / name for name, path in with_text.items()):
            return "sidecars"  # in a folder of their own
        kind, what, named = "sidecars", "text file", with_text
    elif with_file := labelme_files.of_images(jsons, files):
        kind, what, named = "labelme", "file of labelme", with_file
    else:
        return "folders"
    if len(named) == len(files) or any("/" not in name for name in files):
        return kind
    message = (
        f"only {len(named)} of {len(files)} images {'has' if len(named) == 1 else 'have'} a {what} "
        f"of the same name ({some(named)}), and all lie in sub-folders; set data.labels to {kind} "
        "or folders, whichever holds the labels"
    )
    on_problem("", DataError(message))
    return "folders"


def _mask_remarks(
    root: pathlib.Path,
    files: Mapping[str, pathlib.Path],
    entries: Mapping[str, Any],
    masks: pathlib.Path | None,
) -> list[DataRemark]:
    """Remarks on folders of masks that the configuration does not name."""
    use = f"the masks are those in {masks.name}" if masks else "set data.masks to use them"
    return [
        DataRemark(
            "masks passed over",
            f"folder {root / folder} ({count(len(names), 'picture')}) looks like masks; {use}",
            tuple(names),
        )
        for folder, names in mask_folders(unlabelled(files, entries)).items()
    ]
