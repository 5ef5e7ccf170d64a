"""The context over a whole scene whose features lie on disk, in memory for about one row of regions.

How depends on what the context encoder can (:mod:`xt.models.context.base`):

- A sequence of passes goes over rows of regions, up and down the scene; tokens between two passes lie in a file.
- A recurrent encoder reads the scene once, a few regions at a time.
- Any other is given all tokens in memory.
"""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from xt.errors import ModelError
from xt.geometry import order
from xt.geometry.grid import RegionGrid, TokenLayout
from xt.inference.feature_store import FeatureStore, TensorFile, explained
from xt.models.context.base import (
    PIECE_TOKENS,
    ContextEncoder,
    Memory,
    Pass,
    RecurrentContextEncoder,
    SequentialContextEncoder,
    sweep,
)
from xt.models.context_block import ContextBlock
from xt.models.xt import XT

_ALLOCATOR_BYTES = 64 << 20  # freed blocks that glibc keeps; it gives back those over 32 MiB at once
_INDEX_BYTES = 640  # of the orders that xt.geometry.order keeps, for each token of a segment


def mix_stored(
    model: XT,
    features: FeatureStore,
    exists: tuple[bool, ...] | None,
    grid: RegionGrid,
    scratch: Path,
    out: FeatureStore,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write what :meth:`XT.mix_features` gives of a whole scene, which need not fit in memory.

    Args:
        model: On its device, in evaluation mode, with a dense decoder.
        features: Last-stage features of the scene.
        exists: One flag per region in raster order; None if all exist. Others are neither read nor written.
        grid: Regions of the scene.
        scratch: Folder for the tokens between passes, :func:`scratch_bytes` of them; nothing stays there.
        out: Gets the features with what the context says added. May be ``features`` itself, which a run that is killed
            then leaves half mixed.
        progress: Called with regions done and regions in all, each as often as the scene is read.

    Raises:
        ModelError: If the decoder is pooled.
        OutputError: If ``scratch`` has no room, or a file cannot be read or written.
    """
    if not model.dense:
        raise ModelError("mix_stored needs a dense decoder; a pooled one gives one vector per image")
    layout = grid.layout(model.region_encoder.strides[-1], exists)
    for store in (features, out):
        assert (store.channels, store.layout.num_regions) == (model.context.input_proj.in_features, layout.num_regions)
    scene = _Scene(model.context, layout, features, out, scratch, progress)
    encoder = model.context.encoder
    if not layout.num_existing:
        return
    with torch.inference_mode():
        if isinstance(encoder, SequentialContextEncoder):
            _mix_in_passes(scene, encoder)
        elif isinstance(encoder, RecurrentContextEncoder):
            _mix_in_steps(scene, encoder)
        else:
            _mix_at_once(scene, encoder)


def context_memory(model: XT, layout: TokenLayout) -> int:
    """Estimate the bytes that :func:`mix_stored` holds at once beside the model.

    Args:
        model: With a dense decoder.
        layout: Of the scene at the last stage, with the regions that exist.
    """
    block, encoder = model.context, model.context.encoder
    tokens = layout.num_existing * layout.region_tokens
    at_once, width = 0, encoder.dim
    row = max((len(regions) for regions in _rows(layout)), default=0) * layout.region_tokens
    if isinstance(encoder, SequentialContextEncoder):
        segment, given = row, min(PIECE_TOKENS, row)
        width = max([width, *_widths(encoder)])
    elif isinstance(encoder, RecurrentContextEncoder):
        segment = given = min(_run(encoder, layout) * layout.region_tokens, tokens)
    else:
        segment, given, at_once = row, tokens, tokens * encoder.dim
    # Features, and either positions while they are made or tokens while they are mixed.
    values = block.input_proj.in_features + max(3.5 * encoder.dim, 3 * width)
    itemsize = block.input_proj.weight.element_size()
    held = int((segment * values + at_once) * itemsize) + segment * _INDEX_BYTES
    return held + encoder.working_bytes(given) + _ALLOCATOR_BYTES


def scratch_bytes(model: XT, layout: TokenLayout) -> int:
    """Bytes that :func:`mix_stored` needs in its scratch folder.

    Args:
        model: With a dense decoder.
        layout: Of the scene at the last stage, with the regions that exist.
    """
    encoder = model.context.encoder
    if not isinstance(encoder, SequentialContextEncoder):
        return 0
    width = max(_widths(encoder), default=0)
    return layout.num_existing * layout.region_tokens * width * model.context.input_proj.weight.element_size()


@dataclass(frozen=True)
class _Segment:
    """Regions of the scene that follow each other, and the sequence of their tokens alone."""

    regions: Sequence[int]
    layout: TokenLayout
    first: int
    """Tokens of the scene that come before."""

    @property
    def num_tokens(self) -> int:
        return self.layout.num_tokens

    def places(self) -> Iterator[tuple[int, Tensor]]:
        """Each region, and where its tokens are in the sequence."""
        by_region = torch.tensor(order.region_major(self.layout)).view(len(self.regions), -1)
        return zip(self.regions, by_region, strict=True)


@dataclass
class _Scene:
    """Features on disk, which become tokens, segment by segment, and get back what the context says."""

    block: ContextBlock
    layout: TokenLayout
    features: FeatureStore
    out: FeatureStore
    scratch: Path
    progress: Callable[[int, int], None]
    readings: int = 1
    done: int = 0

    def load(self, segment: _Segment) -> Tensor:
        """Tokens with positions ``(1, l, dim)``."""
        features = torch.empty(segment.num_tokens, self.features.channels, dtype=self.features.dtype)
        for region, places in segment.places():
            features[places] = self.features.read(region).flatten(1).T
        return self.block.embed(features[None].to(self.block.input_proj.weight), segment.layout)

    def save(self, segment: _Segment, tokens: Tensor) -> None:
        said = self.block.project_back(tokens)[0].cpu()
        for region, places in segment.places():
            features = self.features.read(region)
            self.out.write(region, features + said[places].T.reshape(features.shape))

    def count(self, segment: _Segment) -> None:
        self.done += len(segment.regions)
        self.progress(self.done, self.readings * self.layout.num_existing)


def _mix_in_passes(scene: _Scene, encoder: SequentialContextEncoder) -> None:
    # Passes that follow each other in one direction go over the scene together.
    sweeps = _sweeps(encoder)
    scene.readings = len(sweeps)
    segments = list(_segments(scene.layout, _rows(scene.layout)))
    with _Between(scene, max(_widths(encoder), default=0)) as between:
        width = encoder.dim
        for number, (reverse, passes) in enumerate(sweeps, start=1):
            memories: list[Memory | None] = [None] * len(passes)
            for segment in reversed(segments) if reverse else segments:
                tokens = scene.load(segment) if number == 1 else between.read(segment, width)
                tokens = sweep(tokens, passes, memories, PIECE_TOKENS)
                if number < len(sweeps):
                    between.write(segment, tokens)
                else:
                    scene.save(segment, tokens)
                scene.count(segment)
            width = tokens.shape[2]


def _mix_in_steps(scene: _Scene, encoder: RecurrentContextEncoder) -> None:
    memory: Memory | None = None
    regions, run = _existing(scene.layout), _run(encoder, scene.layout)
    runs = (regions[start : start + run] for start in range(0, len(regions), run))
    for segment in _segments(scene.layout, runs):
        tokens, memory = encoder.step(scene.load(segment), segment.layout, memory)
        scene.save(segment, tokens)
        scene.count(segment)


def _mix_at_once(scene: _Scene, encoder: ContextEncoder) -> None:
    scene.readings = 2
    segments = list(_segments(scene.layout, _rows(scene.layout)))
    tokens = scene.block.input_proj.weight.new_empty(1, scene.layout.num_tokens, encoder.dim)
    for segment in segments:
        tokens[:, segment.first : segment.first + segment.num_tokens] = scene.load(segment)
        scene.count(segment)
    tokens = encoder(tokens, scene.layout)
    for segment in segments:
        scene.save(segment, tokens[:, segment.first : segment.first + segment.num_tokens])
        scene.count(segment)


class _Between:
    """A file without a name for the tokens between two sweeps, each segment in its place."""

    def __init__(self, scene: _Scene, width: int) -> None:
        weight = scene.block.input_proj.weight
        self._dtype, self._device = weight.dtype, weight.device
        self._token_bytes = width * weight.element_size()
        with explained(scene.scratch / "tokens"), tempfile.TemporaryFile(dir=scene.scratch) as file:
            self._file = TensorFile(os.dup(file.fileno()), scene.scratch / "tokens")
        if width:
            try:
                self._file.allocate(0, scene.layout.num_tokens * self._token_bytes)
            except BaseException:
                self._file.close()
                raise

    def read(self, segment: _Segment, width: int) -> Tensor:
        tokens = torch.empty(1, segment.num_tokens, width, dtype=self._dtype)
        return self._file.read(tokens, segment.first * self._token_bytes).to(self._device)

    def write(self, segment: _Segment, tokens: Tensor) -> None:
        self._file.write(tokens.to("cpu", self._dtype).contiguous(), segment.first * self._token_bytes)

    def __enter__(self) -> "_Between":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def _sweeps(encoder: SequentialContextEncoder) -> list[tuple[bool, list[Pass]]]:
    return [(reverse, list(each)) for reverse, each in groupby(encoder.passes(), lambda one: one.reverse)] or [
        (False, [])
    ]


def _widths(encoder: SequentialContextEncoder) -> list[int]:
    """Channels of the tokens between two sweeps."""
    return [passes[-1].channels or encoder.dim for _, passes in _sweeps(encoder)[:-1]]


def _run(encoder: RecurrentContextEncoder, layout: TokenLayout) -> int:
    """Regions that a recurrent encoder is given at a time."""
    multiple = encoder.segment_regions
    return multiple * max(1, PIECE_TOKENS // (multiple * layout.region_tokens))


def _existing(layout: TokenLayout) -> list[int]:
    return [region for region in range(layout.num_regions) if layout.exists is None or layout.exists[region]]


def _rows(layout: TokenLayout) -> list[list[int]]:
    """Regions of each row that has any."""
    return [list(row) for _, row in groupby(_existing(layout), lambda region: region // layout.region_cols)]


def _segments(whole: TokenLayout, groups: Iterable[Sequence[int]]) -> Iterator[_Segment]:
    """Give each group of regions its layout and its place in the sequence."""
    first = 0
    for regions in groups:
        layout = whole.segment(regions)
        yield _Segment(regions, layout, first)
        first += layout.num_tokens
