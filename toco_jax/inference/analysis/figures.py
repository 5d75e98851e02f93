"""Draws the figures of `toco analyze`, and writes their numbers."""

import argparse
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from toco_jax.data.photos import read_photo
from toco_jax.data.picture_files import PhotoError
from toco_jax.inference import inputs
from toco_jax.inference.analysis.encoder import PhotoEncoder
from toco_jax.inference.analysis.plot import line_plot
from toco_jax.runtime.console import say
from toco_jax.runtime.errors import UserError
from toco_jax.runtime.outputs import OutputError, make_folder, open_atomically, write_atomically


def similarity(options: argparse.Namespace) -> list[dict[str, str]]:
    """Writes `similarity.json` and `similarity.png`, as `toco analyze similarity` says.

    Returns:
        `{"file": path, "error": message}` for each file that could not be measured.

    Raises:
        CheckpointError: there is no run.
        OutputError: the results cannot be written, or would overwrite other files.
        UserError: no photo could be measured, the networks have different depths, or an option is
            out of range.
    """
    picture = options.out / "similarity.png"
    numbers = claim(picture, options.path)
    photos = Photos(options.path, leave_out=picture)
    checkpoints = [options.checkpoint, *([options.against] if options.against else [])]
    encoders = [PhotoEncoder(run, max_side=options.max_side) for run in checkpoints]
    depths = [encoder.depth for encoder in encoders]
    if len(set(depths)) > 1:
        raise UserError(
            f"{options.checkpoint} has {depths[0]} blocks and --against={options.against} "
            f"{depths[1]}: compare networks with equally many"
        )
    files, found = [], []
    for path, _, image in photos:
        try:
            found.append([encoder.similarity(image) for encoder in encoders])
        except PhotoError as error:
            photos.fail(path, PhotoError(f"{path}: {error}"))
            continue
        files.append(str(path))
        say(f"{path}  {', '.join(f'{values[-1]:.3f}' for values in found[-1])}")
    photos.refuse_none(files)
    values = np.array(found)  # [photos, runs, depth + 1]
    means = values.mean(axis=0)
    content = {
        "measure": "mean cosine similarity of the pairs of different patch tokens",
        "runs": [
            about(encoder) | measured(mean) | {"photos": [measured(v) for v in of_photos]}
            for encoder, mean, of_photos in zip(encoders, means, values.swapaxes(0, 1), strict=True)
        ],
        "files": files,
        "failed": photos.failed,
    }
    names = [encoder.checkpoint for encoder in encoders]
    plot = line_plot(
        list(zip(names, means.tolist(), strict=True)),
        ticks=[*map(str, range(1, depths[0] + 1)), "norm"],
        x_label="block; norm: after the final LayerNorm",
        y_label="mean cosine similarity of patches",
    )
    # The numbers first, because they tell whose the picture is.
    write_atomically(numbers, json.dumps(content, indent=1) + "\n")
    with open_atomically(picture) as file:
        plot.save(file, "png")
    for name, mean in zip(names, means, strict=True):
        say(f"{name}: {' '.join(f'{value:.3f}' for value in mean)}")
    say(f"{len(files)} photos measured, {len(photos.failed)} failed; {numbers}, {picture}")
    return photos.failed


class Photos:
    """The photos that words of a command line name, read one after the other.

    Iteration yields path, name of its results, and image uint8 `[H, W, 3]`.

    Attributes:
        failed: `{"file": path, "error": message}` for each file that could not be used.

    Args:
        words: words of a command line.
        leave_out: the picture, or the folder of pictures, that the command writes.
    """

    def __init__(self, words: Sequence[str], *, leave_out: pathlib.Path):
        self.failed: list[dict[str, str]] = []
        self._found = inputs.find_files(words, results=[leave_out])
        self._leave_out = leave_out.resolve()

    def __iter__(self) -> Iterator[tuple[pathlib.Path, str, np.ndarray]]:
        for remark in self._found.remarks:
            say(f"remark: {remark}", error=True)
        for word, error in self._found.problems:
            self.fail(word, error)
        for path, name in self._found.files:
            if path.resolve() == self._leave_out:
                continue
            try:
                if inputs.is_video(path):
                    raise PhotoError(f"{path} is a video: give pictures")
                image, notes = read_photo(path)
            except PhotoError as error:
                self.fail(path, error)
                continue
            for note in notes:
                say(f"{path}: {note}")
            yield path, name, image

    def fail(self, path: str | pathlib.Path, error: Exception) -> None:
        """Records and prints that a file could not be used."""
        say(f"error: {error}", error=True)
        self.failed.append({"file": str(path), "error": str(error)})

    def refuse_none(self, used: Sequence[Any]) -> None:
        """Raises `UserError` if no photo could be used."""
        if not used:
            raise UserError("none of the files could be used, nothing is written: give photos")


def claim(picture: pathlib.Path, words: Sequence[str]) -> pathlib.Path:
    """Checks that a figure can be written, and returns the path of its numbers beside it.

    Args:
        picture: the picture, or the folder of pictures.
        words: words that name photos.

    Raises:
        OutputError: its folder cannot be written to, something that this command did not write is
            at its place, or a word names it.
    """
    numbers = picture.with_suffix(".json")
    make_folder(picture.parent, "--out")
    for word in words:
        path = pathlib.Path(word).resolve()
        if picture.resolve() in (path, *path.parents):
            raise OutputError(
                f"{word} is a result of --out={picture.parent}, which would overwrite it: give "
                "another folder"
            )
    if picture.exists() and not numbers.exists():
        raise OutputError(
            f"{picture} is there already and is not of this command (there is no {numbers}): give "
            "another folder as --out, or move it"
        )
    return numbers


def about(encoder: PhotoEncoder) -> dict[str, Any]:
    """What the JSON says of a network."""
    return {"run": encoder.checkpoint, "step": encoder.step, "max_side": encoder.max_side}


def measured(similarities: np.ndarray) -> dict[str, Any]:
    """What the JSON says of the similarities `[depth + 1]` of `PhotoEncoder.similarity`."""
    *blocks, after_norm = rounded(similarities)
    return {"blocks": blocks, "after_norm": after_norm}


def rounded(values: np.ndarray) -> Any:
    """Numbers for the JSON, as lists."""
    return np.round(values.astype(np.float64), 6).tolist()
