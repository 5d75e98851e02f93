"""All images of a folder with their labels, before a split takes some of them."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from toco_jax.data.folders.equal_files import equal_files
from toco_jax.data.folders.found_labels import Labels
from toco_jax.data.labelling.label_entries import as_vector
from toco_jax.data.remarks import DataRemark, count, some
from toco_jax.runtime.errors import DataError, shown, some_of


@dataclasses.dataclass(frozen=True)
class LabelledImages:
    """The images and labels of a folder.

    Attributes:
        files: path of each image file, by name.
        labels: what the labels say.
        class_names: the classes in label order.
        backgrounds: names of the images labelled background, which have no class.
    """

    files: Mapping[str, pathlib.Path]
    labels: Labels
    class_names: Sequence[str]
    backgrounds: frozenset[str]

    @functools.cached_property
    def names(self) -> list[str]:
        """Names of the images with a label, in order."""
        return [name for name in self.labels.entries if name in self.files]

    @functools.cached_property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """For each labelled image that other files hold too, the names of all of them."""
        entries = self.labels.entries
        names = [name for name in self.names if not isinstance(entries[name], DataError)]
        equal = equal_files([self.files[name] for name in names])
        groups = [tuple(names[i] for i in group) for group in equal]
        return {name: group for group in groups for name in group}

    @functools.cached_property
    def copies(self) -> dict[str, str]:
        """For each image that other files hold too, the first of their names."""
        return {name: group[0] for name, group in self.groups.items()}

    def remarks(self) -> list[DataRemark]:
        """Remarks on files with the same content."""
        equal = list(dict.fromkeys(self.groups.values()))
        if not equal:
            return []
        shown = some([" = ".join(group[:3]) for group in equal])
        joined = self.labels.joined
        how = "with the classes of all folders" if joined else "with their common label"
        message = (
            f"{len(self.groups)} files hold {count(len(equal), 'picture')} ({shown}), which a "
            f"split takes once each, {how}; remove the copies or write labels.csv to say it "
            "yourself"
        )
        return [DataRemark("equal files", message, tuple(self.groups))]

    def vector(self, name: str) -> np.ndarray:
        """Returns the label of an image, uint8 [C], with those of the files that hold it too.

        Raises:
            DataError: there is no label, it names no class, or the files' labels contradict each
                other.
        """
        group = self.groups.get(name, (name,))
        rows = np.stack([self._own_vector(each) for each in group])
        contradictory = self.backgrounds.intersection(group) and rows.any()
        if contradictory or (not self.labels.joined and (rows != rows[0]).any()):
            shown = [np.array(self.class_names)[row > 0] for row in rows]
            said = [
                f"{each} ({some_of(classes) or 'no class'})"
                for each, classes in zip(group, shown, strict=True)
            ]
            raise DataError(
                f"the same picture has several labels: {', '.join(said)}; remove all files but one "
                "of them and label that one with all of its classes"
            )
        return rows.max(axis=0)

    def _own_vector(self, name: str) -> np.ndarray:
        entry = self.labels.entries.get(name)
        if entry is None:
            raise self.labels.missing(name)
        if isinstance(entry, DataError):
            raise entry
        return as_vector(entry, self.class_names, f"labels of image {shown(name)}")
