"""Encodes a whole image into the tokens that a context encoder takes, a few regions at a time."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from xt.data.address import shown
from xt.data.geotiff import Pixels
from xt.data.scene_tokens import TokenFacts, open_tokens, read_facts, source_facts
from xt.data.source import Source
from xt.errors import InputError, OutputError
from xt.files import locked, remove_partials, replacing_all
from xt.geometry.grid import RegionGrid
from xt.inference.feature_store import TensorFile
from xt.inference.fit import ValueWatch, warn_of_bands, watch_of
from xt.inference.precision import Precision, computing
from xt.models.checkpoint import encoder_sha256
from xt.models.metadata import ModelMetadata
from xt.models.work import device_of
from xt.models.xt import XT


def encode_image(
    model: XT,
    metadata: ModelMetadata,
    source: Source,
    out: Path,
    overwrite: bool = False,
    precision: Precision = "fp32",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> bool:
    """Write the last-stage map of an image before the context, as ``OUT.npy`` and ``OUT.json``.

    Regions without a valid pixel are not encoded and their tokens are 0. What is in memory is ``region_batch`` regions;
    the map is a memory-mapped file. An image that was done with the same encoder, precision and options, and has not
    changed since, is left as it is.

    Args:
        model: On its device, in evaluation mode.
        metadata: Of the model.
        source: The image.
        out: Name without suffix.
        overwrite: Replace tokens of another encoder or precision, or of what the image was.
        precision: In which the encoder computes.
        progress: Called with regions done and regions in all.

    Returns:
        Whether it was encoded now.

    Raises:
        InputError: If the image cannot be read, or has changed since its tokens were made.
        OutputError: If the output holds tokens of another encoder or precision, or cannot be written.
    """
    files = [out.with_name(f"{out.name}{suffix}") for suffix in (".npy", ".json")]
    encoder = model.region_encoder
    digest = encoder_sha256(model, metadata)
    if all(file.exists() for file in files) and not overwrite:
        _check_done(files, digest, precision, source)
        return False
    warn_of_bands(source)
    watch = watch_of(source)
    grid = RegionGrid(source.height, source.width, encoder.region_size)
    stride, channels = encoder.strides[-1], encoder.channels[-1]
    facts = TokenFacts(
        source.name, grid.height, grid.width, grid.region_size, stride, channels, (False,) * grid.num_regions, digest,
        metadata.to_dict(), precision, source_facts(source),
    )  # fmt: skip
    with locked(files[1]):
        remove_partials(files[0])
        _encode(model, source, facts, files, watch, progress)
    return True


def _check_done(files: Sequence[Path], digest: str, precision: Precision, source: Source) -> None:
    """Refuse tokens that are not those that would be made now."""
    done = read_facts(files[1])
    if (done.encoder, done.precision) != (digest, precision):
        other = "another model" if done.encoder != digest else f"precision {done.precision}"
        raise OutputError(f"{files[0]} holds tokens of {other}; --overwrite replaces them, or choose another -o")
    open_tokens(files[0], done)
    if done.source not in (None, source_facts(source)):
        raise InputError(
            f"{shown(source.path)}: not as it was when {files[0]} was made, or read with other --bands or --nodata; "
            "--overwrite makes them again"
        )


def _encode(
    model: XT,
    source: Source,
    facts: TokenFacts,
    files: Sequence[Path],
    watch: ValueWatch,
    progress: Callable[[int, int], None],
) -> None:
    grid, stride = facts.grid, facts.stride
    with replacing_all(files) as (values, description):
        tokens = np.lib.format.open_memmap(values, mode="w+", dtype=np.float16, shape=facts.shape)
        with values.open("r+b") as file:  # a full disk is told now; through the map it would end the process
            TensorFile(file.fileno(), files[0]).allocate(0, values.stat().st_size)
        exists = [False] * grid.num_regions
        for start in range(0, grid.num_regions, model.region_batch):
            chunk = range(start, min(start + model.region_batch, grid.num_regions))
            read = {region: source.read(grid.window(region)) for region in chunk}
            for each in read.values():
                watch.see(*each)
            kept = {region: pixels for region, (pixels, valid) in read.items() if valid.any()}
            with computing(facts.precision, model):
                maps = _last_maps(model, np.stack(list(kept.values()))) if kept else ()
            for region, each in zip(kept, maps, strict=True):
                exists[region] = True
                window = grid.window(region)
                row, col, side = window.row // stride, window.col // stride, window.height // stride
                tokens[:, row : row + side, col : col + side] = each
            progress(chunk.stop, grid.num_regions)
        watch.tell()
        tokens.flush()
        del tokens
        source.check_unchanged()
        description.write_text(replace(facts, exists=tuple(exists)).to_json(), encoding="utf-8")


def _last_maps(model: XT, pixels: Pixels) -> npt.NDArray[np.float16]:
    device = device_of(model)
    with torch.inference_mode():
        # Each region is an image of its own: what is beside it does not change its tokens.
        last = model.encode(torch.from_numpy(pixels).to(device)).maps[-1]
    halves: npt.NDArray[np.float16] = last.half().cpu().numpy()
    return halves
