"""A dense decoder is local: a tile with its halo around it is decoded as the whole image is."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from xt.geometry.grid import RegionGrid, Window
from xt.models.decoders.base import DenseDecoder
from xt.models.tiles import cut_tiles, decode_tile, decode_tiles
from xt.testing.counting import Counter
from xt.testing.part_subjects import DenseSubject
from xt.testing.report import DoesNotApplyError
from xt.testing.subject import RELATIVE, same

BEYOND = 2
"""Cells of the coarsest map beyond the halo where what is read is looked for."""


def halo(subject: DenseSubject) -> str:
    """No cell has a gradient to what lies farther away than the halo, in the middle of the image or at its border."""
    decoder, coarsest = subject.build(), subject.coarsest
    side = 2 * (decoder.halo // coarsest + BEYOND) + 3
    rows, cols = side, side + 2
    image, *pyramid = subject.inputs(1, 0, rows, cols)
    leaves = [each.detach().requires_grad_() for each in (image, *subject.prepared(decoder, pyramid))]
    with subject.named("fails on a larger image", f"{subject.takes} must work"):
        out = decoder(leaves[0], leaves[1:])
    found = 0
    for row, col in ((rows // 2, cols // 2), (0, 0), (rows - 1, cols - 1)):
        cell = Window(row * coarsest, col * coarsest, coarsest, coarsest)
        found = max(found, *_reaches(subject, decoder, leaves, out, cell))
    if found <= decoder.halo:
        return f"{found} px are reached, halo is {decoder.halo}"
    if found >= min(rows // 2, cols // 2) * coarsest:
        raise subject.fault(
            f"reads {found} px away and more, the whole image maybe, where its halo is {decoder.halo}: decoded tile by "
            "tile it answers otherwise; what pools or normalises over the image (group, instance or batch norm, an "
            "image-wide mean) belongs in prepare(), or norm the channels of each cell; otherwise raise halo"
        )
    raise subject.fault(
        f"reads {found} px away where its halo is {decoder.halo}: decoded tile by tile it answers otherwise; raise "
        f"halo to {-(-found // coarsest) * coarsest}"
    )


def tiles(subject: DenseSubject) -> str:
    """Tiles of several sizes, of images whose sides are no multiples of anything, are as the image decoded at once."""
    decoder, coarsest = subject.build(), subject.coarsest
    side = decoder.halo // coarsest
    height, width = (side + 3) * coarsest - 3, (2 * side + 5) * coarsest - 1
    grid = RegionGrid(height, width, 2 * coarsest)
    image, *pyramid = subject.inputs(1, 0, grid.padded_height // coarsest, grid.padded_width // coarsest)
    heads = nn.ModuleDict({"map": nn.Identity()})
    with torch.no_grad():
        tensors = [image[..., :height, :width], *subject.prepared(decoder, pyramid)]

        def decoded(window: Window, size: int) -> Tensor:
            parts = cut_tiles(window, grid, size, coarsest, decoder.halo)
            with subject.named(f"fails in tiles of {size} px", f"{subject.takes} must work"):
                (found,) = decode_tiles(
                    lambda tile, cut: tuple(decode_tile(decoder, heads, tile, cut).values()),
                    parts,
                    tensors,
                    (1, *subject.sizes.strides),
                    [decoder],
                    window,
                )
            return found

        # A tile that is as large as the image is decoded from all of it.
        whole = decoded(grid.whole, max(grid.padded_height, grid.padded_width))
        corner = Window(height - coarsest - 5, width - coarsest - 5, coarsest + 5, coarsest + 5)
        middle = Window(height // 2, 1, min(coarsest, height // 2), width - 2)
        for window, size in ((grid.whole, 2 * coarsest), (middle, 3 * coarsest), (corner, coarsest)):
            found, want = decoded(window, size), whole[(..., *window.slices)]
            error = float((found - want).abs().max() / whole.abs().max())
            if error > RELATIVE:
                raise subject.fault(
                    f"is {error:.1%} off in tiles of {size} px of an image of {height} × {width}, where its halo of "
                    f"{decoder.halo} px is as far as gradients reach; an answer depends neither on where a cell lies "
                    "in the tile, nor on the tile's size, border or statistics: move that to prepare()"
                )
    return f"tiles of {coarsest} to {3 * coarsest} px of {height} × {width} px are as the whole"


def window(subject: DenseSubject) -> str:
    """A window of the map is that part of it, and costs less than all."""
    if not subject.cls.takes_window:
        raise DoesNotApplyError("forward takes no window")
    decoder, advice = subject.build(), "forward takes a window of cells of the map as a third argument"
    image, *pyramid = subject.inputs(1)
    with torch.no_grad():
        pyramid = list(subject.prepared(decoder, pyramid))
        with Counter() as all_of_it:
            whole = decoder(image, pyramid)
        for part in _windows(whole.shape[-2], whole.shape[-1]):
            with subject.named(f"fails on {part}", advice), Counter() as spent:
                found = decoder(image, pyramid, part)
            want = whole[(..., *part.slices)]
            if found.shape != want.shape or not same(found, want):
                raise subject.fault(
                    f"takes_window, but for {part} gives another answer than that part of the whole map; cells of the "
                    "map are counted, not pixels, and convolutions read beyond the window"
                )
    if spent.elements >= all_of_it.elements:
        raise subject.fault("takes_window, but computes the whole map for one cell; cut before, or set it to False")
    return "windows are parts of the whole"


def _windows(height: int, width: int) -> Iterator[Window]:
    yield Window(0, 0, height, width)
    yield Window(height // 3, width // 4, height // 2, width // 3)
    yield Window(height - 1, width // 2, 1, width - width // 2)
    yield Window(height // 2, width - 1, 1, 1)


def _reaches(
    subject: DenseSubject, decoder: DenseDecoder, leaves: list[Tensor], out: Tensor, cell: Window
) -> Iterator[int]:
    """Yield how many pixels beyond a cell of the coarsest map each input has a gradient."""
    stride = decoder.stride
    seeds = cell.coarsened(stride)
    if stride > 1:  # the model upsamples what it makes of the map bilinearly, which reads one cell more
        seeds = seeds.grow(1).clip(out.shape[-2], out.shape[-1])
    part = out[(..., *seeds.slices)]
    weight = torch.randn(part.shape, generator=torch.Generator().manual_seed(9))
    with subject.named("fails in backward", "each operation needs a gradient, none may change its input in place"):
        grads = torch.autograd.grad((part * weight).sum(), leaves, retain_graph=True, allow_unused=True)
    yield 0
    for grad, pixels in zip(grads, (1, *subject.sizes.strides), strict=True):
        if grad is None:
            continue
        for axes, start, stop in (((0, 1, 3), cell.row, cell.row_stop), ((0, 1, 2), cell.col, cell.col_stop)):
            places = grad.abs().sum(axes).nonzero()
            if len(places):
                yield start - int(places.min()) * pixels
                yield (int(places.max()) + 1) * pixels - stop
