"""A scene that is worked through in windows: what comes out, and how often each region is looked at."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import torch
from small_inputs import noise, raster, save

from xt.data.source import Source
from xt.geometry.blend import axis_weights, tile_starts
from xt.geometry.grid import RegionGrid, Window
from xt.geometry.plan import ScenePlan
from xt.inference import engine, predict, reader, views
from xt.inference.first_pass import disk_bytes
from xt.inference.full_context import scratch_bytes
from xt.inference.journal import Journal
from xt.inference.options import PredictOptions
from xt.inference.pooled import painted_answers
from xt.inference.predict import predict_image
from xt.inference.regions import shapes_of
from xt.models.checkpoint import load_model
from xt.tasks.registry import task_of

TASKS = ["semantic-segmentation", "point-detection", "classification"]
R = 64


def holed(num: int, height: int, width: int) -> npt.NDArray[np.float32]:
    """An image with a region, a row and some pixels of no data (-1)."""
    image = noise(num, height, width)
    image[:, :R, R : 2 * R] = -1
    image[:, 2 * R : 3 * R] = -1
    image[:, 5:9, 7:30] = -1
    return image


def whole(model: Any, metadata: Any, path: Path, side: int, overlap: int) -> npt.NDArray[Any]:
    """The same in memory: all regions encoded, each window mixed, what they say blended, all decoded at once."""
    source, task = Source(path, metadata.inputs), task_of(metadata)
    pixels, valid = source.read(Window(0, 0, source.height, source.width))
    with torch.inference_mode():
        pyramid = model.encode(torch.from_numpy(pixels)[None], torch.from_numpy(valid)[None, None])
        grid, exists = pyramid.grid, np.array(pyramid.exists[0]).reshape(pyramid.grid.rows, pyramid.grid.cols)
        last, cell = pyramid.maps[-1], R // pyramid.strides[-1]
        said = torch.zeros_like(last)
        ways = []
        for length in (grid.rows, grid.cols):
            size = min(side, length)
            starts = tile_starts(length, size, min(overlap, size - 1))
            ways.append((starts, size, axis_weights([s * cell for s in starts], size * cell, length * cell, "cosine")))
        (tops, high, down), (lefts, wide, across) = ways
        for top, rows in zip(tops, down, strict=True):
            for left, cols in zip(lefts, across, strict=True):
                at = (..., slice(top * cell, (top + high) * cell), slice(left * cell, (left + wide) * cell))
                there = tuple(exists[top : top + high, left : left + wide].ravel().tolist())
                mixed = model.mix_features(last[at], RegionGrid(high * R, wide * R, R), [there])
                said[at] += (mixed - last[at]) * torch.from_numpy(rows[:, None] * cols[None, :])
        maps = model.decode(type(pyramid)(pyramid.image, (*pyramid.maps[:-1], last + said), pyramid.strides, grid))
    return task.paint(task.activate({name: each[0] for name, each in maps.items()}), valid)


def run(path: Path, model: Path, out: Path, **options: Any) -> npt.NDArray[Any]:
    predict_image(*load_model(model), path, out, PredictOptions(**options))
    with rasterio.open(out) as dataset:
        return dataset.read()


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Regions that were encoded, call by call."""
    calls: list[int] = []
    plain = views.encode

    def counted(model: Any, regions: torch.Tensor) -> Any:
        calls.append(len(regions))
        return plain(model, regions)

    monkeypatch.setattr(views, "encode", counted)
    return calls


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("size", [(1, 1), (64, 64), (65, 200), (300, 420)])
def test_an_image_of_one_window_gets_what_the_model_says(tmp_path: Path, task: str, size: tuple[int, int]):
    path, model = raster(tmp_path / "a.tif", noise(2, *size)), save(tmp_path / "m", task, 2, 512)
    got = run(path, model, tmp_path / "o.tif")
    network, metadata = load_model(model)
    pixels, valid = Source(path, metadata.inputs).read(Window(0, 0, *size))
    with torch.inference_mode():
        raw = network(torch.from_numpy(pixels)[None], torch.from_numpy(valid)[None, None])
    answer = task_of(metadata)
    values = answer.activate({name: each[0] for name, each in raw.items()})
    if values.ndim == 1:
        values = np.broadcast_to(values[:, None, None], (len(values), *size))
    np.testing.assert_allclose(got, answer.paint(values, valid), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("side", "overlap"), [(3, 1), (2, 0), (4, 2), (1, 0)])
def test_windows_blend_what_the_context_says(tmp_path: Path, side: int, overlap: int, encoded: list[int]):
    path, model = (
        raster(tmp_path / "a.tif", holed(2, 470, 400), nodata=-1),
        save(tmp_path / "m", "point-detection", 2, 128, "Mamba"),
    )
    got = run(path, model, tmp_path / "o.tif", tile=side * R, overlap=overlap * R)
    want = whole(*load_model(model), path, side, overlap)
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=2e-3)
    assert np.isnan(got).any()
    report = json.loads((tmp_path / "o.report.json").read_text())["result"]
    assert report["regions"] == 56
    assert sum(encoded) == 56 - report["empty_regions"] == 56 - 8


@pytest.mark.parametrize("budget", [0, 3 << 20])
def test_a_small_memory_changes_nothing(tmp_path: Path, budget: int, monkeypatch: pytest.MonkeyPatch):
    path, model = raster(tmp_path / "a.tif", holed(2, 330, 400), nodata=-1), save(tmp_path / "m", "point-detection", 2)
    want = run(path, model, tmp_path / "o.tif")
    monkeypatch.setattr(predict, "BUDGET", budget)
    held: list[int] = []
    plain = engine.RegionStore.put

    def put(store: Any, place: Any, region: Any) -> None:
        if region is not None and place not in store:  # no view into its batch, which would stay with it
            for each in (region.image, *region.maps):
                assert each.untyped_storage().nbytes() == each.nbytes
        plain(store, place, region)
        held.append(len(store._loaded))

    monkeypatch.setattr(engine.RegionStore, "put", put)
    assert np.array_equal(run(path, model, tmp_path / "p.tif"), want, equal_nan=True)
    assert max(held) <= max(1, budget // 100_000)


def test_of_a_pooled_model_no_pixels_are_kept(tmp_path: Path):
    pooled, dense = (
        shapes_of(load_model(save(tmp_path / task, task, 2))[0]) for task in ("classification", "semantic-segmentation")
    )
    assert (pooled.image[0], pooled.maps) == (0, dense.maps[-1:])
    assert (dense.image[0], len(dense.maps)) == (2, 4)


def test_a_pooled_model_paints_its_windows(tmp_path: Path, encoded: list[int]):
    path, model = raster(tmp_path / "a.tif", noise(2, 300, 200)), save(tmp_path / "m", "classification", 2)
    got = run(path, model, tmp_path / "o.tif", tile=2 * R, overlap=R)
    network, metadata = load_model(model)
    source, task = Source(path, metadata.inputs), task_of(metadata)
    sums, vectors = np.zeros((3, 5 * R, 4 * R)), []
    down, across = ([s * R for s in tile_starts(n, 2, 1)] for n in (5, 4))
    for i, top in enumerate(down):
        for j, left in enumerate(across):
            pixels, valid = source.read(Window(top, left, min(2 * R, 300 - top), min(2 * R, 200 - left)))
            with torch.inference_mode():
                raw = network(torch.from_numpy(pixels)[None], torch.from_numpy(valid)[None, None])
            vectors.append(task.activate({name: each[0] for name, each in raw.items()}))
            rows, cols = axis_weights(down, 2 * R, 5 * R, "cosine")[i], axis_weights(across, 2 * R, 4 * R, "cosine")[j]
            sums[:, top : top + 2 * R, left : left + 2 * R] += vectors[-1][:, None, None] * np.outer(rows, cols)
    ranked = np.sort(sums[:, :300, :200], axis=0)
    sure = ranked[-1] - ranked[-2] > 1e-5
    assert (got[0] == sums[:, :300, :200].argmax(0))[sure].all()
    scores = json.loads((tmp_path / "o.json").read_text())["scores"]
    assert list(scores.values()) == pytest.approx(np.mean(vectors, axis=0).tolist(), abs=1e-5)
    assert sum(encoded) == 20


WINDOW_ROW = 2 * 64 * 448 * (2 * 4 + 1)  # two rows of regions: two bands, and what is valid


@pytest.mark.parametrize("cached", [WINDOW_ROW - 1, WINDOW_ROW])
def test_strips_are_read_once_and_right(tmp_path: Path, cached: int, monkeypatch: pytest.MonkeyPatch):
    large = cached < WINDOW_ROW
    image = holed(2, 330, 400)
    tiled = raster(tmp_path / "a.tif", image, nodata=-1, tiled=True, blockxsize=64, blockysize=64)
    strips = raster(tmp_path / "b.tif", image, nodata=-1, blockysize=1)
    model = save(tmp_path / "m", "point-detection", 2)
    want = run(tiled, model, tmp_path / "o.tif")
    monkeypatch.setattr(reader, "CACHED", cached)
    monkeypatch.setattr(reader, "SLICE", 20 * 448 * 4 * 2)
    rows, spooled = np.zeros(400, int), list[int]()
    plain = Source.read

    def read(source: Source, window: Window, *more: Any) -> Any:
        rows[window.row : window.row_stop] += 1
        spooled.append(len(list(tmp_path.glob(".p.tif.job/rows/row_*"))))
        return plain(source, window, *more)

    monkeypatch.setattr(Source, "read", read)
    assert np.array_equal(run(strips, model, tmp_path / "p.tif"), want, equal_nan=True)
    assert max(spooled) <= (3 if large else 0)  # two rows of windows, and the next
    assert rows[:330].max() == (1 if large else 7)


def test_reading_goes_ahead_but_not_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, model = raster(tmp_path / "a.tif", noise(2, 64, 64 * 40)), save(tmp_path / "m", "semantic-segmentation", 2)
    reads: list[int] = []
    plain, encode, ahead = Source.read, views.encode, []

    def read(source: Source, window: Window, *more: Any) -> Any:
        reads.append(window.col)
        return plain(source, window, *more)

    def encoding(network: Any, regions: torch.Tensor) -> Any:
        ahead.append(len(reads))
        return encode(network, regions)

    monkeypatch.setattr(Source, "read", read)
    monkeypatch.setattr(views, "encode", encoding)
    run(path, model, tmp_path / "o.tif")
    batch = load_model(model)[0].region_batch
    assert all(read <= (i + 1 + reader.AHEAD + 1) * batch for i, read in enumerate(ahead))


def test_a_decoder_that_prepares_does_so_for_each_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from xt.models.decoders.unet import UNet

    model = save(tmp_path / "m", "semantic-segmentation", 2)
    path = raster(tmp_path / "a.tif", noise(2, 200, 128))
    network, metadata = load_model(model)
    seen: list[tuple[int, ...]] = []

    def prepare(decoder: Any, pyramid: Any) -> Any:
        seen.append(tuple(pyramid[-1].shape[-2:]))
        return [each * 2 for each in pyramid]

    monkeypatch.setattr(UNet, "prepare", prepare)
    predict_image(network, metadata, path, tmp_path / "o.tif", PredictOptions(tile=128, overlap=0))
    assert seen == [(4, 4)] * 2


def test_an_overlap_as_large_as_the_window_is_refused(tmp_path: Path):
    path, model = raster(tmp_path / "a.tif", noise(2, 64, 64)), save(tmp_path / "m", "semantic-segmentation", 2)
    from xt.errors import GeometryError

    with pytest.raises(GeometryError, match="smaller than the window of 64 px"):
        run(path, model, tmp_path / "o.tif", tile=64, overlap=64)
    assert not (tmp_path / "o.tif").exists()


@pytest.mark.parametrize("size", [(64, 64), (330, 400), (65, 500)])
def test_full_context_gets_what_the_model_says_of_the_whole(
    tmp_path: Path, size: tuple[int, int], encoded: list[int], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(predict, "SECOND_PASS", 128)
    image = holed(2, *size) if min(size) > 3 * R else noise(2, *size)
    path, model = raster(tmp_path / "a.tif", image, nodata=-1), save(tmp_path / "m", "point-detection", 2, 64, "Mamba")
    network, metadata = load_model(model)
    assert type(network.context.encoder).__name__ == "Mamba"
    done: list[tuple[int, int]] = []
    options = PredictOptions(context="full")
    predict_image(network, metadata, path, tmp_path / "o.tif", options, lambda *each: done.append(each))
    pixels, valid = Source(path, metadata.inputs).read(Window(0, 0, *size))
    before = sum(encoded)
    with torch.inference_mode():
        raw = network(torch.from_numpy(pixels)[None], torch.from_numpy(valid)[None, None])
    task = task_of(metadata)
    want = task.paint(task.activate({name: each[0] for name, each in raw.items()}), valid)
    with rasterio.open(tmp_path / "o.tif") as dataset:
        np.testing.assert_allclose(dataset.read(), want, rtol=1e-4, atol=1e-3)
    grid = RegionGrid(*size, R)
    exists = sum(bool(valid[grid.clipped(i).slices].any()) for i in range(grid.num_regions))
    assert before == 2 * exists


def test_full_context_is_cut_off_and_goes_on(tmp_path: Path, encoded: list[int], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(predict, "SECOND_PASS", 128)
    monkeypatch.setattr(engine, "COMMIT_SECONDS", 0.0)
    path, model = (
        raster(tmp_path / "a.tif", holed(2, 330, 400), nodata=-1),
        save(tmp_path / "m", "point-detection", 2, 128, "Mamba"),
    )
    want = run(path, model, tmp_path / "o.tif", context="full")
    num = len(encoded)
    plain = views.encode
    least = []
    for stop_at in range(1, num + 1, 3):
        calls: list[int] = []

        def encode(network: Any, regions: torch.Tensor, calls: list[int] = calls, stop_at: int = stop_at) -> Any:
            calls.append(len(regions))
            if len(calls) == stop_at:
                raise KeyboardInterrupt
            return plain(network, regions)

        monkeypatch.setattr(views, "encode", encode)
        out = tmp_path / f"{stop_at}.tif"
        with pytest.raises(KeyboardInterrupt):
            run(path, model, out, context="full")
        assert not out.exists()
        assert np.array_equal(run(path, model, out, context="full"), want, equal_nan=True)
        least.append(sum(calls) - calls[stop_at - 1])
    total = sum(encoded[:num])
    assert min(least) == total  # where the stop hit no window that had begun
    assert max(least) < total + 8


def test_full_context_goes_on_in_the_view_where_it_was_cut_off(
    tmp_path: Path, encoded: list[int], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(engine, "COMMIT_SECONDS", 0.0)
    path = raster(tmp_path / "a.tif", noise(2, 130, 100))
    model = save(tmp_path / "m", "semantic-segmentation", 2, 128, "Mamba")
    want = run(path, model, tmp_path / "o.tif", context="full", tta="flips")
    plain, calls = views.encode, []

    def encode(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 6:  # the last batch of the second view; each has one for each of three rows
            raise KeyboardInterrupt
        return plain(*args)

    num = len(encoded)
    monkeypatch.setattr(views, "encode", encode)
    with pytest.raises(KeyboardInterrupt):
        run(path, model, tmp_path / "p.tif", context="full", tta="flips")
    assert np.array_equal(run(path, model, tmp_path / "p.tif", context="full", tta="flips"), want)
    assert len(calls) == num + 1


def test_where_windows_have_no_data_the_others_say_all(tmp_path: Path):
    plan = ScenePlan(RegionGrid(2 * R, 3 * R, R), 2, 1, 0, 4)
    block = Window(0, 0, 2 * R, 3 * R)
    one, other = painted_answers(plan, {0: [3.0, 5.0], 1: None}, 2, block, "cosine")
    for found, said in ((one, 3), (other, 5)):
        np.testing.assert_allclose(found[:, : 2 * R], said, rtol=1e-6)
        assert not found[:, 2 * R :].any()
    both = painted_answers(plan, {0: [3.0], 1: [4.0]}, 1, block, "none")[0]
    assert np.array_equal(both, np.where(np.arange(3 * R) < 1.5 * R, 3, 4) + np.zeros((2 * R, 1)))


def test_what_a_commit_tells_of_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engine, "COMMIT_SECONDS", 0.0)
    path = raster(tmp_path / "a.tif", noise(2, 200, 260))
    model = save(tmp_path / "m", "semantic-segmentation", 2, 128, "Mamba")
    done: list[str] = []
    stored: list[int] = []
    fsync, commit = os.fsync, Journal.commit

    def synced(handle: int) -> None:
        done.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        fsync(handle)

    def committed(journal: Journal, entry: dict[str, Any]) -> None:
        done.append(f"commit {entry['stage']}")
        if entry["stage"] == "mixed":
            stored.append(sum((journal.folder / name).stat().st_size - 4096 for name in ("features", "mixed_0")))
        if entry["stage"] == "decode":
            assert not (journal.folder / "features").exists()
        commit(journal, entry)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Journal, "commit", committed)
    run(path, model, tmp_path / "o.tif", context="full")
    around = {(done[i - 1], each, done[i + 1]) for i, each in enumerate(done) if each.startswith("commit")}
    assert ("features", "commit features", "journal.jsonl") in around
    assert ("mixed_0", "commit mixed", "journal.jsonl") in around
    assert {before for before, each, _ in around if each != "commit decode"} == {"features", "mixed_0"}
    assert {after for _, _, after in around} == {"journal.jsonl"}
    network, grid = load_model(model)[0], RegionGrid(200, 260, R)
    scratch = scratch_bytes(network, grid.layout(network.region_encoder.strides[-1]))
    assert stored == [disk_bytes(network, ScenePlan(grid, 1, 0, 0, 4)) - scratch]


def test_a_pooled_model_is_cut_off_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engine, "COMMIT_SECONDS", 0.0)
    path, model = raster(tmp_path / "a.tif", noise(2, 300, 200)), save(tmp_path / "m", "classification", 2)
    want = run(path, model, tmp_path / "o.tif", tile=2 * R, overlap=R)
    plain, calls = views.encode, []

    def encode(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return plain(*args)

    monkeypatch.setattr(views, "encode", encode)
    with pytest.raises(KeyboardInterrupt):
        run(path, model, tmp_path / "p.tif", tile=2 * R, overlap=R)
    assert np.array_equal(run(path, model, tmp_path / "p.tif", tile=2 * R, overlap=R), want)
    assert len(calls) < 9  # of five rows each
    assert (tmp_path / "p.json").read_bytes() == (tmp_path / "o.json").read_bytes()
    reports = [json.loads((tmp_path / f"{name}.report.json").read_text())["result"] for name in "op"]
    assert reports[0] | {"output": ""} == reports[1] | {"output": ""}


def test_files_of_regions_go_when_nobody_needs_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engine, "COMMIT_SECONDS", 0.0)
    path, model = raster(tmp_path / "a.tif", noise(2, 640, 130)), save(tmp_path / "m", "semantic-segmentation", 2)
    kept: list[int] = []
    commit = Journal.commit

    def committed(journal: Journal, entry: dict[str, Any]) -> None:
        commit(journal, entry)
        kept.append(len(list((journal.folder / "regions").iterdir())))

    monkeypatch.setattr(Journal, "commit", committed)
    run(path, model, tmp_path / "o.tif")
    assert max(kept) <= 2 * 3 * 3  # rows of a window and the next, of three regions, new and old


def test_a_part_of_an_image_is_predicted_alone(tmp_path: Path, encoded: list[int]):
    path, model = raster(tmp_path / "a.tif", noise(2, 330, 400)), save(tmp_path / "m", "semantic-segmentation", 2)
    crop = Window(70, 130, 100, 150)
    got = run(path, model, tmp_path / "o.tif", crop=crop, tile=512)
    assert sum(encoded) == 2 * 3
    cut = raster(tmp_path / "b.tif", noise(2, 330, 400)[:, *crop.slices])
    assert np.array_equal(got, run(cut, model, tmp_path / "p.tif", tile=512))
    mask = np.zeros((1, 330, 400), np.uint8)
    mask[:, 10:50, 200:250] = 1
    raster(tmp_path / "m.tif", mask)
    encoded.clear()
    got = run(path, model, tmp_path / "q.tif", mask=tmp_path / "m.tif")
    assert sum(encoded) == 1
    assert np.array_equal(got != 255, mask == 1)
