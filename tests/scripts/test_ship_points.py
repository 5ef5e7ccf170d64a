"""Masks become the folder that PointsData reads."""

import csv
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from scripts.ship_points import centroids, main, make
from xt.data.points import PointsData
from xt.errors import InputError, OutputError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three images; the second has no ship, the third another colour beside its ship."""
    ships = {
        "a": [(slice(2, 5), slice(10, 20)), (slice(30, 32), slice(0, 2))],
        "b": [],
        "v": [(slice(7, 8), slice(9, 10))],
    }
    for name, places in ships.items():
        mask = np.zeros((40, 50, 3), np.uint8)
        for place in places:
            mask[place] = (0, 255, 0)
        if name == "v":
            mask[20:25, 20:25] = (255, 0, 0)
        for kind, values, suffix in (("images", mask // 2, "jpg"), ("masks", mask, "png")):
            (tmp_path / "in" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(tmp_path / "in" / kind / f"{name}.{suffix}")
    return tmp_path / "in"


def test_components_touch_at_corners():
    mask = np.array([[1, 0, 0, 0, 1], [0, 1, 0, 0, 1], [0, 0, 0, 0, 1]], bool)
    assert centroids(mask).tolist() == [[0.5, 0.5], [1, 4]]
    assert centroids(np.zeros((3, 3), bool)).shape == (0, 2)


def test_points_lie_in_the_middle_of_ships(source: Path, tmp_path: Path):
    out = tmp_path / "out"
    for _ in range(2):  # what is there already is left as it is
        assert make(source, out) == 3
    with (out / "points.csv").open() as file:
        rows = list(csv.DictReader(file))
    want = [("a", 3.0, 14.5), ("a", 30.5, 0.5), ("v", 7.0, 9.0)]
    assert [(row["scene_id"], float(row["row"]), float(row["column"])) for row in rows] == want
    assert (out / "images/a.jpg").samefile(source / "images/a.jpg")
    data = PointsData(str(out), ["amplitude"], "^v", band_indexes=[1], image_size=32)
    data.setup("fit")
    assert data.objects.is_vessel.tolist() == [1, 1, 1]
    assert np.isnan(data.objects.is_fishing).all()
    assert np.isnan(data.objects.vessel_length_m).all()


def test_another_colour_is_asked_for(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch):
    monkeypatch.setattr("sys.argv", ["ship_points", str(source), str(tmp_path / "out"), "--color", "255", "0", "0"])
    assert main() == 0
    assert capsys.readouterr().out == f"1 points in {tmp_path / 'out/points.csv'}\n"
    assert "v,22.00,22.00,True" in (tmp_path / "out/points.csv").read_text()


def test_nothing_is_overwritten_or_left_out(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
):
    (tmp_path / "out/images").mkdir(parents=True)
    (tmp_path / "out/images/a.jpg").write_text("mine")
    with pytest.raises(OutputError, match=r"a\.jpg: is not .*; give a new folder"):
        make(source, tmp_path / "out")
    assert (tmp_path / "out/images/a.jpg").read_text() == "mine"
    (source / "masks/b.png").unlink()
    with pytest.raises(InputError, match=r"b\.jpg: no mask of this name"):
        make(source, tmp_path / "other")
    assert not (tmp_path / "other/points.csv").exists()
    monkeypatch.setattr("sys.argv", ["ship_points", str(tmp_path), str(tmp_path / "out")])
    assert main() == 3
    assert "DIR must hold images/ and masks/" in capsys.readouterr().err


def test_real_ships(shared_data: Path, tmp_path: Path):
    assert make(shared_data / "sar_ships", tmp_path) == 21
    options = yaml.safe_load((ROOT / "configs/ship_points.yaml").read_text())["data"]["init_args"]
    data = PointsData(**options | {"root": str(tmp_path)})
    data.setup("fit")
    counts = {split: sum(len(data.objects.scene(each.name)) for each in data.sources[split]) for split in data.sources}
    assert counts == {"train": 11, "validation": 3, "test": 7}
