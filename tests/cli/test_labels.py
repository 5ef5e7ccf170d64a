"""Which labels can be read without the images on which they lie."""

from pathlib import Path

import pytest

from xt.cli.labels import name_pixels


@pytest.mark.parametrize(
    ("name", "header", "wanted"),
    [
        ("l.csv", "scene_id,row,column", True),
        ("l.CSV", "class,detect_scene_row,detect_scene_column,scene_id", True),
        ("l.csv", "row,column", False),
        ("l.csv", "scene_id,row,x,y", False),
        ("l.csv", "scene_id,row,detect_scene_column,x,y", False),
        ("l.geojson", "scene_id,row,column", False),
    ],
)
def test_a_table_that_names_scene_row_and_column_needs_no_images(tmp_path: Path, name: str, header: str, wanted: bool):
    (tmp_path / name).write_text(f"{header}\n")
    assert name_pixels(tmp_path / name) == wanted
    (tmp_path / "folder.csv").mkdir()
    assert not name_pixels(tmp_path / "folder.csv")
