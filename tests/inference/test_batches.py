"""Several images: what is done is not done again, and how images are named."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from small_inputs import noise, raster, save

from xt.cli.main import main
from xt.inference import views


@pytest.fixture
def batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for name in "abc":
        raster(tmp_path / "in" / f"{name}.tif", noise(1, 70, 70))
    save(tmp_path / "m", "point-detection", 1)
    return tmp_path


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    plain = views.encode

    def counted(model: Any, regions: Any) -> Any:
        calls.append(len(regions))
        return plain(model, regions)

    monkeypatch.setattr(views, "encode", counted)
    return calls


def predict(*more: str, images: tuple[str, ...] = ("in/a.tif", "in/b.tif", "in/c.tif"), out: str = "out") -> int:
    return main(["predict", *images, "-m", "m", "-o", out, *more])


def test_a_batch_goes_on_with_what_is_not_done(
    batch: Path, encoded: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    plain = views.encode

    def stop(*args: Any) -> Any:
        if len(encoded) == 3:
            raise KeyboardInterrupt
        return plain(*args)

    with monkeypatch.context() as patch:
        patch.setattr(views, "encode", stop)
        assert predict() == 130
    assert predict() == 0
    assert len(encoded) == 3 + 4  # the first image is done, the second began anew
    capsys.readouterr()
    assert predict("--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["image"] for line in lines] == ["in/a.tif", "in/b.tif", "in/c.tif"]
    assert len(encoded) == 7
    assert predict("--overwrite") == 0
    assert len(encoded) == 13


@pytest.mark.parametrize("change", ["input", "model", "option", "creation", "missing"])
def test_what_would_come_out_otherwise_is_not_taken_for_done(
    batch: Path, change: str, encoded: list[int], capsys: pytest.CaptureFixture[str]
):
    one = {"images": ("in/a.tif",), "out": "o.tif"}
    assert predict(**one) == 0
    assert predict(**one) == 0
    assert "o.tif: 4 regions, 0 points; done before, --overwrite makes it anew" in capsys.readouterr().out
    assert len(encoded) == 2
    more: list[str] = []
    if change == "input":
        os.utime("in/a.tif", (1, 1))
    elif change == "model":
        for path in (batch / "m").iterdir():
            path.unlink()
        save(batch / "m", "point-detection", 1, 256)
    elif change == "missing":
        (batch / "o.gpkg").unlink()
    else:
        more = ["--nodata", "7"] if change == "option" else ["--co", "COMPRESS=LZW"]
    before = (batch / "o.tif").stat().st_mtime_ns
    assert predict(*more, **one) == 2
    told = {
        "input": "o.tif exists, made before in/a.tif changed;",
        "model": 'o.csv exists, made with another model ("',
        "option": "o.csv exists, made with another nodata (null, now 7.0);",
        "creation": 'o.csv exists, made with another creation ({}, now {"COMPRESS": "LZW"});',
        "missing": "o.tif exists;",
    }[change]
    error = capsys.readouterr().err
    assert told in error
    assert error.endswith("; --overwrite replaces it\n")
    assert (batch / "o.tif").stat().st_mtime_ns == before
    assert len(encoded) == 2


def test_a_result_of_another_image_or_name_is_not_taken_for_done(batch: Path, capsys: pytest.CaptureFixture[str]):
    assert predict(images=("in/a.tif",), out="o.tif") == 0
    assert predict(images=("in/b.tif",), out="o.tif") == 2
    assert "o.tif exists, made of in/a.tif; --overwrite replaces it" in capsys.readouterr().err
    assert predict(images=("in/a.tif",), out="o.tiff") == 2
    assert "o.csv exists, part of the result o.tif; --overwrite replaces it" in capsys.readouterr().err
    assert not (batch / "o.tiff").exists()
    (batch / "o.report.json").write_text('{"input": [], "files": [], "result": 3}')
    assert predict(images=("in/a.tif",), out="o.tif") == 2
    assert "o.tif exists; --overwrite replaces it" in capsys.readouterr().err


def test_images_from_a_list_and_a_pattern(batch: Path, capsys: pytest.CaptureFixture[str]):
    (batch / "list.txt").write_text("# mine\nin/b.tif\n\nin/a.tif\n")
    assert predict(images=("@list.txt", "in/[ac]*.tif")) == 0
    assert sorted(path.name for path in (batch / "out").glob("*.tif")) == ["a.tif", "b.tif", "c.tif"]
    assert predict(images=("@none.txt",)) == 2
    assert "@none.txt: the list of images cannot be read" in capsys.readouterr().err
    (batch / "list.txt").write_text("\n")
    assert predict(images=("@list.txt",)) == 2
    assert "no image in the list" in capsys.readouterr().err
    for out in ("z.tif", "z"):
        assert predict(images=("in/z*.tif",), out=out) == 3
        assert "in/z*.tif: no such file" in capsys.readouterr().err
    (batch / "list.txt").write_text("in/b.tif\n")
    for one, out in (("@list.txt", "listed"), ("in/b*.tif", "matched")):
        assert predict(images=(one,), out=out) == 0
        assert [path.name for path in (batch / out).glob("*.tif")] == ["b.tif"]


def test_a_folder_of_images_is_answered_with_the_pattern_for_them(batch: Path, capsys: pytest.CaptureFixture[str]):
    assert predict(images=("in",), out="o.tif") == 3
    assert "and several images are 'in/*.tif'" in capsys.readouterr().err


def test_machines_share_images(batch: Path, capsys: pytest.CaptureFixture[str]):
    made = []
    for share in ("1/2", "2/2"):
        assert predict("--shard", share, "--json") == 0
        made.append([json.loads(line)["image"] for line in capsys.readouterr().out.splitlines()])
    assert made == [["in/a.tif", "in/c.tif"], ["in/b.tif"]]
    assert sorted(path.name for path in (batch / "out").glob("*.tif")) == ["a.tif", "b.tif", "c.tif"]
    assert predict("--shard", "5/5") == 0
    for wrong in ("0/2", "3/2", "2", "a/b"):
        assert predict("--shard", wrong) == 2
        assert "is no share such as 1/5 to 5/5" in capsys.readouterr().err


def test_a_list_holds_patterns_and_names_that_begin_with_a_hash(batch: Path):
    raster(batch / "#d.tif", noise(1, 70, 70))
    (batch / "list.txt").write_text("in/[ab].tif\n#d.tif\n./#d.tif\n", encoding="utf-8-sig")  # as Windows writes it
    assert predict(images=("@list.txt",)) == 0
    assert sorted(path.name for path in (batch / "out").glob("*.tif")) == ["#d.tif", "a.tif", "b.tif"]


def test_images_of_one_name_are_told_apart_by_their_folders(batch: Path, capsys: pytest.CaptureFixture[str]):
    for folder in ("more", "other/more"):
        (batch / folder).mkdir(parents=True)
        raster(batch / folder / "b.tif", noise(1, 70, 70))
    (batch / "b.tif").symlink_to("in/b.tif")
    assert predict(images=("in/a.tif", "in/b.tif", "more/b.tif", "b.tif")) == 0
    made = sorted(path.name for path in (batch / "out").glob("*.tif"))
    assert made == ["a.tif", "b.tif", "in_b.tif", "more_b.tif"]
    assert predict(images=("more/b.tif", "other/more/b.tif")) == 2
    assert "more/b.tif and other/more/b.tif have the same name; predict" in capsys.readouterr().err
    assert main(["features", "in/a.tif", "in/b.tif", "more/b.tif", "-m", "m", "-o", "t"]) == 2
    assert "in/b.tif and more/b.tif have the same name; give" in capsys.readouterr().err


LATIN1 = os.fsdecode(b"in/\xe4d.tif")


@pytest.mark.parametrize("given", ["name", "pattern", "list"])
def test_a_name_that_is_not_utf8_stops_no_other(batch: Path, given: str, capsys: pytest.CaptureFixture[str]):
    raster(batch / "in" / "good.tif", noise(1, 70, 70)).rename(LATIN1)
    raster(batch / "in" / "z.tif", noise(1, 70, 70))
    (batch / "list.txt").write_bytes(b"in/\xe4d.tif\nin/z.tif\n")
    images = {"name": (LATIN1, "in/z.tif"), "pattern": ("in/*d.tif", "in/z.tif"), "list": ("@list.txt",)}[given]
    for _ in range(2):  # a folder that is new, and one that is there
        assert predict(images=images) == 3
        error = capsys.readouterr().err.splitlines()[0]
        assert error == "xt: error: in/\\udce4d.tif: the name is not UTF-8, which GDAL does not take; rename it"
        assert sorted(path.name for path in (batch / "out").glob("*.tif")) == ["z.tif"]
    assert main(["info", LATIN1, "in/z.tif", "--json"]) == 3
    told = capsys.readouterr()
    assert (json.loads(told.out)["path"], told.err) == ("in/z.tif", f"{error}\n")
    assert main(["features", *images, "-m", "m", "-o", "tokens"]) == 3
    assert error in capsys.readouterr().err
    assert (batch / "tokens" / "z.npy").exists()


def test_an_output_that_is_not_utf8_is_refused(batch: Path, capsys: pytest.CaptureFixture[str]):
    for out in (os.fsdecode(b"\xe4.tif"), os.fsdecode(b"\xe4")):
        if not out.endswith(".tif"):
            (batch / out).mkdir()
        assert predict(images=("in/a.tif",), out=out) == 2
        assert "\\udce4" in capsys.readouterr().err.replace("\udce4", "\\udce4")
    assert main(["vectorize", "in/a.tif", "-o", os.fsdecode(b"\xe4.gpkg")]) == 2
    assert "the name is not UTF-8" in capsys.readouterr().err


def test_a_list_that_is_no_text_is_refused(batch: Path, capsys: pytest.CaptureFixture[str]):
    assert predict(images=("@in/a.tif",)) == 2
    assert "@in/a.tif: the list of images is no text" in capsys.readouterr().err
