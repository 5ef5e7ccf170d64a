"""What docs/own-points.md shows works: a layer of points on the map, to a trained model and points found."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from rasterio.transform import from_origin

from xt.cli.main import main

ROOT = Path(__file__).parents[2]
DOC = (ROOT / "docs/own-points.md").read_text()


def harbours(root: Path) -> None:
    """Images of weak noise with bright spots, and the spots as points in UTM, without any attribute."""
    (root / "images").mkdir(parents=True)
    features, rng = [], np.random.default_rng(0)
    for index, name in enumerate(["east_1", "east_2", "west_1", "west_2", "north_1", "south_1"]):
        east, north = 500_000 + 10_000 * index, 6_000_000
        pixels = rng.normal(-20, 1, (2, 192, 192)).astype(np.float32)
        for row, col in rng.integers(8, 184, (6, 2)):
            pixels[:, row - 1 : row + 2, col - 1 : col + 2] = 10
            place = [east + 10 * (float(col) + 0.5), north - 10 * (float(row) + 0.5)]
            features.append({"type": "Feature", "properties": {}, "geometry": {"type": "Point", "coordinates": place}})
        profile = {"driver": "GTiff", "count": 2, "height": 192, "width": 192, "dtype": "float32"}
        grid = {"crs": "EPSG:32632", "transform": from_origin(east, north, 10, 10)}
        with rasterio.open(root / "images" / f"{name}.tif", "w", **profile, **grid) as out:
            out.write(pixels)
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32632"}}
    layer = {"type": "FeatureCollection", "crs": crs, "features": features}
    (root / "points.geojson").write_text(json.dumps(layer))


@pytest.mark.slow
def test_own_points_from_training_to_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    harbours(Path("data/harbours"))
    values = yaml.safe_load((ROOT / "configs/xview3_demo.yaml").read_text())
    block, *_ = re.findall(r"```yaml\n(.*?)```", DOC, re.S)
    values |= yaml.safe_load(block)
    values["trainer"] |= {"max_epochs": 30, "check_val_every_n_epoch": 15, "enable_progress_bar": False}
    values["model"]["warmup_steps"] = 10
    values["data"]["init_args"]["image_size"] = 128
    Path("harbours.yaml").write_text(yaml.safe_dump(values))
    commands = [line.split() for line in DOC.splitlines() if line.startswith("    xt ")]
    assert len(commands) == 3
    for _, *argv in commands:
        assert main(argv) == 0, argv
    scores = json.loads(Path("runs/harbours/test.json").read_text())
    assert scores["test/loc_fscore"] > 0.9
    with Path("south_1.csv").open() as file:
        found = list(csv.DictReader(file))
    assert len(found) == 6
    assert {row[name] for row in found for name in ("is_vessel", "is_fishing", "vessel_length_m")} == {""}
    with rasterio.open("south_1.tif") as raster:
        assert raster.descriptions == ("center",)
