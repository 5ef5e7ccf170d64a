"""``xt features``: tokens of whole images on disk."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from token_parts import model_folder, scene

from xt.cli.main import main
from xt.data.scene_tokens import open_tokens, read_facts
from xt.files import locked
from xt.inference import features
from xt.models.checkpoint import load_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "model")


def test_tokens_are_those_that_the_model_gives_its_context(tmp_path: Path, model: Path):
    image = scene(tmp_path / "a.tif")
    assert main(["features", str(image), "-m", str(model), "-o", str(tmp_path / "out")]) == 0
    facts = read_facts(tmp_path / "out" / "a.json")
    tokens = open_tokens(tmp_path / "out" / "a.npy", facts)
    assert facts.exists == (True, True, False, False, True, True, True, True, True, True, False, False)
    loaded, metadata = load_model(model)
    with rasterio.open(image) as dataset:
        values, valid = dataset.read(), dataset.dataset_mask() > 0
    mean, std = (np.array(each)[:, None, None] for each in (metadata.mean, metadata.std))
    pixels = torch.from_numpy(np.where(valid, (values - mean) / std, 0).astype(np.float32))[None]
    seen = []
    loaded.context.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    with torch.no_grad():
        loaded(pixels, torch.from_numpy(valid)[None, None])
    torch.testing.assert_close(torch.from_numpy(np.array(tokens)).float(), seen[0][0], rtol=2e-3, atol=2e-3)


def test_bands_and_the_value_of_missing_pixels_are_those_that_are_given(tmp_path: Path, model: Path):
    with rasterio.open(scene(tmp_path / "a.tif")) as image:
        values, profile = image.read(), {**image.profile, "count": 3, "nodata": None}
    values[values == -32768] = 7
    with rasterio.open(tmp_path / "b.tif", "w", **profile) as out:
        out.write(np.stack([values[1], np.full_like(values[0], 5), values[0]]))
    more, found = {"a": [], "b": ["--bands", "3,1", "--nodata", "7"]}, []
    for name, options in more.items():
        image, out = tmp_path / f"{name}.tif", tmp_path / "out"
        assert main(["features", str(image), "-m", str(model), "-o", str(out), *options]) == 0
        facts = read_facts(out / f"{name}.json")
        found.append((facts.exists, np.array(open_tokens(out / f"{name}.npy", facts))))
    assert found[0][0] == found[1][0]
    np.testing.assert_array_equal(found[0][1], found[1][1])


def test_only_a_few_regions_are_read_at_a_time(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch):
    sizes, batches = [], []
    read, encode = features.Source.read, features._last_maps
    monkeypatch.setattr(
        features.Source, "read", lambda self, window: sizes.append((window.height, window.width)) or read(self, window)
    )
    monkeypatch.setattr(features, "_last_maps", lambda m, pixels: batches.append(len(pixels)) or encode(m, pixels))
    assert main(["features", str(scene(tmp_path / "a.tif")), "-m", str(model), "-o", str(tmp_path / "out")]) == 0
    assert len(sizes) == 12
    assert max(sizes) == (64, 64)
    assert sum(batches) == 8
    assert max(batches) <= 3


def test_an_image_that_changes_meanwhile_gives_no_tokens(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    image, encode = scene(tmp_path / "a.tif"), features._last_maps
    monkeypatch.setattr(features, "_last_maps", lambda *given: os.utime(image, (1, 1)) or encode(*given))
    assert main(["features", str(image), "-m", str(model), "-o", str(tmp_path / "out")]) != 0
    assert "a.tif: has changed while it was read" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*"))


def test_done_images_are_kept_and_another_model_is_refused(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
):
    for name in "ab":
        scene(tmp_path / f"{name}.tif")
    out = tmp_path / "out"
    (tmp_path / "list").write_text(f"{tmp_path / 'none.tif'}\n{tmp_path / 'b.tif'}\n")
    argv = ["features", str(tmp_path / "[ab].tif"), f"@{tmp_path / 'list'}", "-o", str(out), "-m"]
    assert main([*argv, str(model)]) == 3
    assert "none.tif: no such file" in capsys.readouterr().err
    assert sorted(path.name for path in out.iterdir()) == ["a.json", "a.npy", "b.json", "b.npy"]
    (out / "b.npy").unlink()
    before = (out / "a.npy").stat().st_mtime_ns
    assert main([*argv, str(model)]) == 3
    assert (out / "a.npy").stat().st_mtime_ns == before
    assert (out / "b.npy").exists()
    other = model_folder(tmp_path / "other", seed=1)
    assert main([*argv, str(other)]) == 2
    assert "tokens of another model" in capsys.readouterr().err
    assert (out / "a.npy").stat().st_mtime_ns == before
    assert main([*argv, str(other), "--overwrite"]) == 3
    assert (out / "a.npy").stat().st_mtime_ns != before


def test_two_images_of_one_name_are_refused(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]):
    images = [tmp_path / name / "a.tif" for name in ("one", "other")]
    for image in images:
        image.parent.mkdir()
        scene(image)
    assert main(["features", *map(str, images), "-m", str(model), "-o", str(tmp_path / "out")]) == 2
    told = f"{images[0]} and {images[1]} have the same name; give them different output folders"
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_tokens_in_bf16_are_not_mixed(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]):
    argv, found = ["features", str(scene(tmp_path / "a.tif")), "-m", str(model), "-o"], {}
    for name in ("fp32", "bf16"):
        assert main([*argv, str(tmp_path / name), "--precision", name]) == 0
        facts = read_facts(tmp_path / name / "a.json")
        assert facts.precision == name
        found[name] = np.asarray(open_tokens(tmp_path / name / "a.npy", facts), np.float32)
    assert 1e-3 < (found["bf16"] - found["fp32"]).std() / found["fp32"].std() < 0.05
    assert main([*argv, str(tmp_path / "bf16")]) == 2
    assert "tokens of precision bf16; --overwrite replaces them" in capsys.readouterr().err
    assert main([*argv, str(tmp_path / "bf16"), "--overwrite"]) == 0
    assert read_facts(tmp_path / "bf16" / "a.json").precision == "fp32"


def test_tokens_that_another_run_writes_are_left_to_it(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]):
    image, out = scene(tmp_path / "a.tif"), tmp_path / "out"
    out.mkdir()
    with locked(out / "a.json"):
        assert main(["features", str(image), "-m", str(model), "-o", str(out)]) == 2
    assert "a.json is being written by process" in capsys.readouterr().err
    assert not (out / "a.npy").exists()


def test_a_kill_leaves_no_half_file(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch):
    image = scene(tmp_path / "a.tif")

    def die(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(features, "_last_maps", die)
        assert main(["features", str(image), "-m", str(model), "-o", str(tmp_path / "out")]) == 130
    assert not [path for path in (tmp_path / "out").glob("*") if path.name.startswith("a")]
    assert main(["features", str(image), "-m", str(model), "-o", str(tmp_path / "out")]) == 0


def test_tokens_of_what_an_image_was_are_refused(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]):
    image, out = scene(tmp_path / "a.tif"), tmp_path / "out"
    argv = ["features", str(image), str(scene(tmp_path / "b.tif")), "-m", str(model), "-o", str(out)]
    assert main(argv) == 0
    assert capsys.readouterr().out == f"{out}: tokens of 2 images\n"
    assert main(argv) == 0
    assert capsys.readouterr().out == f"{out}: tokens of 2 images (2 of them made before)\n"
    before = [(out / f"{name}.npy").stat().st_mtime_ns for name in "ab"]
    told = f"a.tif: not as it was when {out / 'a.npy'} was made, or read with other --bands or --nodata; --overwrite"
    for option in (["--nodata", "3"], ["--bands", "2,1"]):
        assert main([*argv, *option]) == 3
        assert told in capsys.readouterr().err
    os.utime(image, (1, 1))
    assert main(argv) == 3
    error = capsys.readouterr()
    assert told in error.err
    assert "b.tif" not in error.err
    assert [(out / f"{name}.npy").stat().st_mtime_ns for name in "ab"] == before
    assert main([*argv, "--overwrite"]) == 0
    moved = tmp_path / "elsewhere" / "a.tif"
    moved.parent.mkdir()
    image.rename(moved)
    assert main(["features", str(moved), "-m", str(model), "-o", str(out)]) == 0
    values = (out / "a.npy").read_bytes()
    (out / "a.npy").write_bytes(values[:-100])
    assert main(["features", str(moved), "-m", str(model), "-o", str(out)]) == 3
    assert "a.npy cannot be read" in capsys.readouterr().err


def test_tokens_of_before_images_were_told_apart_are_kept(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    argv = ["features", str(scene(tmp_path / "a.tif")), "-m", str(model), "-o", str(out)]
    assert main(argv) == 0
    facts = json.loads((out / "a.json").read_text())
    assert [name for name, *_ in facts.pop("source")["files"]] == ["a.tif"]
    (out / "a.json").write_text(json.dumps(facts))
    capsys.readouterr()
    assert main(argv) == 0
    assert capsys.readouterr().out == f"{out}: tokens of 1 images (1 of them made before)\n"


def test_a_full_disk_is_told_before_the_work(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    taken: list[int] = []

    def full(handle: int, offset: int, size: int) -> None:
        taken.append(size)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    argv = ["features", str(scene(tmp_path / "a.tif")), "-m", str(model), "-o", str(tmp_path / "out")]
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "a.npy cannot be used: No space left on device (it needs 1 MiB," in error
    assert taken[0] >= 16 * 6 * 8 * 2
    assert not list((tmp_path / "out").glob(".*"))


def test_what_a_killed_run_left_is_removed(tmp_path: Path, model: Path):
    out = tmp_path / "out"
    out.mkdir()
    left = [out / f".a{suffix}.0123456789abcdef.partial{suffix}" for suffix in (".npy", ".json")]
    for each in left:
        each.write_text("half")
    other = out / ".b.npy.0123456789abcdef.partial.npy"
    other.write_text("of another run")
    assert main(["features", str(scene(tmp_path / "a.tif")), "-m", str(model), "-o", str(out)]) == 0
    assert not [each for each in left if each.exists()]
    assert other.exists()
