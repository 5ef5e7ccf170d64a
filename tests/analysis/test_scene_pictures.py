import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from xt.analysis import report, scene_pictures
from xt.cli.main import main
from xt.data.labels import LabelTable
from xt.data.predictions import write_predictions

GRID = Affine(10, 0, 500_000, 0, -10, 6_000_000)
HEADER = "detect_scene_row,detect_scene_column,scene_id,class,score"


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The pictures of scenes that would be saved; none of runs is drawn."""
    found: list[Any] = []
    monkeypatch.setattr(scene_pictures, "save", lambda figure, out: found.append(figure))
    for name in ("plot_curves", "plot_scores"):
        monkeypatch.setattr(report, name, lambda *given: None)
    yield found
    report.plt.close("all")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "test.json").write_text('{"test/f1": 0.5}')
    return folder


def raster(path: Path, height: int = 90, width: int = 120, east: int = 0) -> Path:
    path.parent.mkdir(exist_ok=True)
    grid = Affine.translation(10 * east, 0) @ GRID
    profile = {"driver": "GTiff", "count": 1, "dtype": "float32", "crs": "EPSG:32632", "transform": grid}
    with rasterio.open(path, "w", height=height, width=width, **profile) as out:
        out.write(np.random.default_rng(0).normal(-15, 2, (1, height, width)).astype(np.float32))
    return path


def table(path: Path, *lines: str, header: str = HEADER) -> Path:
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def drawn(run: Path, scenes: Sequence[Path], points: Path, labels: Path, *more: str) -> int:
    out = ["-o", str(run.parent / "out")]
    return main(
        [
            "report",
            str(run),
            *out,
            "--scene",
            *map(str, scenes),
            "--points",
            str(points),
            "--labels",
            str(labels),
            *more,
        ]
    )


def marks(axis: Any) -> list[tuple[float, float]]:
    return sorted(tuple(map(float, place)) for each in axis.collections for place in np.asarray(each.get_offsets()))


def objects(scene: str, *places: tuple[float, float], label: str = "car") -> LabelTable:
    rows, cols = zip(*places, strict=True)
    return LabelTable.build(len(rows), row=rows, column=cols, scene_id=[scene] * len(rows), label=[label] * len(rows))


def test_a_scene_without_labels_or_predictions_is_drawn(tmp_path: Path, run: Path, figures: list[Any]):
    scene = raster(tmp_path / "s1.tif")
    found, nothing = table(tmp_path / "p.csv", "5,5,s1,car,100"), table(tmp_path / "n.csv")
    empty = table(tmp_path / "l.csv", header="scene_id,row,column,class")
    there = table(tmp_path / "t.csv", "s1,5,5,car", header="scene_id,row,column,class")
    for points, labels, counts in (
        (found, empty, "0 of 0 objects found, 1 false"),
        (nothing, there, "0 of 1 objects found, 0 false"),
        (nothing, empty, "0 of 0 objects found, 0 false"),
    ):
        assert drawn(run, [scene], points, labels) == 0
        assert figures[-1].axes[0].get_title() == f"s1\n{counts} alarms"
    assert not figures[-1].legends
    on_the_map = tmp_path / "l.geojson"
    on_the_map.write_text('{"type": "FeatureCollection", "features": []}')
    assert drawn(run, [scene], found, on_the_map) == 0
    assert figures[-1].axes[0].get_title() == "s1\n0 of 0 objects found, 1 false alarms"


def test_two_scenes_of_one_name_are_refused(tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]):
    first, second = (raster(tmp_path / folder / "s1.tif") for folder in ("a", "b"))
    points = table(tmp_path / "p.csv", "5,5,s1,car,100")
    labels = table(tmp_path / "l.csv", "s1,500055,5999945", header="scene_id,x,y")
    said = f"{first} and {second} have the same name; give one at a time\n"
    assert drawn(run, [first, second], points, labels) == 2
    assert capsys.readouterr().err == f"xt: error: --scene: {said}"
    assert not (tmp_path / "out").exists()
    assert main(["score", str(points), str(labels), "--images", str(first), str(second)]) == 2
    assert capsys.readouterr().err == f"xt: error: --images: {said}"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_contrast_is_that_of_known_pixels(tmp_path: Path, figures: list[Any], bad: float):
    pixels = np.random.default_rng(0).normal(-15, 2, (1, 90, 120)).astype(np.float32)
    pixels[0, :, :40] = bad
    path = raster(tmp_path / "s1.tif")
    with rasterio.open(path, "r+") as out:
        out.write(pixels)
    scene_pictures.plot_scenes({"s1": path}, LabelTable.build(0), LabelTable.build(0), tmp_path / "a.png")
    (image,) = figures[0].axes[0].images
    low, high = np.percentile(pixels[0, :, 40:], (1, 99.7))
    assert image.get_clim() == pytest.approx((low, high))
    assert np.asarray(image.get_array())[:, :40] == pytest.approx(low)


def test_a_scene_of_which_nothing_is_known_is_drawn(tmp_path: Path, figures: list[Any]):
    path = raster(tmp_path / "s1.tif")
    with rasterio.open(path, "r+") as out:
        out.write(np.full((1, 90, 120), np.nan, np.float32))
    scene_pictures.plot_scenes({"s1": path}, LabelTable.build(0), LabelTable.build(0), tmp_path / "a.png")
    assert not np.asarray(figures[0].axes[0].images[0].get_array()).any()


@pytest.mark.parametrize(
    ("header", "line"),
    [
        ("x,y,kind", "500305,5999795,car"),
        ("scene_id,x,y,kind", "s1,500305,5999795,car"),
        ("scene_id,xmin,ymin,xmax,ymax,kind", "s1,28,18,33,23,car"),
        ("image_path,row,column,kind", r"C:\images\s1.TIF,20,30,car"),
        ("scene_id,row,column,x,y,kind", "s1,20,30,500305,5999795,car"),
    ],
)
def test_labels_in_csv_are_placed_by_the_scenes(tmp_path: Path, run: Path, figures: list[Any], header: str, line: str):
    scenes = raster(tmp_path / "s1.tif"), raster(tmp_path / "s2.tif", east=120)
    points, labels = table(tmp_path / "p.csv", "21,30,s1,car,100"), table(tmp_path / "l.csv", line, header=header)
    assert drawn(run, scenes, points, labels, "--column", "kind") == 0
    first, second = figures[-1].axes
    assert marks(first) == [pytest.approx((30, 20)), (30, 21)]
    assert marks(second) == []
    assert all(each.get_path_effects() for each in first.collections)
    assert [text.get_text() for text in figures[-1].legends[0].get_texts()] == ["there: car", "found: car"]


def test_pixels_of_one_scene_need_no_name(tmp_path: Path, run: Path, figures: list[Any]):
    labels = table(tmp_path / "l.csv", "20,30", header="row,column")
    assert drawn(run, [raster(tmp_path / "s1.tif")], table(tmp_path / "p.csv"), labels) == 0
    assert marks(figures[-1].axes[0]) == [(30, 20)]


def test_labels_on_the_map_are_placed_by_the_folder_of_a_scene(tmp_path: Path, run: Path, figures: list[Any]):
    raster(tmp_path / "s1" / "VV_dB.tif")
    labels = table(tmp_path / "l.csv", "s1,500305,5999795", header="scene_id,x,y")
    assert drawn(run, [tmp_path / "s1"], table(tmp_path / "p.csv"), labels) == 0
    assert marks(figures[-1].axes[0]) == [pytest.approx((30, 20))]


def test_many_scenes_stand_in_a_grid_under_their_names(tmp_path: Path, figures: list[Any]):
    path = raster(tmp_path / "s.tif")
    name = "S1A_IW_GRDH_1SDV_20220101T103421_20220101T103446_041273_04E7C4_5A01_COG $x_$"
    names = [f"{name}{index}" for index in range(6)]
    truth = objects(names[5], (5, 9))
    scene_pictures.plot_scenes(dict.fromkeys(names, path), LabelTable.build(0), truth, tmp_path / "a.png")
    figure = figures[0]
    figure.canvas.draw()
    shown = [axis for axis in figure.axes if axis.get_visible()]
    said = ["".join(axis.get_title().split()) for axis in shown]
    assert [each.startswith("".join(name.split())) for each, name in zip(said, names, strict=True)] == [True] * 6
    assert shown[5].get_title().endswith("0 of 1 objects found, 0 false alarms")
    places = [axis.get_position() for axis in shown]
    assert [place.y0 > 0.5 for place in places] == [True] * 4 + [False] * 2
    assert [place.x0 for place in places[4:]] == pytest.approx([place.x0 for place in places[:2]])
    titles = [axis.title.get_window_extent() for axis in shown]
    assert all(first.x1 < second.x0 for first, second in itertools.pairwise(titles[:4]))
    assert titles[0].y1 <= figure.bbox.height
    assert max(figure.get_size_inches()) <= 32


@pytest.mark.parametrize(("num", "columns", "rows"), [(1, 1, 1), (5, 4, 2), (24, 4, 6), (600, 8, 75)])
def test_hundreds_of_scenes_are_one_picture(tmp_path: Path, num: int, columns: int, rows: int):
    panel = scene_pictures._panel(raster(tmp_path / "s.tif", 9, 9), num)
    widths, heights = scene_pictures._cells([panel] * num, 2)
    assert (len(widths), len(heights)) == (columns, rows)
    assert sum(widths) <= 32
    assert sum(heights) * 100 < 2**16


def test_columns_and_rows_are_as_large_as_their_largest_panels():
    panels = [(5.0, 4.0), (3.0, 2.5), (8.0, 3.0), (4.0, 6.0), (7.0, 2.4), (1.0, 2.4), (6.0, 9.0)]
    widths, heights = scene_pictures._cells(panels, 0)
    assert widths == [7, scene_pictures.CELL, 8, 4]
    assert heights == pytest.approx([6.45, 9.45])


def test_marks_on_the_rim_lie_inside(tmp_path: Path):
    path = raster(tmp_path / "s1.tif", 50, 60)
    inside, outside = [(0, 0), (49, 59), (-0.5, 59.4), (49.4, -0.5)], [(-0.6, 5), (5, 59.6)]
    for places, told in ((inside, ""), (inside + outside, "\n2 marks lie outside the image")):
        title = scene_pictures._title("s1", path, objects("s1", *places), LabelTable.build(0), 20, 6)
        assert title == f"s1\n0 of 0 objects found, {len(places)} false alarms{told}"


@pytest.mark.parametrize(("height", "width"), [(20, 8000), (8000, 20)])
def test_long_scenes_are_stretched_so_that_marks_are_seen(tmp_path: Path, figures: list[Any], height: int, width: int):
    path, row, col = raster(tmp_path / "s1.tif", height, width), height / 2, width / 4
    found = objects("s1", (row, col), (height + 50, 3))
    scene_pictures.plot_scenes({"s1": path}, found, objects("s1", (row, col)), tmp_path / "a.png")
    figure = figures[0]
    figure.canvas.draw()
    (axis,) = figure.axes
    size = axis.get_window_extent()
    assert 140 < min(size.width, size.height)
    assert max(size.width, size.height) < 1400
    assert "1 of 1 objects found, 1 false alarms\n" in axis.get_title()
    assert f"{width} × {height} px, not to scale" in axis.get_title()
    assert axis.get_title().endswith("1 marks lie outside the image")
    (x, y) = axis.transAxes.inverted().transform(axis.transData.transform(marks(axis)[-1]))
    assert (x, y) == pytest.approx((0.25, 0.5), abs=0.03)
    assert min(axis.images[0].get_array().shape) == 20
    title, (legend,) = axis.title.get_window_extent(), figure.legends
    assert title.y1 <= figure.bbox.height
    assert title.x0 >= 0
    assert legend.get_window_extent().y1 < size.y0


def test_what_is_not_drawn_is_told(tmp_path: Path, run: Path, figures: list[Any], capsys: pytest.CaptureFixture[str]):
    scene, points = raster(tmp_path / "s1.tif"), tmp_path / "p.csv"
    header = "scene_id,row,column,kind"
    labels = table(tmp_path / "l.csv", "s1,5,5,car", "s2,5,5,car", header=header)
    write_predictions(points, objects("s1", (5, 5)), of_classes=True)
    assert drawn(run, [scene], points, labels, "--column", "kind") == 0
    assert not capsys.readouterr().err
    assert drawn(run, [scene], points, labels) == 0
    assert capsys.readouterr().err == "1 of 1 labels have no class and are drawn as fishing, vessel or other\n"
    both = LabelTable.concatenate([objects("s1", (5, 5)), objects("s2", (5, 5), (9, 9))])
    write_predictions(points, both, of_classes=True)
    assert drawn(run, [scene], points, labels, "--column", "kind") == 0
    said = "xt: warning: {} of scenes that are not drawn, such as 's2'\n"
    assert capsys.readouterr().err == said.format("2 of 3 objects that were found are")
    table(labels, "s2,5,5,car", header=header)
    write_predictions(points, objects("s1", (5, 5)), of_classes=True)
    assert drawn(run, [scene], points, labels, "--column", "kind") == 0
    assert capsys.readouterr().err == said.format("1 of 1 labels are")


def test_a_run_that_is_missing_and_points_on_the_map_say_what_to_give(
    tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["report", str(tmp_path / "nope"), "-o", str(tmp_path / "out")]) == 3
    assert capsys.readouterr().err == f"xt: error: {tmp_path}/nope: no such run folder; give one that xt train made\n"
    labels = table(tmp_path / "l.csv", "s1,5,5", header="scene_id,row,column")
    for name in ("s1.gpkg", "s1.geojson"):
        points = tmp_path / name
        points.write_bytes(b"SQLite format 3\0\xa0")
        said = f"xt: error: {points}: what was found is read from CSV; give s1.csv, which xt predict writes beside it\n"
        assert drawn(run, [raster(tmp_path / "s1.tif")], points, labels) == 2
        assert capsys.readouterr().err == said
        assert main(["score", str(points), str(labels)]) == 2
        assert capsys.readouterr().err == said
