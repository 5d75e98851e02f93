"""Shows a data set with the classes of a network: the same names in the network's order."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from toco_jax.runtime.errors import DataError, some_of


def columns_of(names: Sequence[str], known: Sequence[str], *, run: Any, where: str) -> np.ndarray:
    """Returns the position in `known` of each of `names`: int `[len(names)]`.

    Args:
        names: classes of a data set.
        known: classes of a network.
        run: name of the network in the message.
        where: name of the data set in the message.

    Raises:
        DataError: names that the network does not know.
    """
    unknown = [name for name in names if name not in known]
    if unknown:
        raise DataError(
            f"{where} has classes that {run} was not trained on ({some_of(unknown)}; it knows "
            f"{some_of(known, 100)}): give data of its classes, or correct their names"
        )
    return np.array([list(known).index(name) for name in names], np.int64)


class Renumbered:
    """A record source (see `toco_jax.data`) with another list of classes.

    Args:
        source: the record source.
        class_names: the new classes, which include those of the source.
        columns: position of each class of the source among them, see `columns_of`.
    """

    def __init__(self, source: Any, class_names: Sequence[str], columns: np.ndarray):
        self.source, self.class_names, self.columns = source, tuple(class_names), columns
        self.split, self.names = source.split, source.names
        self.num_present = source.num_present

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> dict[str, Any]:
        record = dict(self.source[i])
        cls_label = np.zeros(len(self.class_names), np.float32)
        cls_label[self.columns] = record["cls_label"]
        record["cls_label"] = cls_label
        if "mask" in record:
            record["mask"] = self._renumbered(record["mask"])
        return record

    def _renumbered(self, mask: np.ndarray) -> np.ndarray:
        dtype = np.uint8 if len(self.class_names) < 255 else np.uint16
        table = np.full(np.iinfo(mask.dtype).max + 1, np.iinfo(dtype).max, dtype)
        table[0] = 0
        table[1 : len(self.columns) + 1] = self.columns + 1
        return table[mask]

    def own_labels(self) -> np.ndarray:
        """Returns the source's label of each label, background first; 255 if it has none."""
        own = np.full(len(self.class_names) + 1, 255, np.int64)
        own[0] = 0
        own[self.columns + 1] = np.arange(len(self.columns)) + 1
        return own
