from pathlib import Path

import numpy as np
import pytest

from xt.data.labels import LabelTable, read_labels
from xt.data.predictions import read_predictions, write_predictions
from xt.errors import LabelError

HEADER = "detect_scene_row,detect_scene_column,scene_id,is_vessel,is_fishing,vessel_length_m,distance_from_shore_km,confidence"


def labels(tmp_path: Path, *rows: str, header: str = HEADER) -> Path:
    path = tmp_path / "labels.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_blanks_and_flags(tmp_path: Path):
    table = read_labels(labels(tmp_path, "1,2,a,True,,12.5,9999.99,HIGH", "3,4,b,0.0,false,,,low"))
    assert table.is_vessel.tolist() == [1, 0]
    assert np.isnan(table.is_fishing[0])
    assert np.isnan(table.vessel_length_m[1])
    assert table.distance_from_shore_km.tolist() == [9999.99, 9999.99]
    assert table.confidence.tolist() == ["HIGH", "LOW"]
    assert table.scenes == ["a", "b"]
    assert len(table.scene("a")) == 1


def test_points_of_ones_own_are_labels(tmp_path: Path):
    table = read_labels(
        labels(tmp_path, "a,1.5,-0.25,True,,mine", "b,3,4,,low,", header="scene_id,row,column,is_vessel,confidence,x")
    )
    assert (table.row.tolist(), table.column.tolist(), table.scenes) == ([1.5, 3], [-0.25, 4], ["a", "b"])
    assert table.confidence.tolist() == ["HIGH", "LOW"]
    assert table.is_vessel[0] == 1
    assert np.isnan([table.is_vessel[1], *table.vessel_length_m]).all()
    with pytest.raises(LabelError, match="no column 'scene_id'"):
        read_labels(labels(tmp_path, "1,2", header="row,column"))
    with pytest.raises(LabelError, match="line 2: row '-1' is not a number"):
        read_labels(labels(tmp_path, "a,-1,2", header="scene_id,row,column"))


def test_what_a_spreadsheet_puts_before_the_first_column_is_no_part_of_its_name(tmp_path: Path):
    path = labels(tmp_path, "1,2,a,True,,12.5,9999.99,HIGH")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_labels(path).row.tolist() == [1]


def test_no_rows_is_legal(tmp_path: Path):
    assert len(read_labels(labels(tmp_path))) == 0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("x,2,a,True,,1,1,HIGH", "line 3: detect_scene_row"),
        ("-1,2,a,True,,1,1,HIGH", "line 3: detect_scene_row '-1' is not a number ≥ 0"),
        ("nan,2,a,True,,1,1,HIGH", "line 3: detect_scene_row is empty"),
        ("inf,2,a,True,,1,1,HIGH", "line 3: detect_scene_row 'inf'"),
        ("1,2,,True,,1,1,HIGH", "line 3: scene_id is empty"),
        ("1,2,a,maybe,,1,1,HIGH", "line 3: is_vessel 'maybe' is not True"),
        ("1,2,a,True,,-4,1,HIGH", "line 3: vessel_length_m '-4'"),
        ("1,2,a,True,,4,1,SURE", "line 3: confidence 'SURE'"),
        ("1,2,a", "line 3: too few columns"),
    ],
)
def test_bad_rows_are_named_and_can_be_dropped(tmp_path: Path, row: str, message: str):
    path = labels(tmp_path, "1,2,a,True,,1,1,HIGH", row)
    with pytest.raises(LabelError, match=message):
        read_labels(path)
    assert len(read_labels(path, drop_bad=True)) == 1


def test_at_most_twenty_lines_are_listed(tmp_path: Path):
    path = labels(tmp_path, *["x,2,a,True,,1,1,HIGH"] * 30)
    with pytest.raises(LabelError, match=r"30 bad rows .* drop them \(--drop-bad-labels; data.drop_bad") as error:
        read_labels(path)
    assert str(error.value).count("line ") == 20
    assert "line 20, line 21 and more: detect_scene_row 'x' is no number)" in str(error.value)
    path = labels(tmp_path, *["x,2,a,True,,1,1,HIGH", "1,y,a,True,,1,1,HIGH"] * 2, "z,2,a,True,,1,1,HIGH")
    with pytest.raises(LabelError) as error:
        read_labels(path)
    listed = "line 2, line 4: detect_scene_row 'x' is no number; line 3, line 5: detect_scene_column 'y' is no number"
    assert f"5 bad rows ({listed}; line 6: detect_scene_row 'z' is no number)" in str(error.value)


def test_a_column_that_stands_twice_is_refused(tmp_path: Path):
    path = labels(tmp_path, "1,2,a,True,,1,1,HIGH,,", header=f"{HEADER},,")
    assert len(read_labels(path)) == 1
    with pytest.raises(LabelError, match=r"column 'confidence' stands twice; keep one of them"):
        read_labels(labels(tmp_path, "1,2,a,True,,1,1,HIGH,LOW", header=f"{HEADER},confidence"))


def test_missing_column_and_file(tmp_path: Path):
    with pytest.raises(LabelError, match="no column 'confidence'; did you mean 'confidenc'"):
        read_labels(labels(tmp_path, header=HEADER[:-1]))
    with pytest.raises(LabelError, match="no such file"):
        read_labels(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(LabelError, match="cannot be read as CSV"):
        read_labels(tmp_path / "binary.csv")


def test_predictions_round_trip(tmp_path: Path):
    table = LabelTable.build(
        2, row=[1.5, 2], column=[3, 4], scene_id=["s", "t"], is_vessel=[1, 0], is_fishing=[0, np.nan],
        vessel_length_m=[10.25, np.nan], score=[200, 101.5],
    )  # fmt: skip
    write_predictions(tmp_path / "p.csv", table)
    back = read_predictions(tmp_path / "p.csv")
    for name in ("row", "column", "is_vessel", "is_fishing", "vessel_length_m", "score"):
        np.testing.assert_array_equal(getattr(back, name), getattr(table, name))
    assert back.scene_id.tolist() == ["s", "t"]
    assert [p.name for p in tmp_path.iterdir()] == ["p.csv"]


def test_json_is_no_csv(tmp_path: Path):
    for read, name in ((read_labels, "points.geojson"), (read_predictions, "points.csv")):
        path = tmp_path / name
        path.write_text('{"type": "FeatureCollection", "features": []}')
        with pytest.raises(LabelError, match=rf"{name}: cannot be read as CSV \(it is JSON\)"):
            read(path)


@pytest.mark.parametrize("name", ["s1.gpkg", "s1.GeoJSON"])
def test_what_was_found_is_read_from_the_table_beside_the_layer(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(b"SQLite format 3\0\xa0")
    with pytest.raises(LabelError, match=r"is read from CSV; give s1\.csv, which xt predict writes beside it"):
        read_predictions(tmp_path / name)
