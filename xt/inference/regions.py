"""Encoded regions of a scene that are still needed: in memory as far as a budget allows, the others on disk."""

import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from xt.errors import OutputError
from xt.files import explained
from xt.geometry.grid import Window
from xt.models.xt import XT

Place = tuple[int, int]
"""Row and column of a region in the grid."""


@dataclass(frozen=True)
class Shapes:
    """Sizes of what is kept of a region: on disk float32 one after the other, then validity.

    Attributes:
        image: ``(C, R, R)``; C is 0 where the decoder takes no pixels.
        maps: ``(channels[i], R / strides[i], R / strides[i])``, finest first.
    """

    image: tuple[int, ...]
    maps: tuple[tuple[int, ...], ...]

    @property
    def all(self) -> tuple[tuple[int, ...], ...]:
        """Image, maps, and what the context says, which is as large as the last map."""
        return (self.image, *self.maps, self.maps[-1])

    @property
    def numbers(self) -> int:
        """Floats of a region."""
        return sum(int(np.prod(each)) for each in self.all)

    @property
    def pixels(self) -> int:
        """Pixels of a region."""
        return self.image[1] * self.image[2]

    @property
    def nbytes(self) -> int:
        """Bytes of a region."""
        return 4 * self.numbers + self.pixels


def shapes_of(model: XT) -> Shapes:
    """Sizes of what is kept of a model's regions."""
    encoder, size = model.region_encoder, model.region_size
    channels = encoder.channels[-len(model.strides) :]
    sides = [(n, size // stride) for n, stride in zip(channels, model.strides, strict=True)]
    return Shapes((model.in_chans if model.dense else 0, size, size), tuple((n, side, side) for n, side in sides))


@dataclass
class Region:
    """What is known of a region with data.

    Attributes:
        image: ``(C, R, R)``, normalised; as many channels as :class:`Shapes` says.
        valid: ``(R, R)`` bool, on the CPU.
        maps: Of the region encoder, finest first.
        said: What the context has said so far, as large as the last map.
    """

    image: Tensor
    valid: Tensor
    maps: Sequence[Tensor]
    said: Tensor

    def decoded_from(self, stage: int) -> Tensor:
        """The map that a decoder takes: what the context says is added to the last one."""
        return self.maps[stage] + self.said if stage == len(self.maps) - 1 else self.maps[stage]


class RegionStore:
    """Keeps regions until they are dropped. One without data is kept as None.

    A region is written when memory is short or at :meth:`save`, each time under a new name; what an earlier save left
    stays until the one after is known to be complete (:meth:`forget_old`).

    Args:
        folder: For the files.
        shapes: Of a region.
        budget: Bytes of regions in memory, at most; one region is always there.
        device: Of the tensors.
    """

    def __init__(self, folder: Path, shapes: Shapes, budget: int, device: torch.device) -> None:
        self.folder, self.shapes, self.device = folder, shapes, device
        self.room = max(1, budget // shapes.nbytes)
        self._loaded: OrderedDict[Place, Region] = OrderedDict()
        self._empty: set[Place] = set()
        self._files: dict[Place, tuple[str, int]] = {}
        self._changed: set[Place] = set()
        self._old: list[str] = []
        self._versions = 0

    def __contains__(self, place: Place) -> bool:
        return place in self._empty or place in self._loaded or place in self._files

    def put(self, place: Place, region: Region | None) -> None:
        """Keep a region, new or changed.

        Raises:
            OutputError: If another one had to be written and cannot be.
        """
        if region is None:
            self._empty.add(place)
            return
        self._loaded[place] = region
        self._loaded.move_to_end(place)
        self._changed.add(place)
        self._make_room()

    def get(self, place: Place) -> Region | None:
        """Return a region; None if it has no data.

        Raises:
            OutputError: If its file cannot be read or is damaged.
        """
        if place in self._empty:
            return None
        if place not in self._loaded:
            self._loaded[place] = self._read(place)
            self._make_room()
        self._loaded.move_to_end(place)
        return self._loaded[place]

    def drop(self, place: Place) -> None:
        """Forget a region."""
        self._empty.discard(place)
        self._loaded.pop(place, None)
        self._changed.discard(place)
        if place in self._files:
            self._old.append(self._files.pop(place)[0])

    def save(self) -> dict[str, object]:
        """Write what is not written yet.

        Returns:
            What :meth:`restore` takes: files and their checksums, and the regions without data.

        Raises:
            OutputError: If it cannot be written.
        """
        for place in sorted(self._changed):
            self._write(place)
        return {
            "files": [[*place, name, crc] for place, (name, crc) in sorted(self._files.items())],
            "empty": sorted(map(list, self._empty)),
            "versions": self._versions,
        }

    def forget_old(self) -> None:
        """Remove files of regions that were dropped or written anew; call it when a save is known to be complete."""
        for name in self._old:
            (self.folder / name).unlink(missing_ok=True)
        self._old = []

    def restore(self, saved: dict[str, object]) -> bool:
        """Take back what :meth:`save` returned; whether all files are as they were written."""
        files: list[tuple[int, int, str, int]] = saved["files"]  # type: ignore[assignment]
        self._files = {(row, col): (name, crc) for row, col, name, crc in files}
        self._empty = {(row, col) for row, col in saved["empty"]}  # type: ignore[attr-defined]
        self._versions = int(saved["versions"])  # type: ignore[call-overload]
        kept = {name for name, _ in self._files.values()}
        for path in self.folder.iterdir():
            if path.name not in kept:
                path.unlink()
        return all(self._intact(name, crc) for name, crc in self._files.values())

    def _make_room(self) -> None:
        while len(self._loaded) > self.room:
            place = next(iter(self._loaded))
            if place in self._changed:
                self._write(place)
            del self._loaded[place]

    def _write(self, place: Place) -> None:
        region = self._loaded[place]
        parts = [each.float().cpu().contiguous().numpy() for each in (region.image, *region.maps, region.said)]
        parts.append(region.valid.to(torch.uint8).contiguous().numpy())
        self._versions += 1
        name, crc = f"{place[0]}_{place[1]}.{self._versions}", 0
        with explained(self.folder / name), (self.folder / name).open("wb") as file:
            for part in parts:
                crc = zlib.crc32(part.data, crc)
                file.write(part.data)
        if place in self._files:
            self._old.append(self._files[place][0])
        self._files[place] = name, crc
        self._changed.discard(place)

    def _read(self, place: Place) -> Region:
        name, crc = self._files[place]
        path, shapes = self.folder / name, self.shapes
        try:
            data = np.fromfile(path, np.uint8)
        except OSError as error:
            raise OutputError(f"{path} cannot be read: {error.strerror}; run again") from error
        if len(data) != shapes.nbytes or zlib.crc32(data.data) != crc:
            raise OutputError(f"{path} is damaged; check the disk and run again")
        numbers = torch.from_numpy(data[: 4 * shapes.numbers].view(np.float32))
        sizes = [int(np.prod(each)) for each in shapes.all]
        image, *maps, said = (
            each.reshape(shape).to(self.device)
            for each, shape in zip(torch.split(numbers, sizes), shapes.all, strict=True)
        )
        valid = torch.from_numpy(data[4 * shapes.numbers :]) > 0
        return Region(image, valid.reshape(shapes.image[1:]), maps, said)

    def _intact(self, name: str, crc: int) -> bool:
        path = self.folder / name
        return path.is_file() and path.stat().st_size == self.shapes.nbytes and zlib.crc32(path.read_bytes()) == crc


def stitched(store: RegionStore, at: Window, take: Callable[[Region], Tensor], shape: tuple[int, ...]) -> Tensor:
    """Put something of regions side by side; 0 where one has no data.

    Args:
        store: Holds the regions.
        at: Pixels of the scene, on whole cells of what is taken.
        take: Gives ``(C, side, side)`` of a region.
        shape: Of that.

    Returns:
        ``(C, at.height / stride, at.width / stride)``, on the device and of the type of what ``take`` gives.
    """
    num, side = shape[0], shape[-1]
    size = store.shapes.image[-1]
    regions, wanted = at.coarsened(size), at.coarsened(size // side)
    whole: Tensor | None = None
    for row, col in product(range(regions.row, regions.row_stop), range(regions.col, regions.col_stop)):
        region = store.get((row, col))
        if region is None:
            continue
        part, place = take(region), Window(row * side, col * side, side, side)
        if whole is None:
            whole = part.new_zeros(num, wanted.height, wanted.width)
        shared = place.intersect(wanted)
        whole[(..., *shared.within(wanted).slices)] = part[(..., *shared.within(place).slices)]
    return torch.zeros(num, wanted.height, wanted.width, device=store.device) if whole is None else whole
