from pathlib import Path

import numpy as np
import pytest
from rasters import GRID, UTM, write

from xt.data.xview3 import XView3Data
from xt.errors import ConfigError, LabelError

HEADER = "detect_scene_row,detect_scene_column,scene_id,is_vessel,is_fishing,vessel_length_m,distance_from_shore_km,confidence\n"


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    """Bright pixels where the objects are, on a sea of one value: 3 fishing vessels, another vessel, another object."""
    rng = np.random.default_rng(4)
    rows = HEADER
    for split in ("train", "validation"):
        image = np.full((150, 170), -20, np.float32)
        for index, (vessel, fishing) in enumerate([("True", "True")] * 3 + [("True", "False"), ("False", "")]):
            row, col = 20 + 25 * index, int(rng.integers(15, 150))
            image[row, col] = 0
            rows += f"{row},{col},{split[:1]},{vessel},{fishing},{40 if vessel == 'True' else ''},5,HIGH\n"
        for band in ("VV_dB", "VH_dB"):
            write(tmp_path / split / split[:1] / f"{band}.tif", image, crs=UTM, transform=GRID)
        (tmp_path / f"{split}.csv").write_text(rows)
    return tmp_path


def bright(image: np.ndarray) -> set[tuple[int, int]]:
    return set(map(tuple, np.argwhere(image == image.max()).tolist()))


def test_targets_turn_with_the_image(objects: Path):
    data = XView3Data(str(objects), image_size=64, crops_per_scene=60, centred=0.9)
    data.setup("fit")
    turned = set()
    for index in range(60):
        sample = data.datasets["train"][0, index]
        points = sample["points"]
        if not len(points):
            continue
        peaks = set(map(tuple, np.argwhere(sample["targets"]["center"][0] == 255).tolist()))
        assert peaks == bright(sample["image"][0])
        here = np.stack([points.row, points.column], 1) - sample["origin"]
        plain = set(map(tuple, here.astype(int).tolist()))
        # Points stay in the scene's pixels; the image may be turned by 180 degrees.
        assert peaks in (plain, {(63 - row, 63 - col) for row, col in plain})
        if peaks != {(63 - row, 63 - col) for row, col in plain}:
            turned.add(False)
        elif peaks != plain:
            turned.add(True)
        for row, col in peaks:
            assert sample["targets"]["vessel"][0, row, col] in (0, 1)
    assert turned == {True, False}


def test_whole_scenes_are_covered_and_not_turned(objects: Path):
    data = XView3Data(str(objects), image_size=64)
    data.setup("fit")
    found = set()
    for index in range(len(data.datasets["validation"])):
        sample = data.datasets["validation"][0, index]
        points = np.stack([sample["points"].row, sample["points"].column], 1)
        peaks = np.argwhere(sample["targets"]["center"][0] == 255) + sample["origin"]
        assert set(map(tuple, peaks.tolist())) == set(map(tuple, points.astype(int).tolist()))
        found |= set(map(tuple, peaks.tolist()))
    assert len(found) == 5


def test_a_radar_band_gives_the_grid(objects: Path):
    with pytest.raises(ConfigError, match="one of VV_dB, VH_dB is needed"):
        XView3Data(str(objects), bands=("bathymetry",))
    with pytest.raises(ConfigError, match="no band 'VV_db'; did you mean 'VV_dB'"):
        XView3Data(str(objects), bands=("VV_db",))
    assert XView3Data(str(objects), bands=("owiMask", "VH_dB")).coarse == ("owiMask",)


def test_scenes_of_one_folder_are_shared_out_by_the_labels(tmp_path: Path):
    for name in "abcd":
        write(tmp_path / name / "VH_dB.tif", np.full((20, 30), -20, np.float32), crs=UTM, transform=GRID)
    for split, names in (("train", "cab"), ("validation", "d")):
        rows = "".join(f"3,4,{name},True,True,40,5,HIGH\n" for name in names)
        (tmp_path / f"{split}.csv").write_text(HEADER + rows)

    def scenes(split: str, **options: int) -> list[str]:
        data = XView3Data(str(tmp_path), image_size=16, bands=("VH_dB",), **options)
        data.setup("fit")
        return [reader.name for reader in data.datasets[split].readers]

    assert (scenes("train"), scenes("validation")) == (["a", "b", "c"], ["d"])
    assert scenes("train", limit_scenes=2) == ["a", "b"]


def test_labels_of_other_scenes_are_refused(objects: Path):
    labels = objects / "train.csv"
    labels.write_text(labels.read_text().replace(",t,", ",T,"))
    with pytest.raises(LabelError, match=r"train\.csv: none of its 5 objects .*'T' is the name of none, 't' is one"):
        XView3Data(str(objects), image_size=64).setup("fit")
