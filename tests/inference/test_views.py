"""Views of an image: what is said of each is turned back to the pixel, and the mean is published."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_inputs import noise, raster, save
from torch.nn.functional import pad

import xt
from xt.cli.main import main
from xt.geometry.grid import RegionGrid, Window
from xt.inference import engine
from xt.inference.views import TURNS, Turn, Views, decode
from xt.models.checkpoint import load_model
from xt.models.factory import build_from_spec
from xt.models.pyramid import FeaturePyramid

turns = st.sampled_from(TURNS["d4"])


@given(turns, st.integers(1, 6), st.integers(1, 6), st.data())
def test_a_turn_moves_pixels_places_windows_and_flags_alike(turn: Turn, height: int, width: int, data: st.DataObject):
    image = torch.arange(height * width).view(1, height, width)
    turned = turn.apply(image)
    assert turned.shape[1:] == turn.shape(height, width)
    assert torch.equal(turn.undo(turned), image)
    row, col = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    window = Window(row, col, data.draw(st.integers(1, height - row)), data.draw(st.integers(1, width - col)))
    assert turned[0, *turn.place(row, col, height, width)] == image[0, row, col]
    part = turned[:, *turn.window(window, height, width).slices]
    assert torch.equal(turn.undo(part), image[:, *window.slices])
    grid = RegionGrid(height * 4, width * 4, 4)
    flags = tuple(data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width)))
    moved = torch.tensor(turn.flags(flags, grid)).view(turn.shape(height, width))
    assert moved[turn.place(row, col, height, width)] == flags[row * width + col]


def test_views_are_the_symmetries_by_name():
    assert [len(TURNS[name]) for name in ("none", "flips", "d4")] == [1, 4, 8]
    assert all(views[0] == Turn() and len(set(views)) == len(views) for views in TURNS.values())
    image = torch.arange(6).view(2, 3)
    assert {tuple(turn.apply(image).flatten().tolist()) for turn in TURNS["flips"]} == {
        (0, 1, 2, 3, 4, 5), (2, 1, 0, 5, 4, 3), (3, 4, 5, 0, 1, 2), (5, 4, 3, 2, 1, 0)
    }  # fmt: skip


def turned(image: np.ndarray, kind: str) -> list[tuple[np.ndarray, bool, list[int]]]:
    """The image in each view, written out by hand: transposed or not, mirrored along axes."""
    found = []
    for transposed, rows, cols in product([False, True] if kind == "d4" else [False], [False, True], [False, True]):
        axes = [axis for axis, mirrored in ((-2, rows), (-1, cols)) if mirrored]
        view = image.swapaxes(-1, -2) if transposed else image
        found.append((np.flip(view, axes).copy(), transposed, axes))
    return found


@pytest.mark.parametrize("context", ["windows", "full"])
@pytest.mark.parametrize(
    ("kind", "task"), [("flips", "point-detection"), ("d4", "point-detection"), ("d4", "classification")]
)
def test_the_mean_of_the_models_own_answers_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, task: str, context: str
):
    if (task, context) == ("classification", "full"):
        pytest.skip("pooled models have no full context")
    monkeypatch.setitem(engine.PIECES, "cpu", (64, 64))
    pixels = noise(1, 150, 230)
    pixels[:, :64, 64:128] = -9
    image = raster(tmp_path / "a.tif", pixels, nodata=-9)
    folder = save(tmp_path / "m", task, 1, 256, "Mamba", depth=2)
    model, metadata = load_model(folder)
    known = pixels != -9
    whole = torch.from_numpy(np.where(known, pixels / 100, 0).astype(np.float32))
    whole, valid = (pad(each.float(), (0, 26, 0, 42)).numpy() for each in (whole, torch.from_numpy(known)))
    answers = []
    from xt.tasks.registry import task_of

    rule = task_of(metadata).eval()
    with torch.inference_mode():
        for number, ((view, transposed, axes), (there, *_)) in enumerate(
            zip(turned(whole, kind), turned(valid, kind), strict=True)
        ):
            if number == 0:  # the image as it is ends where it ends
                view, there = view[..., :150, :230], there[..., :150, :230]
            raw = model(torch.from_numpy(view.copy())[None], torch.from_numpy(there.copy())[None] > 0)
            if task != "classification":
                back = {name: np.flip(each[0].numpy(), axes) for name, each in raw.items()}
                back = {name: each.swapaxes(-1, -2) if transposed else each for name, each in back.items()}
                raw = {name: torch.from_numpy(each[..., :150, :230].copy())[None] for name, each in back.items()}
            answers.append(rule.activate({name: each[0] for name, each in raw.items()}))
    assert len(answers) == (4 if kind == "flips" else 8)
    want = np.mean(answers, axis=0)
    assert np.abs(answers - want).max() > 1e-3
    with xt.predict(xt.load(folder), image, context=context, tta=kind) as got:
        if task == "classification":
            np.testing.assert_allclose(list(got.answer["scores"].values()), want, atol=1e-5)
        else:
            found = np.stack(list(got.read().values()))
            np.testing.assert_allclose(found[:, known[0]], want[:, known[0]], atol=2e-4, rtol=1e-4)


def test_a_pyramid_that_ends_within_a_region_is_split_into_views_and_their_answers_joined(tmp_path: Path):
    spec = load_model(save(tmp_path / "m", "point-detection", 1, 256, "Mamba", depth=1))[0].spec()
    spec["decoder"]["init_args"] |= {"filters": [8] * 4, "out_stride": 2}  # which reads the image itself
    model = build_from_spec(spec).eval()
    grid, window, views = RegionGrid(150, 230, 64), Window(20, 100, 130, 101), Views(model, TURNS["d4"])
    valid = torch.ones(1, 1, 150, 230, dtype=torch.bool)
    valid[..., :64, 64:128] = False
    image = torch.from_numpy(noise(1, 1, 150, 230)) / 100 * valid
    maps, answers = [], []
    with torch.inference_mode():
        for turn in TURNS["d4"]:
            given = (image, valid.float())
            if turn != Turn():
                given = tuple(turn.apply(pad(each, (0, 26, 0, 42))) for each in given)
            pyramid = model.encode(given[0], given[1] > 0)
            maps.append([turn.undo(each) for each in pyramid.maps])
            answers.append(turn.undo(model.decode(model.mix(pyramid))["center"][0])[..., :150, :230].numpy())
        joined = tuple(torch.cat(each, 1) for each in zip(*maps, strict=True))
        exists = (tuple(index != 1 for index in range(12)),)
        pyramid = FeaturePyramid(image, joined, tuple(model.region_encoder.strides), grid, exists)
        mixed = [model.mix(each) for each in views.split(pyramid)]
        got = views.values(mixed, lambda raw: raw["center"].numpy(), grid, window)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, np.mean(answers, axis=0)[:, *window.slices], atol=1e-5)


def test_pooled_answers_in_bf16_are_told_in_single_precision(tmp_path: Path):
    model, _ = load_model(save(tmp_path / "m", "classification", 1))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        mixed = model.mix(model.encode(torch.zeros(1, 1, 64, 64)))
        assert model.decode(mixed)["label"].dtype == torch.bfloat16
        assert decode(model, mixed)["label"].dtype == torch.float32


@pytest.mark.parametrize("context", ["windows", "full"])
def test_a_turned_image_gives_the_turned_answer(tmp_path: Path, context: str):
    pixels = noise(1, 320, 256)
    folder = save(tmp_path / "m", "point-detection", 1, 128, "Mamba", depth=1)
    model = xt.load(folder)
    answers = []
    for name, view in (("a", pixels), ("b", np.rot90(pixels, axes=(1, 2)))):
        raster(tmp_path / f"{name}.tif", np.ascontiguousarray(view))
        with xt.predict(model, tmp_path / f"{name}.tif", context=context, tta="d4", tile=128, overlap=64) as got:
            answers.append(np.stack(list(got.read().values())))
    np.testing.assert_allclose(np.rot90(answers[0], axes=(1, 2)), answers[1], atol=2e-4, rtol=1e-4)


def test_a_run_with_views_goes_on_in_each_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine, "COMMIT_SECONDS", 0.0)
    raster(tmp_path / "a.tif", noise(1, 130, 200))
    save(tmp_path / "m", "semantic-segmentation", 1, 128, "Mamba", depth=1)
    argv = ["predict", "a.tif", "-m", "m", "--context", "full", "--tta", "flips", "-o"]
    assert main([*argv, "whole.tif"]) == 0
    from xt.inference import views

    plain, calls = views.encode, []

    def stop(*args: object) -> object:
        calls.append(1)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        return plain(*args)

    monkeypatch.setattr(views, "encode", stop)
    for each in (2, 2, 5, 4, 7, 3):
        stop_at = each
        calls.clear()
        assert main([*argv, "o.tif"]) == 130
    stop_at = 0
    calls.clear()
    assert main([*argv, "o.tif"]) == 0
    with rasterio.open("o.tif") as one, rasterio.open("whole.tif") as other:
        np.testing.assert_array_equal(one.read(), other.read())
    assert main([*argv[:-1], "--shard", "1/2", "-o", "p.tif"]) == 2


def test_estimates_count_the_views(tmp_path: Path):
    from xt.inference import predict
    from xt.inference.options import PredictOptions

    image = raster(tmp_path / "a.tif", noise(1, 700, 700))
    folder = save(tmp_path / "m", "semantic-segmentation", 1)
    model, metadata = load_model(folder)
    trial = predict.try_out(
        model,
        predict.plan_of(model, metadata, predict.open_source(image, metadata, PredictOptions()), PredictOptions()),
        False,
    )
    fixed = replace(trial, encode=1.0, context=1.0, decode=1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, "try_out", lambda *args: fixed)
        one, eight = (predict.foresee(model, metadata, image, PredictOptions(tta=tta)) for tta in ("none", "d4"))
    assert eight.seconds / one.seconds == pytest.approx(8, rel=0.05)
    assert eight.disk > one.disk
