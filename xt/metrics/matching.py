"""Pairs of what was found and what is there: as many as possible, and of these the nearest."""

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components, min_weight_full_bipartite_matching
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

PIXEL_M = 10.0
"""Of xView3, whose script rounds distances in metres."""
COSTLY = 9999999.0 * 10
"""Instead of a distance beyond the limit, as in the official script of xView3."""
DENSE = 1 << 22
"""Distances that are held at once, at most; beyond, only those within the limit are."""

Indices = npt.NDArray[np.int64]
Places = npt.NDArray[np.float64]


def assign(found: Places, real: Places, limit: float) -> tuple[Indices, Indices]:
    """Assign places to one another (Hungarian), strictly within a distance.

    Up to :data:`DENSE` distances all are in one table, so even ties are decided as xView3's script decides them. Of
    more, groups that no pair joins are assigned by themselves, with the same number of pairs and sum of distances.

    Args:
        found: ``(N, 2)``, pixels.
        real: ``(M, 2)``, pixels.
        limit: Distance in pixels.

    Returns:
        Indices of the pairs, ascending in the first.
    """
    if len(found) * len(real) <= DENSE:
        return _dense(found, real, limit)
    near = cKDTree(found).sparse_distance_matrix(cKDTree(real), limit * (1 + 1e-9), output_type="coo_matrix")
    joined = coo_array((np.ones(near.nnz), (near.row, len(found) + near.col)), shape=(len(found) + len(real),) * 2)
    _, group = connected_components(joined, directed=False)
    order = np.argsort(group[near.row], kind="stable")
    chosen: list[npt.NDArray[np.int64]] = [np.zeros((2, 0), np.int64)]
    for pairs in np.split(order, np.flatnonzero(np.diff(group[near.row][order])) + 1) if near.nnz else ():
        ours, theirs = np.unique(near.row[pairs]), np.unique(near.col[pairs])
        way = _dense if len(ours) * len(theirs) <= DENSE else _sparse
        i, j = way(found[ours], real[theirs], limit)
        chosen.append(np.stack([ours[i], theirs[j]]).astype(np.int64))
    rows, cols = np.concatenate(chosen, axis=1)
    order = np.argsort(rows)
    return rows[order], cols[order]


def _dense(found: Places, real: Places, limit: float) -> tuple[Indices, Indices]:
    distance = cdist(found, real) * PIXEL_M
    cost = np.where(distance > limit * PIXEL_M, COSTLY, distance)
    rows, cols = linear_sum_assignment(cost)
    kept = cost[rows, cols] < limit * PIXEL_M
    return rows[kept], cols[kept]


def _sparse(found: Places, real: Places, limit: float) -> tuple[Indices, Indices]:
    """The same for many: each has a partner of its own besides, which costs as much as none."""
    near = cKDTree(found).sparse_distance_matrix(cKDTree(real), limit * (1 + 1e-9), output_type="coo_matrix")
    own = np.arange(len(found))
    weights = np.concatenate([near.data * PIXEL_M + 1, np.full(len(found), COSTLY)])  # 0 would be no pair
    places = np.concatenate([near.row, own]), np.concatenate([near.col, len(real) + own])
    rows, cols = min_weight_full_bipartite_matching(csr_array((weights, places), (len(found), len(real) + len(found))))
    paired = cols < len(real)
    rows, cols = rows[paired], cols[paired]
    kept = np.linalg.norm(found[rows] - real[cols], axis=1) < limit
    return rows[kept], cols[kept]
