"""Finds the pictures in a folder, by one rule for training, the check and prediction."""

import dataclasses
import importlib.util
import os
import pathlib
from collections.abc import Collection, Iterable, Iterator

_HEIF_ENDINGS = (".heic", ".heif", ".hif")
READS_HEIF = importlib.util.find_spec("pillow_heif") is not None

# What `photos.decode_photo` decodes. Capitals count as small letters.
IMAGE_ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".gif", ".webp"),
    *(".tif", ".tiff", ".avif", ".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm", ".tga"),
    *(_HEIF_ENDINGS if READS_HEIF else ()),
)

_NOT_ENTERED = "hidden or a system's own, with pictures in them; rename those you need"
# Folders of operating systems and network drives, in small letters.
_OF_SYSTEMS = (
    *("@eadir", "#recycle", "#snapshot", "$recycle.bin", "lost+found", "__macosx"),
    *("system volume information", "__pycache__"),
)
_CONVERT = "of a kind that is not read; save them as PNG or JPEG"
# Pictures that are passed over, and what to do about them.
_NOT_READ = dict.fromkeys(
    (".svg", ".psd", ".xcf", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"),
    _CONVERT,
) | dict.fromkeys((".dcm", ".nii", ".exr", ".hdr", ".jxl", ".eps", ".ico"), _CONVERT)
if not READS_HEIF:
    _NOT_READ |= dict.fromkeys(
        _HEIF_ENDINGS, "for which pillow-heif is missing: pip install pillow-heif"
    )


@dataclasses.dataclass(frozen=True)
class Listing:
    """The pictures below a folder.

    Attributes:
        files: the pictures to read, sorted.
        passed_over: files and folders that are not read, by reason. A reason includes the remedy
            and completes a sentence that begins with the files.
        others: files that do not look like pictures, sorted.
    """

    files: tuple[pathlib.Path, ...]
    passed_over: dict[str, tuple[pathlib.Path, ...]]
    others: tuple[pathlib.Path, ...] = ()

    def remarks(self) -> list[str]:
        """Returns a sentence for each reason, with the number of files and the first three."""
        return [
            f"{len(paths)} {'folder' if reason == _NOT_ENTERED else 'file'}"
            f"{'' if len(paths) == 1 else 's'} passed over: "
            f"{', '.join(map(str, paths[:3]))}{', ...' if len(paths) > 3 else ''}, {reason}"
            for reason, paths in self.passed_over.items()
        ]


def image_files(
    root: str | os.PathLike,
    *,
    endings: Collection[str] = IMAGE_ENDINGS,
    leave_out: Iterable[str | os.PathLike] = (),
) -> Listing:
    """Finds the pictures in a folder and all folders below it, links to folders included.

    Hidden folders and those that systems make are not entered, as they hold thumbnails and the
    like. They are passed over with a reason if there are pictures right in them.

    Args:
        root: the folder.
        endings: endings of pictures, in small letters.
        leave_out: folders not to enter.
    """
    left_out = {os.path.realpath(folder) for folder in leave_out}
    files: list[pathlib.Path] = []
    others: list[pathlib.Path] = []
    passed_over: dict[str, list[pathlib.Path]] = {}
    for path, trouble in _walk(pathlib.Path(root), (), left_out):
        reason = trouble or _reason_to_pass_over(path, endings)
        if reason:
            passed_over.setdefault(reason, []).append(path)
        elif path.suffix.lower() in endings:
            files.append(path)
        else:
            others.append(path)
    return Listing(
        tuple(sorted(files)),
        {reason: tuple(sorted(paths)) for reason, paths in sorted(passed_over.items())},
        tuple(sorted(others)),
    )


def image_of_each(folder: pathlib.Path, names: Iterable[str]) -> tuple[pathlib.Path, ...]:
    """Finds the picture of each name in a folder, NAME.jpg or one of another ending.

    If there is none, the path is NAME.jpg, for the message that it is missing.
    """
    there: dict[str, str] = {}
    for file in sorted(os.listdir(folder)) if folder.is_dir() else ():
        stem, ending = os.path.splitext(file)
        if ending == ".jpg" or (ending.lower() in IMAGE_ENDINGS and stem not in there):
            there[stem] = file
    return tuple(folder / there.get(name, f"{name}.jpg") for name in names)


def _reason_to_pass_over(path: pathlib.Path, endings: Collection[str]) -> str:
    """Says why a file that looks like a picture is not read; "" for all other files."""
    ending = path.suffix.lower()
    if ending in endings and path.name.startswith("."):
        return "hidden by the dot at the start of the name; rename those you need"
    return "" if ending in endings else _NOT_READ.get(ending, "")


def _walk(
    folder: pathlib.Path, above: tuple[str, ...], left_out: Collection[str]
) -> Iterator[tuple[pathlib.Path, str]]:
    """Yields every file below a folder with "", and what is passed over with the reason.

    `above` holds the real paths of the folders on the way, by which links back are recognised.
    """
    real = os.path.realpath(folder)
    if real in above:
        yield folder, "a link back to a folder above"
        return
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        yield folder, f"cannot be opened ({error.strerror})"
        return
    for path in entries:
        if path.is_dir():
            if os.path.realpath(path) in left_out:
                continue
            if not path.name.startswith(".") and path.name.casefold() not in _OF_SYSTEMS:
                yield from _walk(path, (*above, real), left_out)
            elif _holds_pictures(path):
                yield path, _NOT_ENTERED
        elif path.is_file():
            yield path, ""
        elif path.is_symlink() and path.suffix.lower() in IMAGE_ENDINGS:
            yield path, "a link to nothing; restore what it links to"


def _holds_pictures(folder: pathlib.Path) -> bool:
    try:
        return any(path.suffix.lower() in IMAGE_ENDINGS for path in folder.iterdir())
    except OSError:
        return False
