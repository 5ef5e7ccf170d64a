"""Features of the regions of a scene on disk.

Files are read and written by plain calls: pages of a mapped file would count as the process's own memory.
"""

import json
import math
import os
import shutil
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from xt.errors import OutputError
from xt.geometry.grid import TokenLayout

_MAGIC = "xT features 1"
_HEADER_BYTES = 4096


class TensorFile:
    """Tensors at places in an open file; threads may read and write different places at once.

    Args:
        handle: Of a file open for reading and writing; closed by :meth:`close`.
        path: Its name, for messages.
    """

    def __init__(self, handle: int, path: Path) -> None:
        self.handle, self.path = handle, path

    def allocate(self, offset: int, size: int) -> None:
        """Take ``size`` bytes of the disk; they read as 0.

        Raises:
            OutputError: If they are not free.
        """
        with explained(self.path, size):
            if sys.platform == "darwin":
                os.truncate(self.handle, max(os.fstat(self.handle).st_size, offset + size))
            else:
                os.posix_fallocate(self.handle, offset, size)

    def read(self, tensor: Tensor, offset: int) -> Tensor:
        """Fill a contiguous tensor of the CPU with what lies at ``offset``, and return it.

        Raises:
            OutputError: If the file cannot be read or ends there.
        """
        left = _bytes_of(tensor)
        with explained(self.path):
            while len(left):
                count = os.preadv(self.handle, [left], offset)
                if not count:
                    raise OutputError(f"{self.path} ends too early; remove it and start again")
                left, offset = left[count:], offset + count
        return tensor

    def write(self, tensor: Tensor, offset: int) -> None:
        """Write a contiguous tensor of the CPU at ``offset``.

        Raises:
            OutputError: If the file cannot be written.
        """
        left = _bytes_of(tensor)
        with explained(self.path):
            while len(left):
                count = os.pwrite(self.handle, left, offset)
                left, offset = left[count:], offset + count

    def close(self) -> None:
        """Close the file."""
        os.close(self.handle)


class FeatureStore:
    """Last-stage features of the regions of a scene: a file with one record ``(channels, side, side)`` for each.

    A record that is written outlives the process, however it ends; whether it is whole tells its checksum, which the
    caller keeps. A region that was not written reads as 0.

    Attributes:
        path: The file.
        channels: Channels of a feature.
        layout: Rows and columns of regions, and the side of a region in features.
        dtype: Type of the values on disk.
    """

    def __init__(self, file: TensorFile, channels: int, layout: TokenLayout, dtype: torch.dtype) -> None:
        self.path, self.channels, self.layout, self.dtype = file.path, channels, layout, dtype
        self._file = file
        self._record = channels * layout.region_tokens * dtype.itemsize

    @classmethod
    def create(
        cls, path: Path, channels: int, layout: TokenLayout, dtype: torch.dtype = torch.float32
    ) -> "FeatureStore":
        """Make a file with room for all regions of ``layout`` that exist; others take no room.

        Args:
            path: File; what stood there is replaced.
            channels: Channels of a feature.
            layout: Of the whole scene at the last stage. Where ``exists`` is None there is room for every region.
            dtype: A floating type.

        Raises:
            OutputError: If the disk is too full or the file cannot be written; it is removed.
        """
        with explained(path):
            handle = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_RDWR, 0o666)
        store = cls(TensorFile(handle, path), channels, _without_exists(layout), dtype)
        try:
            with explained(path, store.nbytes):
                os.ftruncate(handle, store.nbytes)
            for start, stop in _ranges(layout):
                store._file.allocate(store._offset(start), (stop - start) * store._record)
            # Last, so that a file that was not finished is known.
            with explained(path):
                os.pwrite(handle, store._header(), 0)
        except BaseException:
            store.close()
            with suppress(OSError):
                path.unlink()
            raise
        return store

    @classmethod
    def open(cls, path: Path) -> "FeatureStore":
        """Open a file that :meth:`create` made, now or in a run that was killed.

        Raises:
            OutputError: If it is missing, is something else, was not finished, or cannot be read.
        """
        with explained(path):
            handle = os.open(path, os.O_RDWR)
        try:
            with explained(path):
                header, size = os.pread(handle, _HEADER_BYTES, 0), os.fstat(handle).st_size
            try:
                facts = json.loads(header.rstrip(b"\0"))
                layout = TokenLayout(facts["rows"], facts["cols"], facts["side"])
                store = cls(TensorFile(handle, path), facts["channels"], layout, getattr(torch, facts["dtype"]))
                whole = facts["magic"] == _MAGIC and size == store.nbytes
            except (ValueError, KeyError, TypeError, AttributeError):
                whole = False
            if not whole:
                raise OutputError(f"{path} holds no features, or was not finished; remove it and start again")
        except BaseException:
            os.close(handle)
            raise
        return store

    @property
    def nbytes(self) -> int:
        """Size of the file; regions that do not exist count, though they take no room."""
        return self._offset(self.layout.num_regions)

    def write(self, index: int, features: Tensor) -> int:
        """Write region ``index`` (raster order): ``(channels, side, side)`` of any type and device.

        Returns:
            Its checksum.

        Raises:
            OutputError: If the file cannot be written.
        """
        assert features.shape == self._shape, (features.shape, self._shape)
        record = features.detach().to("cpu", self.dtype).contiguous()
        self._file.write(record, self._offset(index))
        return zlib.crc32(_bytes_of(record))

    def read(self, index: int) -> Tensor:
        """Read region ``index``: ``(channels, side, side)``.

        Raises:
            OutputError: If the file cannot be read.
        """
        return self._file.read(torch.empty(self._shape, dtype=self.dtype), self._offset(index))

    def read_row(self, row: int) -> Tensor:
        """Read a row of regions as one map ``(channels, side, columns of regions · side)``.

        Raises:
            OutputError: If the file cannot be read.
        """
        side, cols = self.layout.side, self.layout.region_cols
        features = torch.empty(self.channels, side, cols * side, dtype=self.dtype)
        for col in range(cols):
            features[:, :, col * side : (col + 1) * side] = self.read(row * cols + col)
        return features

    def checksum(self, index: int) -> int:
        """Checksum of what is on disk of region ``index``; :meth:`write` returned the same.

        Raises:
            OutputError: If the file cannot be read.
        """
        return zlib.crc32(_bytes_of(self.read(index)))

    def sync(self) -> None:
        """Wait until what is written would outlive a power cut.

        Raises:
            OutputError: If the disk cannot take it.
        """
        with explained(self.path):
            os.fsync(self._file.handle)

    def close(self) -> None:
        """Close the file, which stays."""
        self._file.close()

    def __enter__(self) -> "FeatureStore":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def _shape(self) -> tuple[int, int, int]:
        return self.channels, self.layout.side, self.layout.side

    def _offset(self, index: int) -> int:
        assert 0 <= index <= self.layout.num_regions, index
        return _HEADER_BYTES + index * self._record

    def _header(self) -> bytes:
        rows, cols, side = self.layout.region_rows, self.layout.region_cols, self.layout.side
        dtype = str(self.dtype).removeprefix("torch.")
        facts = {"magic": _MAGIC, "channels": self.channels, "rows": rows, "cols": cols, "side": side, "dtype": dtype}
        return json.dumps(facts).encode().ljust(_HEADER_BYTES, b"\0")


@contextmanager
def explained(path: Path, needed: int = 0) -> Iterator[None]:
    """Say of a file in one line why it cannot be used, and how many bytes it needs.

    Raises:
        OutputError: Instead of OSError.
    """
    try:
        yield
    except OSError as error:
        room = ""
        with suppress(OSError):
            free = shutil.disk_usage(path.parent).free
            room = f" (it needs {math.ceil(needed / 2**20)} MiB, {free >> 20} MiB are free)" if needed else ""
        raise OutputError(
            f"{path} cannot be used: {error.strerror or error}{room}; free space or check the rights in {path.parent}"
        ) from error


def _bytes_of(tensor: Tensor) -> memoryview:
    assert tensor.is_contiguous()
    return tensor.view(-1).view(torch.uint8).numpy().data


def _without_exists(layout: TokenLayout) -> TokenLayout:
    return TokenLayout(layout.region_rows, layout.region_cols, layout.side)


def _ranges(layout: TokenLayout) -> Iterator[tuple[int, int]]:
    """Regions that exist and follow each other, as start and stop."""
    if layout.exists is None:
        yield 0, layout.num_regions
        return
    for there, group in groupby(range(layout.num_regions), key=layout.exists.__getitem__):
        regions = list(group)
        if there:
            yield regions[0], regions[-1] + 1
