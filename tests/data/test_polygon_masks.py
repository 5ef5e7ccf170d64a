"""Classes drawn from polygons, beside masks of the same and beside the definition, pixel by pixel."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import rasterio.features
import rasterio.warp
import shapely
from rasterio.transform import Affine
from rasters import UTM, noise, write

from xt.data.polygon_masks import PolygonsData
from xt.data.raster_pairs import RasterPairsData
from xt.errors import ConfigError, InputError, XTWarning
from xt.geometry.grid import Window

HEIGHT, WIDTH = 90, 130
CLASSES = ["ground", "house", "road"]
GRIDS = {
    "a": Affine(10, 0, 500_000, 0, -10, 6_000_000),
    "b": Affine(8, 3, 510_000, 3, -8, 6_010_000),
    "v": Affine(10, 0, 505_000, 0, -10, 5_995_000),
}


def place(name: str, shape: Any) -> Any:
    """From columns and rows of an image to the map."""
    grid = GRIDS[name]
    return shapely.transform(shape, lambda at: at @ [[grid.a, grid.d], [grid.b, grid.e]] + [grid.c, grid.f])


def some_shapes(seed: int) -> list[Any]:
    """Rings, boxes and triangles that overlap and reach over the border; one crosses itself, one has a line as a tail."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform([-10, -10], [WIDTH + 10, HEIGHT + 10], (14, 2))
    shapes = [shapely.Point(at).buffer(rng.uniform(4, 25), quad_segs=3) for at in centres]
    shapes[0] = shapes[0].difference(shapes[0].centroid.buffer(3))
    shapes[1] = shapely.MultiPolygon([shapely.box(3.2, 4.9, 9.7, 12.1), shapely.box(80.4, 60.6, 95.2, 80.3)])
    tail = [(99.9, 20.7), (120.1, 20.7), (99.9, 20.7)]
    shapes[13] = shapely.Polygon([(70.2, 9.8), (99.9, 9.8), *tail, (99.9, 30.2), (70.2, 30.2)])
    shapes[2] = shapely.Polygon([(20, 20.3), (60, 60.7), (60, 20.1), (20, 60.2)])
    return shapes


def dense(shape: Any) -> Any:
    """The same with ten places on each edge; by hand, for segmentize loses a part of what crosses itself."""
    if shape.geom_type == "MultiPolygon":
        return shapely.MultiPolygon([dense(each) for each in shape.geoms])
    steps, rings = np.linspace(0, 1, 10, endpoint=False)[:, None], []
    for ring in (shape.exterior, *shape.interiors):
        places = shapely.get_coordinates(ring)
        rings.append(np.concatenate([start + steps * (end - start) for start, end in pairwise(places)]))
    return shapely.Polygon(rings[0], rings[1:])


def save(path: Path, shapes: list[Any], crs: str | None = UTM, **columns: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if crs == "EPSG:4326":
        shapes = shapely.transform(
            np.array([dense(each) for each in shapes], object),
            lambda at: np.transpose(rasterio.warp.transform(UTM, crs, *at.T)),
        )
    driver = {".gpkg": "GPKG", ".shp": "ESRI Shapefile"}.get(path.suffix, "GeoJSON")
    values = [np.array(each, object if isinstance(each[0], str | None) else None) for each in columns.values()]
    pyogrio.raw.write(
        str(path), shapely.to_wkb(np.array(shapes, object)), values, list(columns),
        geometry_type="Unknown" if driver != "ESRI Shapefile" else "Polygon", crs=crs, driver=driver,
    )  # fmt: skip
    return path


def write_layers(path: Path, *names: str) -> None:
    path.unlink(missing_ok=True)
    shape = shapely.to_wkb(np.array([place("a", shapely.box(0, 0, 5, 5))], object))
    for name in names:
        geometry, kind = (None, None) if name == "styles" else (shape, "Polygon")
        values = [np.array(["road"], object)]
        pyogrio.raw.write(str(path), geometry, values, ["kind"], layer=name, geometry_type=kind, crs=UTM, driver="GPKG")


def images(root: Path, names: str = "abv") -> None:
    for name in names:
        write(root / f"images/{name}.tif", noise(2, HEIGHT, WIDTH, seed=ord(name)), crs=UTM, transform=GRIDS[name])


def build(root: Path, stage: str = "fit", **options: Any) -> PolygonsData:
    given = {"classes": CLASSES, "column": "kind", "image_size": 32, "mean": [0, 0], "std": [1, 1]} | options
    data = PolygonsData(str(root), bands=["p", "q"], validation="^v", **given)
    data.setup(stage)
    return data


def inside(shapes: list[Any]) -> np.ndarray:
    """Whether the centre of each pixel lies in one of the shapes."""
    rows, cols = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    return shapely.contains_xy(shapely.union_all(shapely.make_valid(np.array(shapes, object))), cols, rows)


@pytest.mark.parametrize(
    ("name", "crs", "suffix"),
    [("a", UTM, ".gpkg"), ("b", UTM, ".geojson"), ("a", "EPSG:4326", ".gpkg"), ("b", "EPSG:4326", ".geojson"),
     ("v", UTM, ".shp")],
)  # fmt: skip
def test_a_pixel_has_the_class_of_the_polygon_that_holds_its_centre(tmp_path: Path, name: str, crs: str, suffix: str):
    images(tmp_path)
    shapes = some_shapes(3)
    kinds = ["house", "road", "house", "unclear", "road", "ground"] * 3
    save(tmp_path / f"p{suffix}", [place(name, each) for each in shapes], crs, kind=kinds[: len(shapes)])
    data = build(tmp_path, polygons=f"p{suffix}", unclear=["unclear"])
    got = data.labels.read(tmp_path / f"images/{name}.tif")
    want = np.zeros((HEIGHT, WIDTH), np.int64)
    for number, kind in ((1, "house"), (2, "road"), (255, "unclear")):
        of_kind = [each for each, other in zip(shapes, kinds, strict=False) if other == kind]
        want[inside(of_kind)] = number
    edge = np.zeros_like(want, bool)
    if crs != UTM:  # what another CRS costs at an edge
        rows, cols = np.mgrid[:HEIGHT, :WIDTH] + 0.5
        lines = shapely.union_all([each.boundary for each in shapes])
        edge = shapely.distance(lines, shapely.points(cols, rows)) < 0.01
    assert set(np.unique(want)) == {0, 1, 2, 255}
    assert (got == want)[~edge].all()
    assert edge.mean() < 0.02
    other = next(each for each in "ab" if each != name)
    assert not data.labels.read(tmp_path / f"images/{other}.tif").any()
    part = data.labels.read(tmp_path / f"images/{name}.tif", Window(70, -7, 40, 60))
    assert (part[:20, 7:] == got[70:, :53]).all()
    assert (part[20:] == 255).all()
    assert (part[:, :7] == 255).all()


def test_samples_are_those_of_masks_of_the_same(tmp_path: Path):
    images(tmp_path)
    features, numbers = [], []
    for name, grid in GRIDS.items():
        mask = np.random.default_rng(ord(name)).integers(0, 3, (HEIGHT // 10, WIDTH // 10)).astype(np.uint8)
        mask = np.kron(mask, np.ones((10, 10), np.uint8))
        write(tmp_path / f"masks/{name}.tif", mask)
        found = rasterio.features.shapes(mask, transform=grid)
        for shape, value in found:
            features.append(shapely.geometry.shape(shape))
            numbers.append(int(value))
    save(tmp_path / "polygons.gpkg", features, kind=numbers)
    options = {"centred": 0.5, "crops_per_image": 12, "gain": 0.1, "seed": 4, "validation_tile": 64}
    ours = build(tmp_path, **options)
    theirs = RasterPairsData(
        str(tmp_path), CLASSES, ["p", "q"], "^v", image_size=32, mean=[0, 0], std=[1, 1], **options
    )
    theirs.setup("fit")
    for split in ("train", "validation"):
        one, other = ours.datasets[split], theirs.datasets[split]
        assert len(one) == len(other)
        for index in range(len(one)):
            left, right = one[1, index], other[1, index]
            assert left["name"] == right["name"]
            for key in ("image", "valid", "mask"):
                np.testing.assert_array_equal(left[key], right[key])


def test_crops_and_tiles_lie_where_something_is_known(tmp_path: Path):
    images(tmp_path)
    known = {"a": shapely.box(40, 40, 60.5, 50), "v": shapely.Point(100, 70).buffer(9)}
    save(tmp_path / "polygons.gpkg", [place("a", shapely.box(0, 0, 50, 45)), place("v", shapely.box(90, 60, 99, 99))])
    save(tmp_path / "areas.geojson", [place(name, each) for name, each in known.items()], "EPSG:4326")
    options = {"column": None, "classes": ["no", "yes"], "areas": "areas.geojson", "image_size": 16}
    with pytest.warns(XTWarning, match="1 of 3 images lie in no area and are left out"):
        data = build(tmp_path, crops_per_image=200, validation_tile=32, **options)
    seen = np.zeros((HEIGHT, WIDTH), int)
    for index in range(len(train := data.datasets["train"])):
        sample = train[0, index]
        assert (sample["mask"] != 255).any()
        row, col = train._corner(np.random.default_rng(index), 0)
        seen[row : row + 16, col : col + 16] += 1
    assert len(train) == 200
    assert seen[inside([known["a"]])].min() > 30
    want = np.where(inside([known["v"]]), inside([shapely.box(90, 60, 99, 99)]), 255)
    np.testing.assert_array_equal(data.labels.read(tmp_path / "images/v.tif"), want)
    tiles = data.datasets["validation"]
    assert {tiles[0, index]["name"] for index in range(len(tiles))} == {
        f"v.tif rows {row}– columns {col}–" for row in (32, 64) for col in (64, 96)
    }
    assert sum((tiles[0, index]["mask"] != 255).sum() for index in range(len(tiles))) == (want != 255).sum()


def test_images_have_files_of_their_own(tmp_path: Path):
    images(tmp_path)
    beside, within = place("a", shapely.box(-5, 0, -1, 5)), place("a", shapely.box(0, 0, 5, 5))
    save(tmp_path / "labels/a.shp", [beside, within], kind=["road", "house"])
    save(tmp_path / "labels/v.geojson", [place("a", shapely.box(0, 0, 5, 5))], "EPSG:4326", kind=["road"])
    data = build(tmp_path, polygons="labels")
    sums = {name: int(data.labels.read(tmp_path / f"images/{name}.tif").sum()) for name in "abv"}
    assert sums == {"a": 25, "b": 0, "v": 0}


def test_tables_beside_the_polygons_are_nothing(tmp_path: Path):
    images(tmp_path)
    write_layers(tmp_path / "polygons.gpkg", "styles", "polygons")
    assert build(tmp_path).labels.read(tmp_path / "images/a.tif").sum() == 50


def test_flatgeobufs_of_polygons_are_read(tmp_path: Path):
    images(tmp_path)
    (tmp_path / "polygons").mkdir()
    for name in "abv":
        shape = shapely.to_wkb([place(name, shapely.box(0, 0, 5, 5))])
        layer = {"geometry_type": "Polygon", "crs": "EPSG:32632", "fields": ["kind"]}
        pyogrio.raw.write(tmp_path / f"polygons/{name}.fgb", shape, [np.array(["road"], object)], **layer)
    assert build(tmp_path, polygons="polygons").labels.read(tmp_path / "images/a.tif").sum() == 50


@pytest.mark.parametrize("kind", ["polygons", "areas"])
def test_a_file_for_no_image_is_said(tmp_path: Path, kind: str):
    images(tmp_path)
    for folder in ("polygons", "areas"):
        (tmp_path / folder).mkdir()
        for name in "abv":
            save(tmp_path / folder / f"{name}.gpkg", [place(name, shapely.box(0, 0, 50, 50))], kind=["road"])
    save(tmp_path / kind / "typo.gpkg", [place("a", shapely.box(0, 0, 5, 5))], kind=["road"])
    with pytest.warns(XTWarning, match=f"{kind}: 1 files of {kind} are for no image, such as typo"):
        build(tmp_path, polygons="polygons", areas="areas")


def test_a_number_is_no_class_where_names_are_numbers(tmp_path: Path):
    images(tmp_path)
    shape = place("a", shapely.box(0, 0, 5, 5))
    save(tmp_path / "polygons.gpkg", [shape], kind=["10"])
    data = build(tmp_path, classes=["0", "20", "10"])
    assert set(np.unique(data.labels.read(tmp_path / "images/a.tif"))) == {0, 2}
    save(tmp_path / "polygons.gpkg", [shape], kind=["1"])
    with pytest.raises(InputError, match=r"polygon 1 has kind '1', which is no class \(20, 10\)"):
        build(tmp_path, classes=["0", "20", "10"])


def test_polygons_of_many_images_are_not_all_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    images(tmp_path)
    save(tmp_path / "polygons.gpkg", [place(name, shapely.box(0, 0, 5, 5)) for name in "abv"], kind=["road"] * 3)
    monkeypatch.setattr("xt.data.polygon_layers.KEPT", 2)
    data = build(tmp_path)
    for name in "abvav":
        assert data.labels.read(tmp_path / f"images/{name}.tif").sum() == 50
        assert len(data.labels.layer.kept) <= 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"column": None}, r"data\.init_args\.column is missing; 3 classes need the column"),
        ({"classes": ["a", "b"], "column": None, "unclear": ["c"]}, "column is missing"),
        ({"unclear": ["road"]}, "unclear holds 'road', which is a class"),
        ({"classes": ["a", "a"]}, "give each of them a name of its own"),
        ({"centred": 2.0}, "centred is 2.0"),
        ({"ignore_index": 1}, "ignore_index 1 is the number of class 'house'"),
    ],
)
def test_wrong_options_name_their_key(tmp_path: Path, options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        build(tmp_path, **options)


def test_wrong_files_are_said(tmp_path: Path):
    images(tmp_path)
    shape = place("a", shapely.box(0, 0, 5, 5))
    with pytest.raises(InputError, match=r"polygons\.gpkg: no such file or folder; set data\.init_args\.root"):
        build(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: no file of polygons such as IMAGE\.gpkg"):
        build(tmp_path, polygons="empty")
    save(tmp_path / "p.gpkg", [shape, shape], kind=["house", "tree"], size=[1.5, 2.5])
    with pytest.raises(
        InputError,
        match=r"polygon 2 has kind 'tree', which is no class \(ground, house, road\); .* data.init_args.classes or unclear",
    ):
        build(tmp_path, polygons="p.gpkg")
    with pytest.raises(InputError, match=r"p\.gpkg: no column 'class'; .* to one of: kind, size"):
        build(tmp_path, polygons="p.gpkg", column="class")
    save(tmp_path / "p.gpkg", [shape, shape], kind=["house", None])
    with pytest.raises(InputError, match="polygon 2 has kind empty, which is no class"):
        build(tmp_path, polygons="p.gpkg")
    save(tmp_path / "p.gpkg", [shape], None, kind=["house"])
    with pytest.raises(InputError, match="has no CRS; save it with one"):
        build(tmp_path, polygons="p.gpkg")
    save(tmp_path / "p.gpkg", [shapely.box(0, 0, 5, 5)], kind=["house"])
    with pytest.raises(InputError, match=r"no polygon lies on an image of .*images; check its CRS"):
        build(tmp_path, polygons="p.gpkg")
    (tmp_path / "p.gpkg").write_text("no file of any kind")
    with pytest.raises(InputError, match=r"p\.gpkg: no polygons can be read"):
        build(tmp_path, polygons="p.gpkg")
    write_layers(tmp_path / "p.gpkg", "one", "other")
    with pytest.raises(
        InputError, match=r"p\.gpkg: holds 2 layers \(one, other\); save the one that is meant as a file of its own"
    ):
        build(tmp_path, polygons="p.gpkg")
    save(tmp_path / "p.geojson", [shape], kind=["house"])
    write(tmp_path / "images/b.tif", noise(2, 9, 9))
    with pytest.raises(InputError, match=r"b\.tif: no CRS or georeference, so the polygons of .* cannot be placed"):
        build(tmp_path, polygons="p.geojson")
