import copy
import warnings
import weakref
from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from parts import small_model
from torch import Tensor, nn

from xt.errors import ModelError, XTWarning
from xt.geometry.grid import RegionGrid, Window
from xt.models.pyramid import FeaturePyramid
from xt.models.tiles import cut_tiles, decode_tiles
from xt.models.xt import XT


def sample(height: int = 150, width: int = 201, missing: bool = True) -> tuple[Tensor, Tensor]:
    x = torch.randn(2, 2, height, width, generator=torch.Generator().manual_seed(3))
    valid = torch.ones(2, 1, height, width, dtype=torch.bool)
    if missing:
        valid[0, :, :64, :64] = False
        valid[1, :, -40:, 128:] = False
    return x * valid, valid


def mixed(model: XT, x: Tensor, valid: Tensor) -> FeaturePyramid:
    with torch.no_grad():
        return model.mix(model.encode(x, valid))


def at_once(model: XT, pyramid: FeaturePyramid) -> dict[str, Tensor]:
    """The whole image through decoder and heads, plain autograd."""
    grid = pyramid.grid
    bottom, right = grid.padding
    features = model.decoder(F.pad(pyramid.image, (0, right, 0, bottom)), pyramid.maps)
    size = grid.padded_height, grid.padded_width
    logits = {name: head(features) for name, head in model.heads.items()}
    return {
        name: F.interpolate(each, size=size, mode="bilinear", align_corners=False)[..., : grid.height, : grid.width]
        for name, each in logits.items()
    }


@st.composite
def windows(draw: st.DrawFn) -> tuple[RegionGrid, Window]:
    height, width = draw(st.integers(1, 150)), draw(st.integers(1, 150))
    row, col = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    window = Window(row, col, draw(st.integers(1, height - row)), draw(st.integers(1, width - col)))
    return RegionGrid(height, width, 32), window


@given(windows(), st.sampled_from([8, 16, 40, 200]), st.sampled_from([0, 8, 24]))
def test_tiles_part_the_window_and_reach_as_far_as_the_decoder(place: tuple, size: int, halo: int):
    grid, window = place
    count = np.zeros((grid.height, grid.width), int)
    tiles = cut_tiles(window, grid, size, 8, halo)
    assert len(tiles) == -(-window.height // size) * -(-window.width // size)
    for tile in tiles:
        inner, outer = tile.inner, tile.outer
        count[inner.slices] += 1
        assert max(inner.height, inner.width) <= size
        assert not any(n % 8 for n in (outer.row, outer.col, outer.row_stop, outer.col_stop))
        needed = inner.grow(halo).clip(grid.padded_height, grid.padded_width)
        assert outer.row <= needed.row < outer.row + 8 or outer.row == needed.row
        assert outer.col <= needed.col < outer.col + 8 or outer.col == needed.col
        assert needed.row_stop <= outer.row_stop <= grid.padded_height
        assert needed.col_stop <= outer.col_stop <= grid.padded_width
        assert outer.row_stop < needed.row_stop + 8
        assert outer.col_stop < needed.col_stop + 8
    want = np.zeros_like(count)
    want[window.slices] = 1
    assert np.array_equal(count, want)


@settings(max_examples=25)
@given(windows(), st.booleans())
def test_a_window_gets_what_it_gets_in_the_whole(place: tuple, missing: bool):
    grid, window = place
    model = small_model(decode_size=32).eval()
    pyramid = mixed(model, *sample(grid.height, grid.width, missing))
    with torch.no_grad():
        whole, part, want = model.decode(pyramid), model.decode(pyramid, window), at_once(model, pyramid)
    for name in whole:
        assert part[name].shape[-2:] == (window.height, window.width)
        torch.testing.assert_close(part[name], want[name][(..., *window.slices)], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(part[name], whole[name][(..., *window.slices)], rtol=1e-5, atol=1e-5)


def test_a_window_of_whole_tiles_is_equal_bit_for_bit():
    model = small_model(decode_size=64).eval()
    pyramid = mixed(model, *sample())
    window = Window(64, 128, 86, 73)
    whole, part = model.decode(pyramid), model.decode(pyramid, window)
    assert all(torch.equal(part[name], whole[name][(..., *window.slices)]) for name in whole)


@pytest.mark.parametrize("window", [None, Window(30, 50, 101, 120)])
def test_gradients_of_tiles_are_those_of_plain_autograd(window: Window | None):
    model = small_model(decode_size=32)
    pyramid = mixed(model, *sample())
    weights = {name: torch.rand(2, n, 150, 201) for name, n in (("a", 1), ("b", 2))}
    inside = (..., *(window or pyramid.grid.whole).slices)

    def gradients(model: XT, dtype: torch.dtype, cut: bool) -> list[Tensor]:
        leaves = [each.to(dtype, copy=True).requires_grad_() for each in (pyramid.image, *pyramid.maps)]
        given = replace(pyramid, image=leaves[0], maps=tuple(leaves[1:]))
        maps = (
            model.decode(given, window) if cut else {name: each[inside] for name, each in at_once(model, given).items()}
        )
        total = sum((weights[name][inside].to(dtype) * each.square()).sum() for name, each in maps.items())
        return torch.autograd.grad(total, [*leaves, *model.decoder.parameters(), *model.heads.parameters()])

    # The reference in float64, so that the rounding seen is that of the tiles alone.
    found = gradients(model, torch.float32, True), gradients(copy.deepcopy(model).double(), torch.float64, False)
    for got, want in zip(*found, strict=True):
        assert want.norm() > 0
        assert (got - want).norm() <= 2e-6 * want.norm()


def test_the_activations_of_one_tile_live_at_a_time():
    model = small_model(decode_size=32)
    made: list[weakref.ref[Tensor]] = []
    living: list[int] = []
    for block in model.decoder.blocks:
        block.register_forward_hook(lambda module, inputs, output: made.append(weakref.ref(output)))
    model.decoder.register_forward_pre_hook(lambda *_: living.append(sum(each() is not None for each in made)))
    total = sum(each.square().mean() for each in model(*sample()).values())
    tiles = 5 * 7
    assert len(living) == tiles
    assert sum(each() is not None for each in made) == 0
    total.backward()
    assert len(living) == 2 * tiles
    assert set(living) == {0}

    model.streaming = False
    living.clear()
    total = model(*sample())
    assert max(living) == len(model.decoder.blocks) * (tiles - 1)  # autograd keeps what every block gave


def test_random_state_of_tiles_is_replayed_in_backward():
    model = small_model(decode_size=64)
    seen: list[Tensor] = []
    model.decoder.register_forward_hook(lambda module, inputs, output: F.dropout(output, 0.5))
    model.heads["a"].register_forward_pre_hook(lambda module, inputs: seen.append((inputs[0] != 0).clone()))
    model(*sample())["a"].sum().backward()
    forward, backward = seen[:12], seen[12:]
    assert all(torch.equal(a, b) for a, b in zip(forward, backward, strict=True))
    assert not torch.equal(forward[0], forward[1])


def test_a_head_that_the_loss_does_not_use_gets_no_gradient():
    model = small_model()
    model(*sample())["a"].sum().backward()
    assert model.heads["a"].weight.grad is not None
    assert model.heads["b"].weight.grad is None


@pytest.mark.parametrize("recompute", [True, False])
def test_sums_and_places_follow_from_the_tiles(recompute: bool):
    scale = nn.Linear(1, 1, bias=False)
    x = torch.rand(1, 3, 10, 14).requires_grad_()
    tiles = cut_tiles(Window(0, 0, 10, 14), RegionGrid(10, 14, 16), 4, 4, 0)
    assert len(tiles) == 12

    def fn(tile, tensors):
        inner = tensors[0][..., : tile.inner.height, : tile.inner.width]
        return inner * scale.weight[0], inner[:, :1]

    tripled, first = decode_tiles(fn, tiles, [x], [1], [scale], Window(0, 0, 10, 14), recompute)
    torch.testing.assert_close(tripled, x * scale.weight[0])
    assert torch.equal(first, x[:, :1])
    sums, number = decode_tiles(
        lambda tile, tensors: (fn(tile, tensors)[0].sum((0, 2, 3)), torch.ones(())),
        tiles,
        [x],
        [1],
        [scale],
        None,
        recompute,
    )
    torch.testing.assert_close(sums, (x * scale.weight[0]).sum((0, 2, 3)))
    assert number == 12
    # The number of tiles depends on nothing, so that what the loss says of it goes nowhere.
    ((sums * torch.tensor([1.0, 2.0, 3.0])).sum() + number).backward()
    torch.testing.assert_close(
        x.grad, torch.tensor([1.0, 2.0, 3.0])[:, None, None].expand_as(x) * float(scale.weight.detach())
    )
    torch.testing.assert_close(
        scale.weight.grad[0, 0], (x.detach().sum((0, 2, 3)) * torch.tensor([1.0, 2.0, 3.0])).sum()
    )


@pytest.mark.parametrize("frozen", ["tensors", "modules"])
def test_gradients_reach_what_is_not_frozen(frozen: str):
    scale = nn.Linear(1, 1, bias=False).requires_grad_(frozen != "modules")
    x = torch.rand(1, 3, 10, 14).requires_grad_(frozen != "tensors")
    whole = Window(0, 0, 10, 14)
    tiles = cut_tiles(whole, RegionGrid(10, 14, 16), 4, 4, 0)

    def fn(tile, tensors):
        return (tensors[0][..., : tile.inner.height, : tile.inner.width] * scale.weight[0],)

    (maps,) = decode_tiles(fn, tiles, [x], [1], [scale], whole)
    maps.square().sum().backward()
    weight = scale.weight.detach()
    if frozen == "tensors":
        torch.testing.assert_close(scale.weight.grad, 2 * weight * x.square().sum())
        assert x.grad is None
    else:
        torch.testing.assert_close(x.grad, 2 * weight**2 * x.detach())
        assert scale.weight.grad is None


def test_tiles_without_a_gradient_and_tensors_that_are_not_read_are_passed_over():
    scale = nn.Linear(1, 1, bias=False)
    x, unread = (torch.rand(1, 3, 10, 14).requires_grad_() for _ in range(2))
    tiles = cut_tiles(Window(0, 0, 10, 14), RegionGrid(10, 14, 16), 4, 4, 0)

    def fn(tile, tensors):
        inner = tensors[0][..., : tile.inner.height, : tile.inner.width]
        return ((inner * scale.weight).sum() if tile is not tiles[2] else torch.zeros(()),)

    decode_tiles(fn, tiles, [x, unread], [1, 1], [scale])[0].backward()
    want = scale.weight.detach().expand(1, 3, 10, 14).clone()
    want[(..., *tiles[2].inner.slices)] = 0
    torch.testing.assert_close(x.grad, want)
    assert not unread.grad.any()


def test_a_loss_without_gradient_is_told():
    model, image = small_model(), torch.randn(1, 2, 128, 128)
    targets: dict[str, Tensor] = {}
    with pytest.warns(XTWarning, match="the loss of a batch does not depend on the maps: nothing is learnt from it"):
        model.statistics(image, targets, lambda maps, _: maps["a"].detach().mean()[None]).sum().backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error", XTWarning)
        model.statistics(image, targets, lambda maps, _: maps["a"].mean()[None]).sum().backward()


def test_each_tensor_gets_its_own_gradient():
    scale = nn.Linear(1, 1, bias=False)
    x, y, z = torch.rand(3, 1, 3, 10, 14)
    y.requires_grad_()
    tiles = cut_tiles(Window(0, 0, 10, 14), RegionGrid(10, 14, 16), 4, 4, 0)

    def fn(tile, tensors):
        a, b, c = (each[..., : tile.inner.height, : tile.inner.width] for each in tensors)
        return ((scale.weight * (2 * a + 3 * b + 5 * c)).sum(),)

    decode_tiles(fn, tiles, [x, y, z], [1, 1, 1], [scale])[0].backward()
    torch.testing.assert_close(y.grad, (3 * scale.weight.detach()).expand(1, 3, 10, 14))
    assert x.grad is None
    assert z.grad is None


def test_a_second_derivative_is_refused_and_not_wrong():
    model, pyramid = small_model(), mixed(small_model(), *sample())
    last = pyramid.maps[-1].requires_grad_()
    found = model.decode(replace(pyramid, maps=(*pyramid.maps[:-1], last)))["a"].square().sum()
    (grad,) = torch.autograd.grad(found, last, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_maps_of_halves_are_of_single_precision():
    model = small_model().bfloat16()
    x, valid = sample()
    assert {each.dtype for each in model(x.bfloat16(), valid).values()} == {torch.float32}


@pytest.mark.parametrize(
    "window",
    [Window(0, 0, 151, 10), Window(-1, 0, 10, 10), Window(5, 200, 3, 2), Window(4, 4, 0, 3), Window(4, 4, 3, 0)],
)
def test_a_window_that_is_not_inside_is_refused_with_the_numbers(window: Window):
    model = small_model()
    with pytest.raises(ModelError, match=r"Window\(row=.* image of 150 × 201 px"):
        model.decode(mixed(model, *sample()), window)
