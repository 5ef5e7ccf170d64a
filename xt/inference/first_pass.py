"""Context over a whole scene: the first of two passes keeps last-stage features only, and the context mixes them all.

The second pass (:class:`~xt.inference.engine.Scene`) encodes each region again for its finer maps, and decodes.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from xt.data.source import Source
from xt.errors import MemoryLimitError, ModelError
from xt.geometry.plan import ScenePlan
from xt.inference import engine, views
from xt.inference.feature_store import FeatureStore
from xt.inference.full_context import context_memory, mix_stored, scratch_bytes
from xt.inference.journal import Journal
from xt.inference.reader import RegionReader
from xt.inference.stopwatch import Stopwatch
from xt.inference.views import TURNS, Turn
from xt.malloc import return_free_memory
from xt.models.context.base import RecurrentContextEncoder, SequentialContextEncoder
from xt.models.decoders.base import DenseDecoder
from xt.models.work import device_of
from xt.models.xt import XT
from xt.stopping import StopRequest


@dataclass
class FirstPass:
    """What a scene's regions say to each other in one view; :meth:`run` goes on where the journal's last commit was.

    Attributes:
        model: On its device, in evaluation mode.
        source: The image.
        plan: Of its regions.
        journal: Of its job.
        fill_bad: Take regions that cannot be read for empty instead of failing.
        progress: Called with regions done and regions in all.
        stop: Asked between batches and before the context mixes.
        view: Number of the view.
        turn: How it is turned.
        seconds: Stage → time that it held up the main thread; what this pass takes is added.
    """

    model: XT
    source: Source
    plan: ScenePlan
    journal: Journal
    fill_bad: bool
    progress: Callable[[int, int], None]
    stop: StopRequest | None
    view: int = 0
    turn: Turn = TURNS["none"][0]
    seconds: Stopwatch = field(default_factory=Stopwatch)

    def run(self) -> FeatureStore:
        """Return the mixed last-stage features of all regions, in the places that they have in the view.

        Raises:
            InputError: If a region cannot be read.
            OutputError: If anything cannot be written.
        """
        mixed = self.journal.folder / f"mixed_{self.view}"
        self.seconds.update((self.journal.last or {}).get("seconds", {}) if self.view == 0 else {})
        if self._is_mixed():
            return FeatureStore.open(mixed)
        grid, encoder = self.turn.grid(self.plan.grid), self.model.region_encoder
        features, exists = self._features()
        return_free_memory()
        flags = self.turn.flags(tuple(exists), self.plan.grid)
        layout = grid.layout(encoder.strides[-1], flags)
        with (
            self.seconds.timed("first context"),
            features,
            FeatureStore.create(mixed, encoder.channels[-1], layout) as out,
        ):
            mix_stored(self.model, features, flags, grid, self.journal.folder, out, self.progress)
            out.sync()
        self.journal.commit({"stage": "mixed", "view": self.view, "seconds": dict(self.seconds)})
        features.path.unlink()
        return FeatureStore.open(mixed)

    def _is_mixed(self) -> bool:
        last = self.journal.last
        if last is None or last["stage"] == "decode":
            return last is not None
        view: int = last["view"]
        return view > self.view or (view == self.view and last["stage"] == "mixed")

    def _features(self) -> tuple[FeatureStore, list[bool]]:
        grid, encoder = self.plan.grid, self.model.region_encoder
        path, last = self.journal.folder / "features", self.journal.last
        if last is None or last["stage"] == "mixed":
            last, layout = None, self.turn.grid(grid).layout(encoder.strides[-1])
            features = FeatureStore.create(path, encoder.channels[-1], layout)
        else:
            features = FeatureStore.open(path)
        done, exists = (
            (last["done"], [flag == "1" for flag in last["exists"]]) if last else (0, [False] * grid.num_regions)
        )
        rows = self.plan.rows()
        batches, regions = rows[done:], sum(map(len, rows[:done]))
        device = device_of(self.model)
        reader = RegionReader(self.source, grid, batches, 1, self.journal.subfolder("rows"), self.fill_bad)
        committed = time.monotonic()
        with reader, torch.inference_mode():
            pixels = iter(reader)
            for _ in batches:
                with self.seconds.timed("first read"):
                    batch, read = next(pixels)
                kept = {
                    place: item[0]
                    for place, item in zip(batch, read, strict=True)
                    if item is not None and item[1].any()
                }
                if kept:
                    with self.seconds.timed("first encode"):
                        image = torch.from_numpy(np.stack(list(kept.values()))).to(device)
                        last_maps = views.encode(self.model, self.turn.apply(image))[-1]
                    for place, each in zip(kept, last_maps, strict=True):
                        exists[place[0] * grid.cols + place[1]] = True
                        row, col = self.turn.place(*place, grid.rows, grid.cols)
                        features.write(row * self.turn.shape(grid.rows, grid.cols)[1] + col, each)
                done += 1
                regions += len(batch)
                self.progress(regions, grid.num_regions)
                asked = self.stop is not None and self.stop.received is not None
                if asked or done == self.plan.num_batches or time.monotonic() - committed >= engine.COMMIT_SECONDS:
                    features.sync()
                    flags = "".join("01"[each] for each in exists)
                    entry = {"stage": "features", "view": self.view, "done": done, "exists": flags}
                    self.journal.commit(entry | {"seconds": dict(self.seconds)})
                    committed = time.monotonic()
                if self.stop is not None:
                    self.stop.check()
        return features, exists


def check_full_context(model: XT, plan: ScenePlan, limit: int | None = None) -> None:
    """Find out whether a model can mix a whole scene, before anything is done.

    Args:
        model: The model.
        plan: Of the scene.
        limit: Bytes that it may take; what the machine has free by default.

    Raises:
        ModelError: If it is not a matter of memory: a pooled decoder, or one that prepares the whole scene.
        MemoryLimitError: If its context encoder must see all tokens at once and they do not fit; says what they need.
    """
    if not isinstance(model.decoder, DenseDecoder):
        raise ModelError(
            f"--context full: {type(model.decoder).__name__} gives one answer for each window; for one of the whole "
            f"image give --tile {max(plan.grid.height, plan.grid.width)}"
        )
    if not model.decoder.is_local:
        raise ModelError(
            f"--context full: {type(model.decoder).__name__} needs a window's features at once; take --context windows"
        )
    encoder = model.context.encoder
    if isinstance(encoder, SequentialContextEncoder | RecurrentContextEncoder):
        return
    needed = context_memory(model, plan.grid.layout(model.region_encoder.strides[-1]))
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > (limit or free):
        raise MemoryLimitError(
            f"--context full: {type(encoder).__name__} sees all tokens at once, which takes about {needed >> 20} MiB; "
            f"{(limit or free) >> 20} are free; take --context windows, or a context that reads in parts, such as Mamba"
        )


def disk_bytes(model: XT, plan: ScenePlan) -> int:
    """Bytes that the two passes need on the disk for features."""
    layout = plan.grid.layout(model.region_encoder.strides[-1])
    stored = 4 * model.region_encoder.channels[-1] * layout.num_tokens
    return 2 * stored + scratch_bytes(model, layout)
