"""Folders of maps, and of tables of points, scored as one."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from map_files import NAMES, layer, save, score


def a_map(seed: int, shape: tuple[int, int] = (20, 30)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, shape).astype(np.uint8)


def test_maps_of_a_folder_score_as_one_map_of_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("found", "true", "parts/found", "parts/true"):
        (tmp_path / name).mkdir(parents=True)
    for number, name in enumerate(["a", "b", "c", "only_map"]):
        found = a_map(number)
        found[:2] = 0 if number else 2  # classes differ in share
        save(tmp_path / f"found/{name}.tif", found, NAMES, nodata=255)
    for number, name in enumerate(["a", "b", "c", "only_true"], start=10):
        save(tmp_path / f"true/{name}.tif", a_map(number))
    (tmp_path / "true/._a.tif").write_text("of macOS")
    (tmp_path / "true/notes.txt").write_text("")
    scores, told = score(capsys, tmp_path / "found", tmp_path / "true")
    joined = [np.concatenate([*map(read, sorted(tmp_path.glob(f"{kind}/?.tif")))]) for kind in ("found", "true")]
    one, _ = score(capsys, save(tmp_path / "f.tif", joined[0], NAMES), save(tmp_path / "t.tif", joined[1]))
    assert scores == one
    assert "1 maps have no partner in" in told
    assert "do not count: only_map.tif\n" in told
    assert "do not count: only_true.tif\n" in told
    for names, said in (("yz", "only_map.tif, y.tif, z.tif\n"), ("x", "only_map.tif, x.tif, y.tif …\n")):
        for name in names:
            save(tmp_path / f"found/{name}.tif", a_map(0), NAMES)
        assert f"do not count: {said}" in score(capsys, tmp_path / "found", tmp_path / "true")[1]


def test_numbers_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rng = np.random.default_rng(0)
    (tmp_path / "found").mkdir()
    (tmp_path / "true").mkdir()
    pairs = [(rng.normal(5e6 * n, 1, (9, 7)), rng.normal(5e6 * n, 2, (9, 7))) for n in (1, 2)]
    for number, (found, true) in enumerate(pairs):
        save(tmp_path / f"found/{number}.tif", found)
        save(tmp_path / f"true/{number}.tif", true)
    scores, _ = score(capsys, tmp_path / "found", tmp_path / "true")
    found, true = map(np.concatenate, zip(*pairs, strict=True))
    assert scores["bias"] == pytest.approx((found - true).mean())
    assert scores["r2"] == pytest.approx(1 - ((found - true) ** 2).sum() / ((true - true.mean()) ** 2).sum())
    assert scores["pixels"] == 126


def test_polygons_of_all_maps(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "maps").mkdir()
    for name, width in (("a", 5), ("b", 3)):
        pixels = np.zeros((9, 9), np.uint8)
        pixels[:, :width] = 1
        save(tmp_path / f"maps/{name}.tif", pixels, NAMES[:2])
    scores, _ = score(capsys, tmp_path / "maps", layer(tmp_path / "true.gpkg", [shapely.box(0, 0, 4, 9)], n=[1]))
    assert (scores["iou"], scores["pixels"]) == (pytest.approx(63 / 81), 162)


def test_what_does_not_go_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    maps, truths, empty = tmp_path / "maps", tmp_path / "truths", tmp_path / "empty"
    for folder in (maps, truths, empty):
        folder.mkdir()
    one = save(maps / "a.tif", a_map(0), NAMES)
    assert "holds no .tif" in score(capsys, empty, truths, code=3)[1]
    assert "no file is named as a map of" in score(capsys, maps, truths, code=3)[1]
    assert "is a folder, so give a folder of what is true" in score(capsys, maps, one, code=3)[1]
    save(truths / "a.tif", a_map(0))
    save(truths / "a.png", a_map(0), driver="PNG")
    assert "a.tif: a.png is for the same map" in score(capsys, maps, truths, code=3)[1]
    (truths / "a.png").unlink()
    save(truths / "a.tif", np.zeros((20, 30), np.uint8), nodata=0)
    save(maps / "b.tif", a_map(1), NAMES)
    save(truths / "b.tif", np.zeros((20, 30), np.uint8), nodata=0)
    assert (
        f"{truths}: nothing is known of the pixels that {maps} has data for" in score(capsys, maps, truths, code=3)[1]
    )
    save(truths / "a.tif", a_map(0))
    save(maps / "b.tif", a_map(1), NAMES[:2])
    save(truths / "b.tif", a_map(1) % 2)
    assert "b.tif: other classes or bands than" in score(capsys, maps, truths, code=3)[1]
    save(maps / "b.tif", a_map(1).astype(np.float32))
    assert "b.tif: other classes or bands than" in score(capsys, maps, truths, code=3)[1]


def test_a_map_in_the_place_of_what_is_true_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    found, true = (save(tmp_path / f"{name}.tif", a_map(0), NAMES) for name in ("found", "true"))
    tag(found)
    assert "the map comes first" in score(capsys, true, found)[1]
    assert "the map comes first" not in score(capsys, found, true)[1]
    tag(true)  # two maps beside one another
    assert "the map comes first" not in score(capsys, found, true)[1]


def test_tables_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    header = "detect_scene_row,detect_scene_column,scene_id,is_vessel,is_fishing,vessel_length_m"
    labels = tmp_path / "labels.csv"
    labels.write_text("scene_id,row,column\na,5,5\nb,90,90\n")
    (tmp_path / "found").mkdir()
    (tmp_path / "found/a.csv").write_text(f"{header}\n5,6,a,True,False,9\n")
    assert score(capsys, tmp_path / "found", labels)[0]["loc_fscore"] == pytest.approx(2 / 3)
    (tmp_path / "found/b.csv").write_text(f"{header}\n90,91,b,True,False,9\n")
    assert score(capsys, tmp_path / "found", labels)[0]["loc_fscore"] == 1


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read(1)


def tag(path: Path) -> None:
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(XT_TASK="SemanticSegmentation")
