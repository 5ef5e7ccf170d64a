"""Polygons of equal pixels that touch along an edge, joined over the strips in which a raster is read.

GDAL finds the polygons of a strip. Those that reach the seam to the next strip stay open: where the next strip goes on
with the same value, the edges of both sides along the seam cancel each other, and what is left of the rings is put
together anew. So a polygon is the same as if the raster had been looked at as a whole, vertex by vertex, and what is
kept is what crosses a seam.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rasterio.features import shapes
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Ring = npt.NDArray[np.int32]
"""``(n, 2)``: column and row of corners, the last as the first; the polygon lies on the left, seen on the map."""
_TAKEN = ("uint8", "int16", "uint16", "int32")
_STRAIGHT = 0
_TURNS = (1, _STRAIGHT, 3)
"""To the right, straight on, to the left; added to a direction: 0 is to the right on the map, 1 down, 2 left, 3 up."""


class Polygon(NamedTuple):
    """Pixels of one value that hang together.

    Attributes:
        value: Of the pixels.
        rings: The outer ring, then those of holes.
    """

    value: int
    rings: list[Ring]


@dataclass
class _Piece:
    """What is known of a polygon: rings that are complete, and those with an edge along a seam."""

    value: int
    complete: list[Ring] = field(default_factory=list)
    above: list[Ring] = field(default_factory=list)
    below: list[Ring] = field(default_factory=list)

    def sort(self, rings: list[Ring], top: int, bottom: int | None) -> None:
        """Take rings, by the seams that they reach; ``bottom`` is None where no strip follows."""
        for ring in rings:
            if ring[:, 1].min() == top:
                self.above.append(ring)
            elif ring[:, 1].max() == bottom:
                self.below.append(ring)
            else:
                self.complete.append(ring)


class _Link(NamedTuple):
    """A part of a ring from one place on a seam to another."""

    points: Ring
    start: int
    first: int
    end: int
    last: int


class PolygonJoiner:
    """Takes a raster strip by strip, and gives polygons as they are complete.

    Args:
        height: Rows of the raster.
        width: Columns.
    """

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width, self.row = height, width, 0
        self._open: list[_Piece] = []

    def add(self, values: npt.NDArray[np.integer[Any]], counts: npt.NDArray[np.bool_]) -> Iterator[Polygon]:
        """Take the next rows, and give what is complete with them.

        Args:
            values: ``(h, width)``.
            counts: ``(h, width)``: pixels that belong to polygons.
        """
        top, bottom = self.row, self.row + len(values)
        seam = bottom if bottom < self.height else None
        pieces = []
        for value, rings in _polygons(values, counts, top):
            low, high = int(rings[0][:, 1].min()), int(rings[0][:, 1].max())
            if (low > top or not top) and high != seam:
                yield Polygon(value, rings)
                continue
            pieces.append(_Piece(value))
            pieces[-1].sort(rings, top if top else -1, seam)
        before, self._open, self.row = self._open, [], bottom
        for group, same in _groups(before, pieces, top, self.width):
            piece = _joined(group, same, top, seam)
            if piece.below:
                self._open.append(piece)
            else:
                yield _polygon(piece)


def _polygons(
    values: npt.NDArray[np.integer[Any]], counts: npt.NDArray[np.bool_], top: int
) -> Iterator[tuple[int, list[Ring]]]:
    known = None
    if values.dtype.name not in _TAKEN:
        known, codes = np.unique(values, return_inverse=True)
        values = codes.reshape(values.shape).astype(np.int32)
    for shape, value in shapes(values, counts, connectivity=4):
        rings = [np.array(ring, np.int32) for ring in shape["coordinates"]]
        for ring in rings:
            ring[:, 1] += top
        yield int(value if known is None else known[int(value)]), rings


def _groups(
    before: list[_Piece], after: list[_Piece], seam: int, width: int
) -> Iterator[tuple[list[_Piece], npt.NDArray[np.bool_]]]:
    """Give what belongs together, and along which columns of the seam both sides have the same value."""
    pieces = [*before, *after]
    ids = np.full((2, width), -1)
    for index, piece in enumerate(pieces):
        row = 0 if index < len(before) else 1
        for ring in piece.above if row else piece.below:
            for edge in _edges(ring, seam):
                low, high = sorted((int(ring[edge, 0]), int(ring[edge + 1, 0])))
                ids[row, low:high] = index
    numbers = np.array([piece.value for piece in pieces] or [0])
    same = (ids >= 0).all(0) & (numbers[ids[0]] == numbers[ids[1]])
    pairs = ids[:, same]
    graph = coo_array((np.ones(pairs.shape[1], bool), tuple(pairs)), shape=(len(pieces), len(pieces)))
    groups: dict[int, list[_Piece]] = {}
    for piece, label in zip(pieces, connected_components(graph, directed=False)[1] if pieces else (), strict=True):
        groups.setdefault(int(label), []).append(piece)
    for group in groups.values():
        yield group, same


def _joined(group: list[_Piece], same: npt.NDArray[np.bool_], seam: int, following: int | None) -> _Piece:
    """Make one piece of those that meet at a seam, or of one for which it is the end or the begin."""
    whole = max(group, key=lambda piece: len(piece.complete))
    old = [ring for piece in group for ring in piece.below if ring[:, 1].max() == seam]
    new = [ring for piece in group for ring in piece.above]
    kept = [ring for piece in group for ring in piece.below if ring[:, 1].max() != seam]
    for piece in group:
        if piece is not whole:
            whole.complete += piece.complete
    whole.above, whole.below = [], kept
    for ring in [*old, *new] if len(group) == 1 else _stitched([*old, *new], same, seam):
        whole.sort([ring] if ring[:, 1].max() == following else _simple(ring), -1, following)
    return whole


def _stitched(rings: list[Ring], same: npt.NDArray[np.bool_], seam: int) -> list[Ring]:
    """Take the edges out that lie between equal pixels, and close the rings anew."""
    changes = [0, *(np.flatnonzero(np.diff(same)) + 1).tolist(), len(same)]
    links = {(link.start, link.first): link for ring in rings for link in _links(ring, seam, changes, bool(same[0]))}
    found = []
    while links:
        found.append(_closed(next(iter(links)), links))
    return found


def _closed(first: tuple[int, int], links: dict[tuple[int, int], _Link]) -> Ring:
    """Follow links from one that begins at ``first`` until it comes again, and take them out."""
    parts: list[Ring] = []
    straight, at = [], first
    while at != first or not parts:
        link = links[at] if at == first else links.pop(at)
        parts.append(link.points[:-1])
        turn = next(turn for turn in _TURNS if (link.end, (link.last + turn) % 4) in links)
        straight.append(turn == _STRAIGHT)
        at = (link.end, (link.last + turn) % 4)
    del links[first]
    # Where the way goes straight on there is no corner; the last link leads to the first.
    ring = np.concatenate([part[1:] if straight[index - 1] else part for index, part in enumerate(parts)])
    return np.concatenate([ring, ring[:1]])


def _simple(ring: Ring) -> list[Ring]:
    """Cut a ring where it meets itself at a corner: rings of a polygon may touch one another, but none itself."""
    x, y = ring[:-1].astype(np.int64).T
    places = x << 32 | y
    _, inverse, counts = np.unique(places, return_inverse=True, return_counts=True)
    meets = np.flatnonzero(counts[inverse] > 1)
    if not len(meets):
        return [ring]
    around = np.concatenate([ring[:-1], ring])
    found: list[Ring] = []
    way: dict[int, Ring] = {}
    for start, stop in zip(meets, [*meets[1:], meets[0] + len(ring) - 1], strict=True):
        way[int(places[start])] = around[start:stop]
        end = int(places[stop % len(places)])
        if end in way:
            names = list(way)
            parts = [way.pop(name) for name in names[names.index(end) :]]
            found.append(np.concatenate([*parts, parts[0][:1]]))
    return found


def _links(ring: Ring, seam: int, changes: list[int], cancelled: bool) -> Iterator[_Link]:
    """Cut a ring at its edges along a seam, and give what stays of it.

    Args:
        ring: With edges along the seam.
        seam: Row.
        changes: Columns where edges begin to cancel each other or cease to.
        cancelled: Whether they do so before the first of these.
    """
    edges = _edges(ring, seam)
    around = np.concatenate([ring[:-1], ring])
    for edge, following in zip(edges, [*edges[1:], edges[0] + len(ring) - 1], strict=True):
        points = around[edge + 1 : following + 1]
        up = int(points[1, 1] < seam)
        yield _Link(points, int(points[0, 0]), 3 if up else 1, int(points[-1, 0]), 1 if up else 3)
        start, end = int(ring[edge, 0]), int(ring[edge + 1, 0])
        low, high = min(start, end), max(start, end)
        index = bisect_right(changes, low)
        while low < high:
            stop = min(changes[index], high)
            if (index % 2 == 1) != cancelled:
                way = [low, stop] if start < end else [stop, low]
                direction = 0 if start < end else 2
                yield _Link(np.array([[x, seam] for x in way], np.int32), way[0], direction, way[1], direction)
            low, index = stop, index + 1


def _edges(ring: Ring, seam: int) -> list[int]:
    on = ring[:, 1] == seam
    edges: list[int] = np.flatnonzero(on[:-1] & on[1:]).tolist()
    return edges


def _polygon(piece: _Piece) -> Polygon:
    rings = piece.complete
    outer = [index for index, ring in enumerate(rings) if _area(ring) < 0]
    assert len(outer) == 1, (piece.value, len(rings), len(outer))
    return Polygon(piece.value, [rings[outer[0]], *rings[: outer[0]], *rings[outer[0] + 1 :]])


def _area(ring: Ring) -> int:
    """Of a hole; negative of an outer ring."""
    x, y = ring.astype(np.int64).T
    return int((x[:-1] * y[1:] - x[1:] * y[:-1]).sum()) // 2
