"""Runs a model over overlapping tiles of an image and blends them, in memory for one row of tiles."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xt.data.source import Source
from xt.errors import InputError
from xt.geometry.blend import Blend, axis_weights, tile_starts
from xt.geometry.grid import Window
from xt.models.xt import XT
from xt.tasks.base import Task, Valid, Values


@dataclass
class TiledImage:
    """An image that is predicted tile by tile; :meth:`rows` runs the model.

    Attributes:
        model: On its device, in evaluation mode.
        task: Says what the model's answers mean.
        source: The image.
        tile: Side of a tile in pixels.
        overlap: Pixels that neighbouring tiles share.
        blend: How they fade into each other.
        fill_bad_tiles: Give tiles that cannot be read nodata instead of failing.
        progress: Called with tiles done and tiles in all.
        tiles: Tiles done so far.
        empty_tiles: Of these, the ones without a valid pixel.
        bad_tiles: Of these, the ones that could not be read.
    """

    model: XT
    task: Task
    source: Source
    tile: int
    overlap: int
    blend: Blend = "cosine"
    fill_bad_tiles: bool = False
    progress: Callable[[int, int], None] = lambda done, total: None
    tiles: int = 0
    empty_tiles: int = 0
    bad_tiles: int = 0
    _total: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    _count: int = 0

    @property
    def mean(self) -> npt.NDArray[np.float64] | None:
        """Mean over the tiles with data of a pooled model's answers; None if there is none."""
        return self._total / self._count if self._count else None

    def rows(self) -> Iterator[tuple[Values, Valid]]:
        """Yield rows that are final, from top to bottom, with what is valid in them.

        Raises:
            InputError: If a tile cannot be read, or the model's answer is not finite.
        """
        height, width, tile = self.source.height, self.source.width, self.tile
        rows, cols = tile_starts(height, tile, self.overlap), tile_starts(width, tile, self.overlap)
        row_weights = axis_weights(rows, tile, height, self.blend)
        col_weights = axis_weights(cols, tile, width, self.blend)
        high, wide = min(tile, height), min(tile, width)
        sums: Values = np.zeros((self.task.channels, high, width), np.float32)
        valid = np.zeros((high, width), bool)
        shares = np.zeros((high, width), np.float32)
        lost = np.zeros((high, width), bool)
        for i, row in enumerate(rows):
            for j, col in enumerate(cols):
                values, known = self._tile(Window(row, col, high, wide))
                weights = row_weights[i][:, None] * col_weights[j][None, :]
                if values is not None:
                    sums[:, :, col : col + wide] += values * weights
                    shares[:, col : col + wide] += weights
                elif known is None:
                    lost[:, col : col + wide] = True
                    known = np.zeros((high, wide), bool)
                valid[:, col : col + wide] |= known
                self.tiles += 1
                self.progress(self.tiles, len(rows) * len(cols))
            final = high if i + 1 == len(rows) else rows[i + 1] - row
            yield _whole(sums[:, :final], shares[:final], lost[:final]), valid[:final].copy()
            kept = high - final
            for each in (sums, valid, shares, lost):
                each[..., :kept, :] = each[..., final:, :].copy()
                each[..., kept:, :] = 0

    def _tile(self, window: Window) -> tuple[Values | None, Valid | None]:
        """Values and validity of a tile; no values where nothing is valid, neither where it cannot be read."""
        try:
            pixels, valid = self.source.read(window)
        except InputError:
            if not self.fill_bad_tiles:
                raise
            self.bad_tiles += 1
            return None, None
        if not valid.any():
            self.empty_tiles += 1
            return None, valid
        device = next(self.model.parameters()).device
        image = torch.from_numpy(pixels)[None].to(device)
        raw = run_model(self.model, image, torch.from_numpy(valid)[None, None].to(device))
        values = self.task.activate({name: each[0] for name, each in raw.items()})
        if values.ndim == 1:
            self._total = self._total + values if self._count else values.astype(np.float64)
            self._count += 1
            values = np.broadcast_to(values[:, None, None], (len(values), window.height, window.width))
        if not np.isfinite(values[:, valid]).all():
            raise InputError(
                f"{self.source.path}: the model gives NaN or infinity at rows {window.row}–{window.row_stop - 1}, "
                f"columns {window.col}–{window.col_stop - 1}; check the values there, --nodata, and the model"
            )
        return values, valid


def run_model(model: XT, image: Tensor, valid: Tensor) -> dict[str, Tensor]:
    """Run the model without gradients; when the GPU's memory is full, halve the region batch and go on."""
    while True:
        try:
            with torch.inference_mode():
                return model(image, valid)  # type: ignore[no-any-return]
        except torch.cuda.OutOfMemoryError:
            if model.region_batch == 1:
                raise
            model.region_batch //= 2
            torch.cuda.empty_cache()


def _whole(sums: Values, shares: Values, lost: Valid) -> Values:
    """Sums of weighted tiles; where a tile is lost, the weights of the others are brought to 1."""
    partly = lost & (shares > 0)
    result = sums.copy()
    result[:, partly] /= shares[partly]
    return result
