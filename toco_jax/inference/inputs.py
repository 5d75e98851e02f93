"""Finds the pictures and videos that a command line names, and names their results."""

import dataclasses
import glob
import os
import pathlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import cv2
import numpy as np

from toco_jax.data.image_files import IMAGE_ENDINGS, image_files
from toco_jax.data.picture_files import PhotoError, refuse_many_pixels
from toco_jax.inference.predictions import ALL_FOLDERS, REPORT_FILE

VIDEO_ENDINGS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
# Containers that store their number of frames. The others store a duration, that of the longer of
# picture and sound, from which OpenCV estimates the number.
_COUNTED = (".mp4", ".avi", ".mov", ".m4v")


@dataclasses.dataclass(frozen=True)
class Found:
    """The files that a command line names.

    Attributes:
        files: path of each picture and video, and a unique name for its results.
        problems: each word that names no file, and the reason.
        remarks: sentences about files in the folders that are left out.
        file_names: for each path, its path within the folder that was named, with `/`; the path
            itself if several files share that.
    """

    files: list[tuple[pathlib.Path, str]]
    problems: list[tuple[str, PhotoError]]
    remarks: list[str]
    file_names: dict[pathlib.Path, str] = dataclasses.field(default_factory=dict)


def find_files(
    words: Iterable[str | os.PathLike], *, results: Sequence[pathlib.Path] = ()
) -> Found:
    """Finds the pictures and videos that paths, folders and glob patterns name.

    A path that exists is never taken for a pattern. Results of this command that lie in a folder,
    those of earlier calls too, are left out.

    Args:
        words: words of a command line.
        results: folders of this call's results.
    """
    relatives: dict[pathlib.Path, pathlib.PurePath] = {}
    problems: list[tuple[str, PhotoError]] = []
    remarks: list[str] = []
    for word in map(str, words):
        try:
            paths = _paths(word)
        except PhotoError as error:
            problems.append((word, error))
            continue
        holds_any = False
        for path in paths:
            if not path.is_dir():
                relatives.setdefault(path, pathlib.PurePath(path.name))
                holds_any = True
                continue
            files, said = _files_in(path, results)
            for file in files:
                relatives.setdefault(file, file.relative_to(path))
            remarks += said
            holds_any = holds_any or bool(files)
        if not holds_any:
            problems.append((word, PhotoError(f"{word}: no picture or video found there")))
    names = result_names(list(relatives.values()))
    alike = Counter(map(_key, relatives.values()))
    file_names = {
        path: (relative if alike[_key(relative)] == 1 else path).as_posix()
        for path, relative in relatives.items()
    }
    return Found(list(zip(relatives, names, strict=True)), problems, remarks, file_names)


def _files_in(
    folder: pathlib.Path, results: Sequence[pathlib.Path]
) -> tuple[list[pathlib.Path], list[str]]:
    """Returns the pictures and videos in a folder, and remarks on what is left out."""
    listing = image_files(folder, endings=IMAGE_ENDINGS + VIDEO_ENDINGS, leave_out=results)
    reports = [file for file in listing.others if file.name == REPORT_FILE]
    earlier = {report.parent / name for report in reports for name in ALL_FOLDERS}
    files = [file for file in listing.files if earlier.isdisjoint(file.parents)]
    present = [
        path
        for path in sorted(earlier.union(results))
        if path.is_dir() and folder.resolve() in path.resolve().parents
    ]
    said = [f"the results in {path} are left out" for path in present]
    return files, [*listing.remarks(), *said]


def _paths(word: str) -> list[pathlib.Path]:
    """Returns the paths that a word names; raises `PhotoError` if there are none."""
    if os.path.lexists(word):
        return [pathlib.Path(word)]
    if not glob.has_magic(word):
        raise PhotoError(f"{word} does not exist")
    matches = sorted(glob.glob(word, recursive=True))
    if not matches:
        raise PhotoError(f"the pattern {word} matches no file")
    return [pathlib.Path(match) for match in matches]


def result_names(relatives: Sequence[pathlib.PurePath]) -> list[str]:
    """Returns a unique name for the results of each file; a video's names a folder.

    The name is the path without its ending: `deep/a` for `deep/a.jpg`. Pictures that would share a
    name, and a video whose folder would hold the results of others, keep the ending: `a.jpg` and
    `a.png`. Names that are still equal, such as those of `x.jpg` in two folders, are numbered: `x`,
    `x~2`. Names that differ only in case are equal, because some file systems ignore case.
    """
    relatives = [_without_picture_folders(relative) for relative in relatives]
    pictures = [k for k, relative in enumerate(relatives) if not is_video(relative)]
    videos = [k for k, relative in enumerate(relatives) if is_video(relative)]
    folders = {_key(parent) for relative in relatives for parent in relative.parents}
    names: dict[int, str] = {}
    for places, taken in ((pictures, set()), (videos, folders)):
        # The same relative path in several folders counts once, because the ending is the same too.
        alike = Counter(_key(path.with_suffix("")) for path in {relatives[k] for k in places})
        for k in places:
            stem = relatives[k].with_suffix("")
            shared = alike[_key(stem)] > 1 or (is_video(relatives[k]) and _key(stem) in folders)
            base = str(relatives[k] if shared else stem)
            base = name = _as_folder(base) if is_video(relatives[k]) else base
            number = 2
            while _key(name) in taken:
                name, number = f"{base}~{number}", number + 1
            taken.add(_key(name))
            names[k] = name
    return [names[k] for k in range(len(relatives))]


def _without_picture_folders(relative: pathlib.PurePath) -> pathlib.PurePath:
    """Appends `_` to folders whose names end like a result's file, such as `a.png/`."""
    return pathlib.PurePath(*map(_as_folder, relative.parts[:-1]), relative.name)


def _as_folder(name: str) -> str:
    return f"{name}_" if name.lower().endswith((".png", ".jpg")) else name


def _key(name: str | pathlib.PurePath) -> str:
    """Returns a key that is equal for names which a file system may not distinguish."""
    return unicodedata.normalize("NFC", str(name)).casefold()


def is_video(path: pathlib.PurePath) -> bool:
    """Returns whether a file's ending is that of a video."""
    return path.suffix.lower() in VIDEO_ENDINGS


def video_frames(path: pathlib.Path, *, every: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the number and the image, uint8 `[H, W, 3]`, of every `every`-th frame of a video.

    The number is the frame's position in the video, from 0. If frames are lost, the time stamps of
    the others tell their positions.

    Raises:
        PhotoError: the file is missing or is not a video; or, after the last frame that can be
            read, the file announces more frames than that.
    """
    numbers, announced = _frame_numbers(path)
    following = 0
    with _opened(path) as video:
        for number in numbers:
            if not video.grab():
                break
            if number < following:
                continue
            is_whole, frame = video.retrieve()
            if not is_whole:
                raise PhotoError(f"{path}: frame {number} cannot be decoded")
            following = (number // every + 1) * every
            yield number, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
    uncertain = 0 if path.suffix.lower() in _COUNTED else max(2, announced // 10)
    if len(numbers) < announced - uncertain:
        raise PhotoError(
            f"{path} is damaged: {len(numbers)} of the {announced} frames that it announces could "
            "be read; get a whole copy of it"
        )


def _frame_numbers(path: pathlib.Path) -> tuple[Sequence[int], int]:
    """Returns the numbers of the frames that can be read, and how many the file announces."""
    times = []  # in frames
    with _opened(path) as video:
        announced = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
        rate = video.get(cv2.CAP_PROP_FPS) / 1000
        while video.grab():
            times.append(video.get(cv2.CAP_PROP_POS_MSEC) * rate)
    if not times:
        raise PhotoError(f"{path} cannot be read as a video")
    # In a whole video, counting is more exact than time stamps.
    if len(times) >= announced:
        return range(len(times)), announced
    numbers = [-1]
    for time in times:
        numbers.append(max(round(time), numbers[-1] + 1))
    return numbers[1:], announced


def _is_container(start: bytes) -> bool:
    """Whether a file that starts so holds a video itself.

    FFmpeg also knows lists of other files and addresses, whatever their ending.
    """
    return (
        start[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")
        or (start[:4] == b"RIFF" and start[8:12] == b"AVI ")
        or start.startswith((b"\x1aE\xdf\xa3", b"\0\0\1\xba", b"\0\0\1\xb3", b"G"))
    )


@contextmanager
def _opened(path: pathlib.Path) -> Iterator[cv2.VideoCapture]:
    if not path.is_file():
        raise PhotoError(f"{path} does not exist")
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise PhotoError(f"{path}: a video's name must be valid UTF-8: rename it") from None
    with path.open("rb") as file:
        if not _is_container(file.read(12)):
            raise PhotoError(f"{path} cannot be read as a video")
    video = cv2.VideoCapture(str(path))
    try:
        size = [
            int(video.get(key)) for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        ]
        try:
            refuse_many_pixels(*size)
        except PhotoError as error:
            raise PhotoError(f"{path}: {error}") from error
        yield video
    finally:
        video.release()
