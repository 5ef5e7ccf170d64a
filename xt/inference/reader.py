"""Reads the regions of a scene ahead of the model, in a thread of its own, in the order in which they are needed."""

import os
import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from xt.data.geotiff import Mask, Pixels
from xt.data.source import Source
from xt.errors import InputError, ReadError
from xt.files import explained
from xt.geometry.grid import RegionGrid, Window
from xt.inference.fit import watch_of
from xt.inference.regions import Place

Batch = tuple[Place, ...]
Pixel = tuple[Pixels, Mask]
"""``(C, R, R)`` as the model takes it, and ``(R, R)``: what is valid."""
AHEAD = 2
"""Batches that are read in advance."""
CACHED = 128 << 20
"""Bytes of pixels that GDAL's cache holds with room to spare; a window row of a raster in strips may be larger."""
SLICE = 16 << 20
"""Bytes of pixels that are read at a time from a raster in strips."""


class RegionReader:
    """Iterates over batches of regions with their pixels; a region that cannot be read is None if that is allowed.

    A raster whose blocks are as wide as itself would be decoded once for each window across; if a row of windows is too
    large to be cached, each row of regions is read once and kept as regions on disk until it is used.

    Args:
        source: The image; another thread reads it.
        grid: Its regions.
        batches: What is to be read, in this order.
        window_rows: Rows of regions between which the reading moves from left to right.
        folder: For rows of regions of a raster in strips.
        fill_bad: Give None for what cannot be read.
    """

    def __init__(
        self, source: Source, grid: RegionGrid, batches: Iterable[Batch], window_rows: int, folder: Path, fill_bad: bool
    ) -> None:
        self.source, self.grid, self.fill_bad = source, grid, fill_bad
        row_bytes = grid.region_size * grid.padded_width * (4 * len(source.inputs.bands) + 1)
        self._spool = _Spool(source, grid, folder) if source.strips and row_bytes * window_rows > CACHED else None
        self._queue: queue.Queue[tuple[Batch, list[Pixel | None]] | BaseException | None] = queue.Queue(AHEAD)
        self._stop = threading.Event()
        listed = list(batches)
        self._num_batches = len(listed)
        self._thread = threading.Thread(target=self._run, args=(listed,), daemon=True, name="xt reader")

    def __enter__(self) -> "RegionReader":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def __iter__(self) -> Iterator[tuple[Batch, list[Pixel | None]]]:
        watch, left = watch_of(self.source), self._num_batches
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            for each in item[1]:
                if each is not None:
                    watch.see(*each)
            left -= 1
            if not left:
                watch.tell()
            yield item

    def _run(self, batches: list[Batch]) -> None:
        try:
            for batch in batches:
                if self._stop.is_set():
                    return
                self._put((batch, [self._read(place) for place in batch]))
                if self._spool is not None:
                    self._spool.used(batch)
            self._put(None)
        except BaseException as error:
            self._put(error)
        finally:
            self.source.close()  # this thread's handles

    def _put(self, item: tuple[Batch, list[Pixel | None]] | BaseException | None) -> None:
        while not self._stop.is_set():
            with suppress(queue.Full):
                self._queue.put(item, timeout=0.1)
                return

    def _read(self, place: Place) -> Pixel | None:
        size = self.grid.region_size
        try:
            if self._spool is not None:
                return self._spool.read(place)
            return self.source.read(Window(place[0] * size, place[1] * size, size, size))
        except InputError as error:
            if not self.fill_bad:
                raise ReadError(str(error)) from error
            return None


class _Spool:
    """Rows of regions on disk, each region's pixels together."""

    def __init__(self, source: Source, grid: RegionGrid, folder: Path) -> None:
        self.source, self.grid, self.folder = source, grid, folder
        self.channels, self.side = len(source.inputs.bands), grid.region_size
        self.area = self.side * self.side
        self.region_bytes = self.area * (4 * self.channels + 1)
        self._left: dict[int, int] = {}
        self._bad: dict[int, InputError] = {}

    def read(self, place: Place) -> Pixel:
        row, col = place
        if row not in self._left:
            self._left[row] = self.grid.cols
            self._fill(row)
        if row in self._bad:
            raise self._bad[row]
        with explained(self._path(row)), self._path(row).open("rb") as file:
            data = os.pread(file.fileno(), self.region_bytes, col * self.region_bytes)
        pixels = np.frombuffer(data, np.float32, self.channels * self.area).reshape(self.channels, self.side, self.side)
        valid = np.frombuffer(data, np.bool_, self.area, 4 * self.channels * self.area)
        return pixels.copy(), valid.reshape(self.side, self.side)

    def used(self, batch: Batch) -> None:
        """Remove a row when all its regions have been read."""
        row = batch[0][0]
        self._left[row] -= len(batch)
        if not self._left[row]:
            self._path(row).unlink(missing_ok=True)

    def _path(self, row: int) -> Path:
        return self.folder / f"row_{row}"

    def _fill(self, row: int) -> None:
        side, width = self.side, self.grid.padded_width
        step = max(1, SLICE // (width * 4 * self.channels))
        with explained(self._path(row)), self._path(row).open("wb") as file:
            os.truncate(file.fileno(), self.grid.cols * self.region_bytes)
            for start in range(0, side, step):
                high = min(step, side - start)
                try:
                    pixels, valid = self.source.read(Window(row * side + start, 0, high, width))
                except InputError as error:
                    self._bad[row] = error
                    return
                for col in range(self.grid.cols):
                    at, cut = col * self.region_bytes, slice(col * side, (col + 1) * side)
                    for channel in range(self.channels):
                        place = at + 4 * (channel * self.area + start * side)
                        os.pwrite(file.fileno(), np.ascontiguousarray(pixels[channel, :, cut]).data, place)
                    place = at + 4 * self.channels * self.area + start * side
                    os.pwrite(file.fileno(), np.ascontiguousarray(valid[:, cut]).data, place)
