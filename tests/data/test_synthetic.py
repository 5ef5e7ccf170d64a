import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio

from xt.cli.main import main
from xt.data.labels import read_labels
from xt.data.shoreline import read_shoreline
from xt.data.synthetic import scenes
from xt.data.synthetic.radar import FILM_DB, LOOKS, NODATA, scene_rows
from xt.data.synthetic.world import CELL, REGION, SPACING, World, make_world
from xt.data.xview3 import COARSE_BANDS, SAR_BANDS, XView3Data
from xt.files import locked


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synth") / "data"
    assert main(["synth", "xview3", str(out), "--scenes", "5", "--size", "600", "--seed", "3"]) == 0
    return out


def digest(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*.*"))
        if p.is_file()
    }


def test_files_are_those_of_the_real_data_set(dataset: Path):
    labels = read_labels(dataset / "train.csv")
    assert len(labels) > 10
    scene = next((dataset / "train").iterdir())
    assert sorted(p.stem for p in scene.iterdir()) == sorted([*SAR_BANDS, *COARSE_BANDS])
    with rasterio.open(scene / "VV_dB.tif") as vv, rasterio.open(scene / "bathymetry.tif") as coarse:
        assert (vv.nodata, vv.dtypes[0], vv.res, vv.shape) == (NODATA, "float32", (10, 10), (600, 600))
        assert coarse.res == (500, 500)
        assert vv.crs.is_projected
        assert (vv.read(1)[:, 0] == NODATA).all()
    assert len(list((dataset / "shoreline").glob("*_shoreline.npy"))) == 5


def test_same_seed_same_files_and_repeating_does_nothing(dataset: Path, tmp_path: Path):
    arguments = ["--scenes", "5", "--size", "600", "--seed", "3"]
    assert main(["synth", "xview3", str(tmp_path / "other"), *arguments]) == 0
    assert digest(tmp_path / "other") == digest(dataset)
    before = {p: p.stat().st_mtime_ns for p in dataset.rglob("*.tif")}
    assert main(["synth", "xview3", str(dataset), *arguments]) == 0
    assert before == {p: p.stat().st_mtime_ns for p in dataset.rglob("*.tif")}


def test_other_parameters_and_other_files_are_refused(dataset: Path, tmp_path: Path):
    assert main(["synth", "xview3", str(dataset), "--scenes", "5", "--size", "600", "--seed", "4"]) == 2
    (tmp_path / "mine.txt").write_text("keep")
    assert main(["synth", "xview3", str(tmp_path), "--scenes", "3"]) == 2
    assert (tmp_path / "mine.txt").exists()


def calm_sea(size: int) -> World:
    world = make_world(size, size, 5)
    keep = np.zeros(len(world.objects.row), bool)
    nothing = type(world.objects)(*(getattr(world.objects, n)[keep] for n in world.objects.__annotations__))
    flat = np.ones_like(world.wind)
    return World(size, size, 5, -flat, 7 * flat, 0 * flat, nothing)


@pytest.mark.parametrize(("band", "mean"), [("VV_dB", -16.6), ("VH_dB", -26.5)])
def test_sea_has_the_speckle_of_sentinel_1(band: str, mean: float):
    power = 10 ** (scene_rows(calm_sea(512), band, 0)[:, 20:].astype(np.float64) / 10)
    assert 10 * np.log10(power.mean()) == pytest.approx(mean, abs=0.05)
    assert power.mean() ** 2 / power.var() == pytest.approx(LOOKS, rel=0.05)


def test_more_wind_is_brighter():
    calm = calm_sea(300)
    windy = replace(calm, wind=calm.wind * 2)
    assert scene_rows(windy, "VV_dB", 0)[:, 20:].mean() > scene_rows(calm, "VV_dB", 0)[:, 20:].mean() + 2


def test_films_are_dark():
    calm = calm_sea(300)
    covered = replace(calm, film=np.ones_like(calm.film))
    difference = scene_rows(covered, "VV_dB", 0)[:, 20:].mean() - scene_rows(calm, "VV_dB", 0)[:, 20:].mean()
    assert difference == pytest.approx(FILM_DB, abs=0.01)


def vessels(num_worlds: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Length and heading, the film in the region around, the distance to the nearest film, whether it fishes."""
    own, here, distance, fishing = [], [], [], []
    for seed in range(num_worlds):
        world = make_world(1024, 1024, seed)
        things = world.objects
        chosen = np.flatnonzero(things.kind == 1)
        place = np.stack([things.row, things.column], 1)[chosen]
        film = np.argwhere(world.film > 0) * CELL
        away = np.hypot(*(place[:, None] - film[None]).T) if len(film) else np.full((1, len(place)), 2000.0)
        own.append(np.stack([things.length_m[chosen], things.heading[chosen]], 1))
        corners = [place + REGION * np.array(side) for side in [(-1, -1), (-1, 1), (1, -1), (1, 1)]]
        here.append(np.max([world.at(world.film, *corner.T) for corner in corners], axis=0))
        distance.append(away.min(0))
        fishing.append(things.fishing[chosen])
    return np.concatenate(own), np.concatenate(here), np.concatenate(distance), np.concatenate(fishing)


def auc(values: np.ndarray, positive: np.ndarray) -> float:
    order = values.argsort(kind="stable").argsort()
    num = positive.sum()
    return float((order[positive].sum() - num * (num - 1) / 2) / (num * (~positive).sum()))


def test_fishing_cannot_be_told_from_the_vessel_and_its_region_but_from_films_far_away():
    own, here, distance, fishing = vessels(40)
    assert 0.2 < fishing.mean() < 0.6
    for column in own.T:
        assert abs(auc(column, fishing) - 0.5) < 0.06
    assert (here == 0).all()
    assert auc(-distance, fishing) > 0.95


def test_a_smaller_region_makes_a_denser_world(tmp_path: Path):
    for region in ("64", "32"):
        argv = ["synth", "xview3", str(tmp_path / region), "--scenes", "3", "--size", "600", "--region", region]
        assert main(argv) == 0
    dense, sparse = (len(read_labels(tmp_path / region / "train.csv")) for region in ("32", "64"))
    assert dense > 2 * sparse
    assert main(["synth", "xview3", str(tmp_path / "64"), "--scenes", "3", "--size", "600", "--region", "32"]) == 2


def test_vessels_keep_apart():
    things = make_world(1500, 1500, 2).objects
    place = np.stack([things.row, things.column], 1)[things.kind == 1]
    distance = np.hypot(*(place[:, None] - place[None]).T)
    assert distance[distance > 0].min() >= SPACING * REGION


def test_shoreline_lies_where_land_begins(dataset: Path):
    paths = sorted((dataset / "shoreline").glob("*.npy"))
    contours = [c for p in paths for c in read_shoreline(p)]
    assert all(c.shape[1] == 2 and (c >= 0).all() and (c < 600).all() for c in contours)


def test_memory_does_not_grow_with_the_scene(tmp_path: Path):
    code = (
        "import resource, sys; from pathlib import Path; from xt.data.synthetic.scenes import _write_scene\n"
        "from xt.data.synthetic.world import make_world\n"
        "_write_scene(Path(sys.argv[1]), make_world(int(sys.argv[2]), 1024, 1))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )

    def peak(rows: int) -> int:
        argv = [sys.executable, "-c", code, str(tmp_path / str(rows)), str(rows)]
        return int(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)

    assert peak(6144) - peak(1024) < 40 * 1024


def test_reader_gives_crops_with_targets_and_whole_scenes(dataset: Path):
    data = XView3Data(str(dataset), image_size=256, crops_per_scene=3, bands=("VV_dB", "VH_dB", "owiWindSpeed"))
    data.setup("fit")
    batches = list(data.train_dataloader())
    assert len(batches) == 3 * 3
    assert batches[0]["image"].shape == (1, 3, 256, 256)
    assert sum(int(b["targets"]["center"].max()) == 255 for b in batches) >= 6
    tiles = list(data.val_dataloader())
    assert len(tiles) == 9
    assert sum(len(t["points"][0]) for t in tiles) == len(read_labels(dataset / "validation.csv"))
    assert not tiles[-1]["valid"][0, 0, 100:].any()
    assert (tiles[-1]["image"][0, :, 100:] == 0).all()


def test_same_epoch_same_crops_and_skipping_goes_on(dataset: Path):
    def names(epoch: int, skip: int = 0) -> list[float]:
        data = XView3Data(str(dataset), image_size=128, crops_per_scene=2)
        data.setup("fit")
        data.skip_batches = skip
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        return [float(b["image"].sum()) for b in loader]

    assert names(0) == names(0)
    assert names(0) != names(1)
    assert names(1, skip=2) == names(1)[2:]


def test_missing_data_says_how_to_make_it(tmp_path: Path):
    with pytest.raises(ValueError, match=r"no .*train\.csv; .*xt synth xview3"):
        XView3Data(str(tmp_path)).setup("fit")


SMALL = ["--scenes", "3", "--size", "64"]


def synth(out: Path, *argv: str) -> int:
    return main(["synth", "xview3", str(out), *argv])


def test_what_is_made_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr(scenes, "write_dataset", lambda *given: asked.append((*given[:5], given[6])))
    assert synth(tmp_path) == 0
    assert capsys.readouterr().out == f"{tmp_path}: 8 scenes of 1024 × 1024 px\n"
    least = ["--scenes", "3", "--size", "64", "--seed", "0", "--region", "32"]
    assert synth(tmp_path, *least, "--overwrite") == 0
    assert asked == [(tmp_path, 8, 1024, 1, False, 64), (tmp_path, 3, 64, 0, True, 32)]
    for option, value in zip(least[::2], least[1::2], strict=True):
        assert synth(tmp_path, option, str(int(value) - 1)) == 2
        assert f"{option} {'must be at least 3' if option == '--scenes' else value}" in capsys.readouterr().err
    assert len(asked) == 2


def test_overwriting_removes_only_what_synth_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "data"
    assert synth(out, *SMALL, "--seed", "1") == 0
    old = digest(out)
    for foreign in ("notes.txt", "train/s00010000t/mine.tif", "shoreline/mine.npy", "shoreline/deeper/x.npy"):
        path = out / foreign
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
        assert synth(out, *SMALL, "--seed", "2", "--overwrite") == 2
        named = "shoreline/deeper" if "deeper" in foreign else foreign
        assert f"{out} holds {named}, which xt synth did not write" in capsys.readouterr().err
        assert digest(out) == old | {foreign: hashlib.sha256(b"mine").hexdigest()}
        path.unlink()
    (out / "shoreline/deeper").rmdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "VV_dB.tif").write_text("mine")
    (out / "test" / "link").symlink_to(outside)
    assert synth(out, *SMALL, "--seed", "2", "--overwrite") == 2
    (out / "test" / "link").unlink()
    assert synth(out, *SMALL, "--seed", "2", "--overwrite") == 0
    assert synth(tmp_path / "anew", *SMALL, "--seed", "2") == 0
    assert digest(out) == digest(tmp_path / "anew")
    assert (outside / "VV_dB.tif").exists()


def test_overwriting_that_was_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "data"
    assert synth(out, *SMALL, "--seed", "1") == 0
    plain = Path.unlink

    def kill(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".npy":
            raise KeyboardInterrupt
        plain(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", kill)
    assert synth(out, *SMALL, "--seed", "2", "--overwrite") == 130
    monkeypatch.undo()
    assert synth(out, *SMALL, "--seed", "2", "--overwrite") == 0
    assert synth(tmp_path / "anew", *SMALL, "--seed", "2") == 0
    assert digest(out) == digest(tmp_path / "anew")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"scenes": 3}', '{"scenes": "x", "size": 64, "seed": 1}'])
def test_another_synth_json_is_left_alone(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "synth.json").write_text(text)
    assert synth(tmp_path, *SMALL, "--overwrite") == 2
    assert "synth.json is not of xt synth" in capsys.readouterr().err
    assert (tmp_path / "synth.json").read_text() == text


def test_two_runs_do_not_write_one_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with locked(tmp_path / "data"):
        assert synth(tmp_path / "data", *SMALL) == 2
    assert "is being written by process" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_killed_run_goes_on_and_its_partials_go(tmp_path: Path):
    code = """
import os, sys
from xt import files
from xt.cli.main import main
plain, calls = os.replace, []
def kill(source, target):
    calls.append(target)
    if len(calls) == 5:
        os._exit(9)
    plain(source, target)
files.os.replace = kill
main(sys.argv[1:])
"""
    out = tmp_path / "data"
    argv = [sys.executable, "-c", code, "synth", "xview3", str(out), *SMALL, "--seed", "1"]
    assert subprocess.run(argv, capture_output=True).returncode == 9
    assert list(out.rglob(".*.partial*"))
    assert synth(out, *SMALL, "--seed", "1") == 0
    assert synth(tmp_path / "anew", *SMALL, "--seed", "1") == 0
    assert digest(out) == digest(tmp_path / "anew")
    assert not list(out.rglob(".*"))
