"""The parts of a result, written by a thread of their own, each once and with its checksum."""

import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy.typing as npt

from xt.files import explained
from xt.geometry.grid import Window
from xt.inference.cog import Part, write_part
from xt.tasks.base import Product

WAITING = 2
"""Blocks that may wait to be written."""


class PartWriter:
    """Writes blocks of pixels as files while the model goes on. Close it by ``with``.

    Args:
        folder: For the files.
        product: Bands, their type and nodata.
    """

    def __init__(self, folder: Path, product: Product) -> None:
        self.folder, self.product = folder, product
        self._thread = ThreadPoolExecutor(1, "xt writer")
        self._waiting: list[Future[tuple[str, int, Window]]] = []
        self._done: dict[str, tuple[int, Window]] = {}

    def __enter__(self) -> "PartWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    @property
    def parts(self) -> list[Part]:
        """What is complete."""
        return [Part(self.folder / name, window) for name, (_, window) in self._done.items()]

    def write(self, window: Window, pixels: npt.NDArray[Any]) -> None:
        """Have ``(bands, h, w)`` written.

        Raises:
            OutputError: If an earlier block could not be written.
        """
        while len(self._waiting) > WAITING:
            self._finish()
        self._waiting.append(self._thread.submit(self._write, window, pixels))

    def save(self) -> list[list[Any]]:
        """Wait until all is written; return what :meth:`restore` takes.

        Raises:
            OutputError: If a block could not be written.
        """
        while self._waiting:
            self._finish()
        return [
            [name, crc, window.row, window.col, window.height, window.width]
            for name, (crc, window) in self._done.items()
        ]

    def restore(self, saved: list[list[Any]]) -> bool:
        """Take back what :meth:`save` returned, remove other files, and tell whether all are as they were written."""
        self._done = {name: (crc, Window(*place)) for name, crc, *place in saved}
        for path in self.folder.iterdir():
            if path.name not in self._done:
                path.unlink()
        return all(
            (path := self.folder / name).is_file() and _crc(path) == crc for name, (crc, _) in self._done.items()
        )

    def _finish(self) -> None:
        name, crc, window = self._waiting.pop(0).result()
        self._done[name] = crc, window

    def _write(self, window: Window, pixels: npt.NDArray[Any]) -> tuple[str, int, Window]:
        path = self.folder / f"{window.row}_{window.col}.tif"
        with explained(path):
            write_part(path, pixels, self.product)
        return path.name, _crc(path), window


def _crc(path: Path) -> int:
    return zlib.crc32(path.read_bytes())
