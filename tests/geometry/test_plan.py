"""The order of work in a scene: every pixel once, from what is final, and nothing kept or dropped too long."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from xt.errors import GeometryError
from xt.geometry.grid import RegionGrid, Window
from xt.geometry.plan import ScenePlan, blocks


@st.composite
def plans(draw: st.DrawFn) -> ScenePlan:
    size = draw(st.sampled_from([4, 8]))
    height, width = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    side = draw(st.integers(1, 6))
    overlap, halo = draw(st.integers(0, side - 1)), draw(st.integers(0, 5)) * 4
    return ScenePlan(RegionGrid(height, width, size), side, overlap, halo, draw(st.integers(1, 4)))


@given(plans())
def test_every_pixel_is_final_once_and_decoded_from_final_regions(plan: ScenePlan):
    times = np.zeros((plan.grid.height, plan.grid.width), int)
    left = {
        place: sum(place in unit.window for unit in plan.units) for place in np.ndindex(plan.grid.rows, plan.grid.cols)
    }
    for unit in plan.units:
        for place in unit.window.places:
            left[place] -= 1
        cut = blocks(unit.final, 16, 16)
        assert sum(each.height * each.width for each in cut) == unit.final.height * unit.final.width
        for block in cut:
            assert block.intersect(unit.final) == block
            assert (block.coarsened(16).height, block.coarsened(16).width) == (1, 1)  # the raster is the scene's
            times[block.slices] += 1
            needed = plan.regions_of(block, plan.halo)
            assert all(left[place] == 0 for place in needed.places)
            around = block.grow(plan.halo).clip(plan.grid.height, plan.grid.width)
            assert plan.pixels_of(needed).intersect(around) == around
    assert (times == 1).all()


@given(plans())
def test_regions_live_from_their_batch_to_their_last_unit(plan: ScenePlan):
    alive: set[tuple[int, int]] = set()
    seen: list[tuple[int, int]] = []
    for unit, batches in plan.batches():
        for batch in batches:
            seen += batch
            alive |= set(batch)
        assert set(unit.window.places) <= alive
        for block in blocks(unit.final, 8, 8):
            assert set(plan.regions_of(block, plan.halo).places) <= alive
        alive -= set(plan.dropped_after(unit))
    assert sorted(seen) == list(np.ndindex(plan.grid.rows, plan.grid.cols))
    assert not alive


@given(plans(), st.data())
def test_a_later_start_asks_for_what_is_left(plan: ScenePlan, data: st.DataObject):
    first = data.draw(st.integers(0, len(plan.units)))
    whole = [(unit.index, batches) for unit, batches in plan.batches()]
    assert [(unit.index, batches) for unit, batches in plan.batches(first)] == whole[first:]


@settings(max_examples=50)
@example(ScenePlan(RegionGrid(9, 9, 4), 2, 0, 0, 1), 4)  # a window of which no more than a corner is decoded
@given(plans(), st.integers(2, 7))
def test_shares_do_together_what_one_does(plan: ScenePlan, shares: int):
    finals, owned = [], []
    for number in range(1, shares + 1):
        share = replace(plan, share=(number, shares))
        kept: set[tuple[int, int]] = set()
        told: dict[tuple[int, int], list[int]] = {}
        for unit, batches in share.batches():
            kept |= {place for batch in batches for place in batch}
            assert set(unit.window.places) <= kept
            for place in unit.window.places:
                told.setdefault(place, []).append(unit.index)
            if unit.final.height and unit.final.width:
                finals.append(unit.final)
                # All that the whole plan's windows say about these regions by now has been said here, in its order.
                for place in {*unit.needed.places, *unit.window.places}:
                    assert place in kept
                    assert told[place] == [each.index for each in plan.units[: unit.index + 1] if place in each.window]
            kept -= set(share.dropped_after(unit))
        owned += sorted(share.owned)
        assert share.num_regions == sum(len(batch) for _, new in share.batches() for batch in new)
    assert finals == [unit.final for unit in plan.units if unit.final.height and unit.final.width]
    assert sorted(owned) == list(np.ndindex(plan.grid.rows, plan.grid.cols))


@pytest.mark.parametrize("shares", [2, 10])
def test_a_share_encodes_what_it_decodes_and_a_border(shares: int):
    plan = ScenePlan(RegionGrid(400 * 64, 10 * 64, 64), 4, 1, 64, 4)
    regions = [replace(plan, share=(number, shares)).num_regions for number in range(1, shares + 1)]
    assert max(regions) <= 4000 // shares + 2 * 4 * 10  # a row of windows before it, and one after


@given(plans(), st.integers(2, 7))
def test_shares_decode_about_as_many_pixels(plan: ScenePlan, shares: int):
    each = [unit.final.height * unit.final.width for unit in plan.units]
    done = [
        sum(unit.final.height * unit.final.width for unit in replace(plan, share=(number, shares)).work)
        for number in range(1, shares + 1)
    ]
    assert sum(done) == sum(each)
    assert all(abs(mine - sum(each) / shares) <= max(each) for mine in done)


@given(plans(), st.sampled_from(["cosine", "linear", "none"]))
def test_weights_of_all_windows_sum_to_one(plan: ScenePlan, blend: str):
    total = np.zeros((2 * plan.grid.rows, 2 * plan.grid.cols))
    for unit in plan.units:
        rows, cols = plan.weights(unit, 2, blend)
        at = unit.window
        total[2 * at.top : 2 * at.bottom, 2 * at.left : 2 * at.right] += np.outer(rows, cols)
    np.testing.assert_allclose(total, 1, atol=1e-6)


@given(plans(), st.data())
def test_windows_that_cover_a_block_are_found(plan: ScenePlan, data: st.DataObject):
    row, col = data.draw(st.integers(0, plan.grid.height - 1)), data.draw(st.integers(0, plan.grid.width - 1))
    block = Window(row, col, 1, 1)
    want = [unit for unit in plan.units if plan.pixels_of(unit.window).intersect(block) == block]
    assert plan.covering(block) == want


def test_what_must_be_kept_does_not_grow_with_the_height():
    most = []
    for rows in (20, 200):
        plan = ScenePlan(RegionGrid(rows * 64, 640, 64), 8, 1, 64, 4)
        alive: set[tuple[int, int]] = set()
        sizes = []
        for unit, batches in plan.batches():
            alive |= {place for batch in batches for place in batch}
            sizes.append(len(alive))
            alive -= set(plan.dropped_after(unit))
        most.append(max(sizes))
    assert most[0] == most[1] <= 11 * 10


def test_an_overlap_as_large_as_the_window_is_cut_to_what_there_is():
    plan = ScenePlan(RegionGrid(64, 1000, 64), 4, 3, 0, 1)
    assert len(plan.units) == 13
    with pytest.raises(GeometryError, match="smaller than the tile"):
        _ = ScenePlan(RegionGrid(640, 640, 64), 4, -1, 0, 1).units
