"""Outlines of pixels as polygons along the pixels' edges, which enclose exactly these pixels."""

import numpy as np


def polygons(inside: np.ndarray) -> list[np.ndarray]:
    """Returns polygons without holes that together cover exactly the pixels of a mask.

    An area with holes is cut along rows, so that each hole becomes a part of an outer edge.

    Args:
        inside: bool `[h, w]`.

    Returns:
        Integer corners `[n, 2]` of each polygon, as (x, y); pixel (0, 0) has the corners (0, 0) and
        (1, 1). They do not overlap.
    """
    outer, holes = _loops(inside)
    cuts = _cuts([(int(hole[:, 1].min()), int(hole[:, 1].max())) for hole in holes])
    if not cuts:
        return outer
    found = []
    for top, bottom in zip([0, *cuts], [*cuts, len(inside)], strict=True):
        strip, _ = _loops(inside[top:bottom])
        found += [corners + np.array([0, top]) for corners in strip]
    return found


def _cuts(spans: list[tuple[int, int]]) -> list[int]:
    """Returns the fewest rows at which all spans of rows `(top, bottom)` are cut or touched."""
    cuts: list[int] = []
    for top, bottom in sorted(spans, key=lambda span: span[1]):
        if not cuts or cuts[-1] < top:
            cuts.append(bottom)
    return cuts


def _loops(inside: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Returns the closed lines around pixels that touch by edges: outer ones and those of holes."""
    around = np.pad(inside, 1).astype(np.int8)
    first, second = around[:-1, :-1], around[:-1, 1:]  # above the corner: left, right
    third, fourth = around[1:, :-1], around[1:, 1:]  # below it
    total = first + second + third + fourth
    is_double = (total == 2) & (first == fourth)
    y, x = np.nonzero((total % 2 == 1) | is_double)
    double = is_double[y, x]
    # Where two pixels touch by a corner alone, two corners lie on each other: the first one ends
    # an edge from the left, the second one starts an edge to the right.
    y, x = (np.repeat(values, 1 + double) for values in (y, x))
    second_of_two = np.zeros(len(y), bool)
    second_of_two[np.flatnonzero(np.repeat(double, 1 + double))[1::2]] = True
    # That of the left pixel lies below the other one if the left pixel does.
    is_left_below = is_double[y, x] & (third[y, x] == 1)
    below = second_of_two ^ is_left_below
    along = _pairs(np.lexsort((second_of_two, x, y)))
    down = _pairs(np.lexsort((below, y, x)))
    outer: list[np.ndarray] = []
    holes: list[np.ndarray] = []
    left = [True] * len(y)
    for start in range(len(y)):
        if not left[start]:
            continue
        corners, corner = [], start
        while left[corner]:
            for partner in (along, down):
                corners.append(corner)
                left[corner] = False
                corner = partner[corner]
        # The first corner is the leftmost of the topmost ones.
        kind = outer if fourth[y[start], x[start]] else holes
        kind.append(np.stack([x[corners], y[corners]], axis=1))
    return outer, holes


def _pairs(order: np.ndarray) -> list[int]:
    """Returns each corner's partner, if the corners of each edge follow each other in `order`."""
    partner = np.empty(len(order), np.int64)
    partner[order[0::2]], partner[order[1::2]] = order[1::2], order[0::2]
    return partner.tolist()
