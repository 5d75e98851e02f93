"""Reads the image-level labels of a folder, from a label file, texts beside images or folders."""

import dataclasses
import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from toco_jax.data.files import OnProblem
from toco_jax.data.folders.class_folders import mask_folders, read_class_folders
from toco_jax.data.folders.folder_names import in_any_case
from toco_jax.data.folders.folder_splits import split_folder, split_list
from toco_jax.data.image_files import Listing
from toco_jax.data.labelling.label_entries import is_names
from toco_jax.data.labelling.label_files import ENDINGS, read_label_file
from toco_jax.data.labelling.lists import finder
from toco_jax.data.labelling.sidecars import read_sidecars
from toco_jax.data.remarks import DataRemark, as_remarks, count, some
from toco_jax.runtime.errors import DataError, shown

# Where labels are looked for, in this order.
LABEL_FILES = (
    *("labels.csv", "labels.json", "annotations.xml", "annotations.json", "result.json"),
    *("_annotations.coco.json", "annotations/instances_default.json"),
)
CLASSES_FILE = "classes.txt"


@dataclasses.dataclass
class Labels:
    """The labels of a folder.

    Attributes:
        entries: by the name of an image, or of an entry without an image, its label as in a label
            file or what is wrong with it.
        missing: returns the error to raise for an image without a label.
        joined: whether files of the same content get all of their labels together.
        order: the classes as a list in the labels' file has them; empty if there is none.
        remarks: on how the labels were read.
    """

    entries: dict[str, Any]
    missing: Callable[[str], DataError]
    joined: bool = False
    order: Sequence[str] = ()
    remarks: list[DataRemark] = dataclasses.field(default_factory=list)

    def names(self) -> tuple[str, ...]:
        """Returns the names of all classes that the entries name, in no order."""
        found: dict[str, None] = {}
        for entry in self.entries.values():
            if is_names(entry):
                found |= dict.fromkeys(entry)
        return tuple(found)


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
    with_text = {name: texts.pop(name) for name in files if name in texts}
    kind = kind or _labels_there(root, files, with_text, on_problem)
    if kind == "folders":
        found = _labels_of_folders(root, files, listed, splits, on_problem)
    elif kind == "sidecars":
        found = _labels_of_texts(root, files, with_text, listed, label_separator)
    elif pathlib.PurePath(kind).suffix.lower() in ENDINGS:
        path = root / kind
        found = _labels_of_file(path, root, files, listed, label_separator, on_problem)
    else:
        raise DataError(
            f"data.labels={kind!r} is none of sidecars, folders or a label file "
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


def label_files(root: pathlib.Path) -> list[str]:
    """Names the label files of a folder as they are spelt; the first one is read."""
    found = []
    for name in LABEL_FILES:
        folder, _, file = name.rpartition("/")
        inside = in_any_case(root, folder, pathlib.Path.is_dir) if folder else root
        path = in_any_case(inside, file, pathlib.Path.is_file) if inside else None
        found += [path.relative_to(root).as_posix()] if path else []
    return found


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

    remarks = _without_label(files, entries, "text file of the same name", "an empty one")
    return Labels(entries, missing, remarks=[*as_remarks(messages), *remarks])


def _labels_there(
    root: pathlib.Path,
    files: Mapping[str, pathlib.Path],
    with_text: Collection[str],
    on_problem: OnProblem,
) -> str:
    if there := label_files(root):
        return there[0]
    if not with_text:
        return "folders"
    if len(with_text) < len(files) and all("/" in name for name in files):
        message = (
            f"only {len(with_text)} of {len(files)} images "
            f"{'has' if len(with_text) == 1 else 'have'} a text file of the same name "
            f"({some(with_text)}), and all lie in sub-folders; set data.labels to sidecars or "
            "folders, whichever holds the labels"
        )
        on_problem("", DataError(message))
        return "folders"
    return "sidecars"


def _labels_of_file(
    path: pathlib.Path,
    root: pathlib.Path,
    files: Mapping[str, pathlib.Path],
    listed: Sequence[str],
    label_separator: str,
    on_problem: OnProblem,
) -> Labels:
    read = read_label_file(
        path,
        known=listed,
        separator=label_separator,
        names=files,
        name_of=_from(path, root, files),
        on_problem=on_problem,
    )
    entries = read.entries
    absent = tuple(str(read.written[name]) for name in entries if name not in files)
    mentioned = {**entries, **read.unlabelled}
    remarks = _without_label(files, mentioned, f"entry in {path.name}", "one with no label")
    if len(absent) == len(entries):
        message = (
            f"none of the {len(entries)} entries of label file {path} names an image below {root} "
            f"(its first one is {shown(absent[0])}, the first image {next(iter(files))!r}); write "
            "paths from data.root on"
        )
        on_problem("", DataError(message))
    elif absent:
        names = "names" if len(absent) == 1 else "name"
        message = (
            f"{len(absent)} of {len(entries)} entries in {path.name} {names} no image "
            f"({some(absent)}); correct the name or restore the file"
        )
        remarks.append(DataRemark("labels without an image", message, absent))
    return Labels(
        dict(sorted(entries.items())),
        read.missing,
        order=read.classes,
        remarks=[*as_remarks(read.remarks), *remarks],
    )


def _from(
    path: pathlib.Path, root: pathlib.Path, files: Mapping[str, pathlib.Path]
) -> Callable[[str], str]:
    """Returns a function that finds images by names from a label file's folder on, or the root."""
    find = finder(root, files)
    folder = path.parent.relative_to(root).as_posix() if path.parent.is_relative_to(root) else "."

    def find_there(name: str) -> str:
        there = find(f"{folder}/{name}")
        return there if folder != "." and there in files else find(name)

    return find_there


def _without_label(
    files: Mapping[str, pathlib.Path], entries: Mapping[str, Any], what: str, empty: str
) -> list[DataRemark]:
    unlabelled = _unlabelled(files, entries)
    masks = {name for names in mask_folders(unlabelled).values() for name in names}
    names = tuple(name for name in unlabelled if name not in masks)
    if not names:
        return []
    have = "has" if len(names) == 1 else "have"
    message = (
        f"{len(names)} of {len(files)} images {have} no {what} ({some(names)}); add it, or {empty} "
        "for an image without any class"
    )
    return [DataRemark("images without a label", message, names)]


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
        for folder, names in mask_folders(_unlabelled(files, entries)).items()
    ]


def _unlabelled(
    files: Mapping[str, pathlib.Path], entries: Mapping[str, Any]
) -> dict[str, pathlib.Path]:
    return {name: path for name, path in files.items() if name not in entries}
