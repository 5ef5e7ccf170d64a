"""Runs a model over a whole scene, one window of regions after the other, in memory that the scene does not set.

Every region is read and encoded once. Windows of the size that the model was trained on mix its tokens, and what they
say fades from one into the next; so the decoder sees one seamless map, and decodes every pixel once.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from xt.data.source import Source
from xt.errors import InputError, XTWarning
from xt.geometry.blend import Blend
from xt.geometry.grid import RegionGrid, Window
from xt.geometry.plan import Rectangle, ScenePlan, Unit, blocks
from xt.inference.feature_store import FeatureStore
from xt.inference.journal import Journal
from xt.inference.outcome import Counts, Outcome
from xt.inference.parts import PartWriter
from xt.inference.pooled import painted_answers
from xt.inference.reader import Batch, Pixel, RegionReader
from xt.inference.regions import Region, RegionStore, stitched
from xt.inference.stopwatch import Stopwatch
from xt.inference.views import Views
from xt.malloc import return_free_memory
from xt.models.decoders.base import DenseDecoder
from xt.models.pyramid import FeaturePyramid
from xt.models.work import device_of
from xt.stopping import StopRequest
from xt.tasks.base import Task, Valid, Values

BLOCK = 1024, 1024
"""Rows and columns of what is written at a time, in pixels."""
PIECES = {"cpu": (512, 512), "cuda": BLOCK}
"""Of what is decoded at a time; on a CPU a block at once takes more memory and is not faster."""
COMMIT_SECONDS = 20.0
"""Work that a kill may cost, beside the window that is at work."""


@dataclass
class Scene:
    """A scene that is predicted; :meth:`run` does it, and goes on where the journal's last commit was.

    Attributes:
        views: What the model is asked.
        task: Says what the model's answers mean.
        source: The image.
        plan: Of its regions.
        blend: How windows fade into each other.
        journal: Of its job.
        writer: Takes the blocks of the result.
        budget: Bytes of encoded regions in memory.
        fill_bad: Give regions that cannot be read nodata instead of failing.
        progress: Called with regions done and regions in all.
        stop: Asked after each window.
        mixed: For each view the last-stage features of all regions to which the context has spoken; none to let it mix
            window by window.
        counts: What has happened so far.
        seconds: Stage → time that it held up the main thread.
    """

    views: Views
    task: Task
    source: Source
    plan: ScenePlan
    blend: Blend
    journal: Journal
    writer: PartWriter
    budget: int
    fill_bad: bool = False
    progress: Callable[[int, int], None] = lambda done, total: None
    stop: StopRequest | None = None
    mixed: Sequence[FeatureStore] = ()
    counts: Counts = field(default_factory=Counts)
    seconds: Stopwatch = field(default_factory=Stopwatch)
    _answers: dict[int, list[float] | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make room for regions."""
        self.model, self.shapes = self.views.model, self.views.shapes
        self.device = device_of(self.model)
        self.store = RegionStore(self.journal.subfolder("regions"), self.shapes, self.budget, self.device)

    @property
    def outcome(self) -> "Outcome":
        """What has been made."""
        return Outcome(self.writer.parts, self.counts, self._answers, self.seconds)

    def run(self) -> None:
        """Decode all pixels and have them written.

        Raises:
            InputError: If a region cannot be read, or the model's answer is not finite.
            OutputError: If anything cannot be written.
        """
        steps = list(self.plan.batches(self._restore()))
        batches = [batch for _, new in steps for batch in new]
        rows = self.journal.subfolder("rows")
        reader = RegionReader(self.source, self.plan.grid, batches, self.plan.side, rows, self.fill_bad)
        committed = time.monotonic()
        with reader, torch.inference_mode():
            pixels = iter(reader)
            for unit, new in steps:
                for _ in new:
                    with self.seconds.timed("read"):
                        batch, read = next(pixels)
                    self._encode(batch, read)
                    return_free_memory()  # of one stage, before another takes blocks of other sizes
                self._mix(unit)
                return_free_memory()
                self._decode(unit)
                for place in self.plan.dropped_after(unit):
                    self.store.drop(place)
                asked = self.stop is not None and self.stop.received is not None
                if asked or unit is self.plan.work[-1] or time.monotonic() - committed >= COMMIT_SECONDS:
                    self._commit(unit)
                    committed = time.monotonic()
                if self.stop is not None:
                    self.stop.check()

    def _encode(self, batch: Batch, read: list[Pixel | None]) -> None:
        kept = {place: item for place, item in zip(batch, read, strict=True) if item is not None and item[1].any()}
        with self.seconds.timed("encode"):
            for place in batch:
                if place not in kept:
                    self.store.put(place, None)
            if kept:
                image = torch.from_numpy(np.stack([pixels for pixels, _ in kept.values()])).to(self.device)
                maps = self.views.encode(image)
                for i, (place, (_, valid)) in enumerate(kept.items()):
                    own = [each[i].clone() for each in maps]
                    if self.mixed:
                        own[-1] = self._mixed_features(place).to(own[-1])
                    seen = image[i, : self.shapes.image[0]].clone()
                    region = Region(seen, torch.tensor(valid), own, torch.zeros_like(own[-1]))
                    self.store.put(place, region)
        self.counts.regions += len(batch)
        for place, item in zip(batch, read, strict=True):
            if place in self.plan.owned:
                self.counts.own += 1
                self.counts.empty += item is not None and place not in kept
                self.counts.bad += item is None
        self.progress(self.counts.regions, self.plan.num_regions)

    def _mix(self, unit: Unit) -> None:
        """Add what the context says of a window to its regions; keep the answer of a pooled model."""
        if self.mixed:
            return
        window = unit.window
        exists = tuple(self.store.get(place) is not None for place in window.places)
        with self.seconds.timed("context"):
            if not self.model.dense:
                self._answers[unit.index] = self._answer(window, exists) if any(exists) else None
            elif any(exists):
                self._add_context(unit, exists)

    def _answer(self, window: Rectangle, exists: tuple[bool, ...]) -> list[float]:
        pyramid = self._pyramid(window, exists)
        mixed = [self.model.mix(each) for each in self.views.split(pyramid)]
        answer = self.views.values(mixed, self.task.activate, pyramid.grid)
        self._check(answer, self.plan.pixels_of(window))
        found: list[float] = answer.tolist()
        return found

    def _add_context(self, unit: Unit, exists: tuple[bool, ...]) -> None:
        window, size = unit.window, self.plan.grid.region_size
        frame = self.plan.frame_of(window)
        last = stitched(self.store, frame, lambda region: region.maps[-1], self.shapes.maps[-1])[None]
        grid = RegionGrid(window.shape[0] * size, window.shape[1] * size, size)
        said = self.views.said(last, grid, exists)[0]
        side = self.shapes.maps[-1][1]
        rows, cols = (torch.from_numpy(each).to(said) for each in self.plan.weights(unit, side, self.blend))
        said.mul_(rows[:, None]).mul_(cols[None, :])
        for place in window.places:
            region = self.store.get(place)
            if region is not None:
                top, left = (place[0] - window.top) * side, (place[1] - window.left) * side
                region.said = region.said + said[:, top : top + side, left : left + side]
                self.store.put(place, region)

    def _decode(self, unit: Unit) -> None:
        """Decode the pixels that are final, block by block, and have them written."""
        prepared = None
        decoder = self.model.decoder
        if isinstance(decoder, DenseDecoder) and not decoder.is_local and unit.final.height and unit.final.width:
            pyramid = self._pyramid(unit.window)
            prepared = [self.model.prepare(each) for each in self.views.split(pyramid)]
        for block in blocks(unit.final, *BLOCK):
            with self.seconds.timed("decode"):
                valid = self._valid(block)
                if not valid.any():
                    continue
                if self.model.dense:
                    values = self._decoded(block, valid, prepared, unit)
                else:
                    values = painted_answers(self.plan, self._answers, self.task.channels, block, self.blend)
                self._check(values, block, valid)
                pixels = self.task.paint(values, valid)
            with self.seconds.timed("write"):
                self.writer.write(block, pixels)
            return_free_memory()

    def _decoded(self, block: Window, valid: Valid, prepared: list[FeaturePyramid] | None, unit: Unit) -> Values:
        values: Values = np.zeros((self.task.channels, block.height, block.width), np.float32)
        for piece in blocks(block, *piece_on(self.device)):
            place = piece.within(block).slices
            if valid[place].any():
                if prepared is None:
                    around = self.plan.seen_from(piece, self.model.region_encoder.strides[-1])
                    pyramid = self._cut(around)
                    found = self.views.values(
                        self.views.split(pyramid), self.task.activate, pyramid.grid, piece.within(around)
                    )
                else:
                    whole = self.plan.pixels_of(unit.window)
                    grid = RegionGrid(whole.height, whole.width, self.plan.grid.region_size)
                    found = self.views.values(prepared, self.task.activate, grid, piece.within(whole))
                values[:, *place] = found
        return values

    def _valid(self, block: Window) -> Valid:
        size = self.plan.grid.region_size
        whole = stitched(self.store, block, lambda region: region.valid[None], (1, size, size))[0]
        found: Valid = whole.bool().cpu().numpy()
        return found

    def _pyramid(self, at: Rectangle, exists: tuple[bool, ...] | None = None) -> FeaturePyramid:
        """The pyramid of whole regions; its places count from their first one, as in training."""
        place, pyramid = self.plan.pixels_of(at), self._cut(self.plan.frame_of(at))
        return replace(
            pyramid,
            image=pyramid.image[..., : place.height, : place.width],
            grid=RegionGrid(place.height, place.width, self.plan.grid.region_size),
            exists=None if exists is None else (exists,),
        )

    def _cut(self, at: Window) -> FeaturePyramid:
        """The pyramid of a window on whole cells, beyond the scene's border too."""
        strides = self.model.strides
        image = stitched(self.store, at, lambda region: region.image, self.shapes.image)
        maps = tuple(
            stitched(self.store, at, partial(Region.decoded_from, stage=i), shape)[None]
            for i, shape in enumerate(self.shapes.maps)
        )
        return FeaturePyramid(image[None], maps, strides, RegionGrid(at.height, at.width, strides[-1]))

    def _mixed_features(self, place: tuple[int, int]) -> Tensor:
        """Last-stage features ``(views · channels, side, side)`` to which the context of the scene has spoken."""
        rows, cols = self.plan.grid.rows, self.plan.grid.cols
        found = []
        for turn, store in zip(self.views.turns, self.mixed, strict=True):
            row, col = turn.place(*place, rows, cols)
            found.append(turn.undo(store.read(row * turn.shape(rows, cols)[1] + col)))
        return torch.cat(found)

    def _check(self, values: Values, at: Window, valid: Valid | None = None) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(values.sum()):  # sooner than value by value
                return
        if not np.isfinite(values if valid is None else values[:, valid]).all():
            raise InputError(
                f"{self.source.path}: the model gives NaN or infinity at rows {at.row}–{at.row_stop - 1}, "
                f"columns {at.col}–{at.col_stop - 1}; check the values there, --nodata, and the model"
            )

    def _commit(self, unit: Unit) -> None:
        with self.seconds.timed("write"):
            entry = {"stage": "decode", "unit": unit.index, "parts": self.writer.save(), "regions": self.store.save()}
            entry |= {"counts": asdict(self.counts), "answers": list(self._answers.items())}
            self.journal.commit(entry | {"seconds": dict(self.seconds)})
            self.store.forget_old()
            return_free_memory()

    def _restore(self) -> int:
        """Take back the last commit; return the first unit that is to be done."""
        last = self.journal.last
        if last is None or last["stage"] != "decode":
            return 0
        if not (self.store.restore(last["regions"]) and self.writer.restore(last["parts"])):
            text = f"{self.journal.folder}: files of an earlier run are damaged; starting anew"
            warnings.warn(text, XTWarning, stacklevel=2)
            self.store.restore({"files": [], "empty": [], "versions": 0})
            self.writer.restore([])
            return 0
        self.counts, self._answers = Counts(**last["counts"]), {index: answer for index, answer in last["answers"]}
        self.seconds = Stopwatch(last["seconds"])
        return int(last["unit"]) + 1


def piece_on(device: torch.device) -> tuple[int, int]:
    """Rows and columns of what is decoded at a time."""
    return PIECES.get(device.type, PIECES["cpu"])
