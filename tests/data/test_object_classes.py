"""Points with classes of their own, and what is taught of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import shapely
from point_images import ALL, PLACES, build, csv, on_map
from rasters import UTM

from xt.data.targets import class_targets
from xt.errors import ConfigError, LabelError


@pytest.mark.parametrize("suffix", [".csv", ".gpkg"])
def test_objects_have_classes(root: Path, suffix: str):
    names = ["tree", "car", "tree", "plane", "car", "tree"]
    if suffix == ".csv":
        rows = [(*each, name) for each, name in zip(ALL, names, strict=True)]
        csv(root / "p.csv", "scene_id,row,column,what", rows)
    else:
        points = shapely.to_wkb(shapely.points([on_map(*each) for each in ALL]))
        given = [np.array(names, object)]
        pyogrio.raw.write(str(root / "p.gpkg"), points, given, ["what"], geometry_type="Point", crs=UTM, driver="GPKG")
    data = build(root, f"p{suffix}", classes=["car", "tree", "plane"], column="what", flips=True)
    assert data.objects.label.tolist() == names
    assert data.objects.kinds.tolist() == names
    tiles = [data.datasets["validation"][0, index] for index in range(4)]
    assert set(tiles[0]["targets"]) == {"center", "kind"}
    for tile in tiles:
        rows, cols = tile["points"].row - tile["origin"][0], tile["points"].column - tile["origin"][1]
        kind = tile["targets"]["kind"][0]
        for row, col, label in zip(rows.astype(int), cols.astype(int), tile["points"].label, strict=True):
            assert kind[row, col] == ["car", "tree", "plane"].index(label)
            assert tile["targets"]["center"][0, row, col] == 255
        assert set(np.unique(kind)) <= {0, 1, 2, 255}
        centres = np.array(PLACES["v"]) - tile["origin"]
        discs = sum(((np.mgrid[:64, :64] - each[:, None, None]) ** 2).sum(0) <= 16 for each in centres)
        np.testing.assert_array_equal(kind != 255, np.broadcast_to(discs, (64, 64)) > 0)
    wide = build(root, f"p{suffix}", classes=["car", "tree", "plane"], column="what", center_sigma=4.0)
    narrow, wider = (each.datasets["validation"][0, 0]["targets"]["center"] for each in (data, wide))
    assert (wider > 100).sum() > 3 * (narrow > 100).sum()
    unsure = replace(data.objects, confidence=np.full(6, "LOW"))
    targets = class_targets(unsure, ["car", "tree", "plane"], 90, 100)
    assert (targets["kind"] == 255).all()
    assert (targets["center"] == 255).sum() == 6
    with pytest.raises(
        LabelError,
        match=r"(line 2, line 4, line 7|feature 1, feature 3, feature 6): what 'tree' is no class \(car, plane\)",
    ):
        build(root, f"p{suffix}", classes=["car", "plane"], column="what")
    with pytest.raises(LabelError, match="no column 'sort'"):
        build(root, f"p{suffix}", classes=["car", "plane"], column="sort")
    with pytest.raises(ConfigError, match="give each of them a name of its own"):
        build(root, f"p{suffix}", classes=["car", "car"], column="what")
