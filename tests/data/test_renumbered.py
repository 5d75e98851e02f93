"""A data set with fewer classes in another order, as a network of other classes sees it."""

import numpy as np
import pytest

from toco_jax.data.renumbered import Renumbered, columns_of
from toco_jax.runtime.errors import DataError


class Pair:
    class_names, split, names, num_present = ("zebra", "cat"), "val", ("a", "b"), 2

    def __len__(self):
        return 2

    def __getitem__(self, i):
        mask = np.uint8([[0, 1, 2, 255]])
        return {"name": self.names[i], "cls_label": np.float32([i, 1 - i]), "mask": mask}


KNOWN = ("cat", "dog", "zebra")


def test_labels_and_masks_are_the_networks():
    columns = columns_of(Pair.class_names, KNOWN, run="runs/x", where="here")
    source = Renumbered(Pair(), KNOWN, columns)
    assert (len(source), source.num_present, source.class_names) == (2, 2, KNOWN)
    assert source[0]["cls_label"].tolist() == [1, 0, 0]
    assert source[1]["cls_label"].tolist() == [0, 0, 1]
    assert source[0]["mask"].tolist() == [[0, 3, 1, 255]]
    assert source[0]["mask"].dtype == np.uint8
    assert source.own_labels().tolist() == [0, 2, 255, 1]


def test_more_classes_than_a_byte_holds():
    known = (*(f"class {k}" for k in range(300)), *Pair.class_names)
    source = Renumbered(Pair(), known, columns_of(Pair.class_names, known, run="x", where="y"))
    assert source[0]["mask"].tolist() == [[0, 301, 302, 65535]]


def test_unknown_names_are_refused_by_name():
    with pytest.raises(DataError, match=r"here has classes that runs/x was not .* \(owl, yak; it"):
        columns_of(("cat", "owl", "yak"), KNOWN, run="runs/x", where="here")
