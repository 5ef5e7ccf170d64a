"""Encode once, train the context on tokens, then tune all parts: ``xt features``, ``TokenDetection``, ``init_from``."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import yaml

from xt.cli.main import main
from xt.data.scene_tokens import TokenFacts, open_tokens, read_facts
from xt.data.synthetic.scenes import COLUMNS
from xt.files import locked
from xt.inference import features
from xt.models.checkpoint import encoder_sha256, load_model, save_model
from xt.models.factory import build_from_spec
from xt.models.metadata import ModelMetadata
from xt.tasks.detection import PointDetection

ROOT = Path(__file__).parents[2]
ENCODER = {
    "name": "convnext_atto",
    "region_size": 64,
    "model_args": {"dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1]},
    "norm": True,
}
PARTS = {
    "region_encoder": {"class_path": "TimmFeatures", "init_args": ENCODER},
    "context": {"class_path": "Identity"},
    "context_dim": 16,
    "decoder": {"class_path": "UNet", "init_args": {"filters": [8, 8, 8], "out_stride": 4}},
    "region_batch": 3,
    "decode_size": 128,
    "streaming": True,
}


def model_folder(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    metadata = ModelMetadata(
        "point-detection", ("VV_dB", "VH_dB"), (-16.4, -26.3), (5.0, 5.0), nodata=-32768.0, image_size=128
    )
    encoder = {"class_path": "TimmFeatures", "init_args": ENCODER | {"in_chans": 2}}
    heads = PointDetection().heads
    save_model(folder, build_from_spec(PARTS | {"region_encoder": encoder, "heads": heads}), metadata)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "model")


def scene(path: Path, rows: int = 150, cols: int = 200) -> Path:
    values = np.random.default_rng(0).normal(-20, 5, (2, rows, cols)).astype(np.float32)
    values[:, :, 128:] = -32768  # the third column of regions and the fourth hold nothing
    values[:, 70:80, 190:] = -10  # but for two of them
    profile = {"driver": "GTiff", "count": 2, "height": rows, "width": cols, "dtype": "float32", "nodata": -32768}
    with rasterio.open(path, "w", **profile) as out:
        out.write(values)
    return path


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


def planted(folder: Path, model: Path) -> None:
    """Tokens of 256-px scenes: in half of them one far cell has a mark, and then the vessels there fish."""
    loaded, metadata = load_model(model)
    digest = encoder_sha256(loaded, metadata)
    for split, num in (("train", 48), ("validation", 16), ("test", 16)):
        (folder / split).mkdir(parents=True)
        rows = []
        for index in range(num):
            rng = np.random.default_rng((index, num))
            tokens = rng.normal(0, 0.3, (16, 8, 8)).astype(np.float16)
            fishing = index % 2 == 0
            if fishing:
                tokens[:8, rng.integers(8), rng.integers(4)] = 3
            name = f"{split[0]}{index}"
            facts = TokenFacts(name, 256, 256, 64, 32, 16, (True,) * 16, digest, metadata.to_dict())
            np.save(folder / split / f"{name}.npy", tokens)
            (folder / split / f"{name}.json").write_text(facts.to_json())
            for row in rng.choice(8, 3, replace=False):
                given = {"detect_scene_row": row * 32 + 5, "detect_scene_column": 6 * 32 + 9, "is_vessel": True,
                         "is_fishing": fishing, "scene_id": name, "confidence": "HIGH"}  # fmt: skip
                rows.append([str(given.get(column, "")) for column in COLUMNS])
        with (folder / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])


def context_argv(folder: Path, model: Path, context: str) -> list[str]:
    """The shipped config, for tiny tokens."""
    tokens = str(folder / "tokens")
    argv = ["train", str(ROOT / "configs/xview3_demo_context.yaml"), "--model.init_from", str(model)]
    encoder = json.dumps({"class_path": "TimmFeatures", "init_args": ENCODER})
    argv += ["--model.model.region_encoder", encoder, "--model.model.context", context]
    argv += ["--model.model.decoder", json.dumps(PARTS["decoder"])]
    argv += ["--model.model.context_dim", "32", "--model.lr", "0.004", "--model.warmup_steps", "5"]
    argv += ["--data.root", tokens, "--data.labels", tokens, "--data.batch_size", "16"]
    return [
        *argv,
        "--trainer.max_epochs",
        "40",
        "--trainer.check_val_every_n_epoch",
        "20",
        "--trainer.enable_progress_bar",
        "false",
    ]


def test_context_learns_a_far_rule_from_tokens_and_the_control_cannot(tmp_path: Path, model: Path):
    planted(tmp_path / "tokens", model)
    f1 = {}
    for name, init_args in (("FullAttention", "{depth: 1, head_dim: 16}"), ("Identity", "{}")):
        context = f"{{class_path: {name}, init_args: {init_args}}}"
        run = tmp_path / name
        assert main([*context_argv(tmp_path, model, context), "--run_dir", str(run)]) == 0
        assert main(["eval", str(run)]) == 0
        measured = json.loads((run / "validation.json").read_text())
        assert measured["val/fishing_f1"] == pytest.approx(best(run, "val/fishing_f1"), abs=1e-6)
        assert main(["eval", str(run), "--split", "test"]) == 0
        scores = json.loads((run / "test.json").read_text())
        f1[name] = scores["test/fishing_f1"]
        assert scores["test/all_fishing_f1"] == pytest.approx(2 / 3)
    assert f1["FullAttention"] > 0.95
    assert f1["Identity"] < 0.75
    trained, base = (load_model(folder)[0] for folder in (tmp_path / "FullAttention", model))
    assert trained.spec()["context"]["class_path"] == "FullAttention"
    for part in ("region_encoder", "decoder", "heads"):
        ours, theirs = getattr(trained, part).state_dict(), getattr(base, part).state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    image = scene(tmp_path / "a.tif")
    assert main(["predict", str(image), "-m", str(tmp_path / "FullAttention"), "-o", str(tmp_path / "p.tif")]) == 0


def best(run: Path, name: str) -> float:
    """The highest value of a score in a run."""
    with (run / "metrics.csv").open() as file:
        return max(float(row["value"]) for row in csv.DictReader(file) if row["name"] == name)


def test_the_head_that_reads_tokens_is_kept_and_asked_for(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
):
    planted(tmp_path / "tokens", model)
    run = tmp_path / "run"
    argv = [
        *context_argv(tmp_path, model, "Identity"),
        "--trainer.max_epochs",
        "1",
        "--trainer.check_val_every_n_epoch",
        "1",
    ]
    assert main([*argv, "--run_dir", str(run)]) == 0
    head, config = run / "model" / "training.safetensors", run / "model" / "config.json"
    assert main(["eval", str(run)]) == 0
    content = head.read_bytes()
    head.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert main(["eval", str(run)]) == 2
    assert "training.safetensors is damaged" in capsys.readouterr().err
    assert main(["predict", str(scene(tmp_path / "a.tif")), "-m", str(run), "-o", str(tmp_path / "o.tif")]) == 0
    head.unlink()
    values = json.loads(config.read_text())
    del values["training_sha256"]
    config.write_text(json.dumps(values))
    assert main(["eval", str(run)]) == 2
    assert "beside the model (nothing) is not what the config has (token_loss.head.bias" in capsys.readouterr().err
    assert main([*argv, "--run_dir", str(run), "--fresh"]) == 0


def test_tokens_of_another_model_are_refused(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]):
    planted(tmp_path / "tokens", model)
    other = model_folder(tmp_path / "other", seed=1)
    assert main([*context_argv(tmp_path, other, "Identity"), "--run_dir", str(tmp_path / "run")]) == 2
    assert "of another model than init_from" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_training_starts_from_the_parts_of_a_saved_model(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["synth", "xview3", str(tmp_path / "data"), "--scenes", "3", "--size", "130"]) == 0
    parts = {key: value for key, value in PARTS.items() if key != "heads"}
    values = {
        "seed_everything": 1,
        "trainer": {"accelerator": "cpu", "max_steps": 1, "enable_progress_bar": False},
        "model": {"task": "PointDetection", "model": parts, "lr": 1e-12, "init_from": str(model)},
        "data": {"class_path": "XView3Data", "init_args": {"root": str(tmp_path / "data"), "image_size": 128}},
    }  # fmt: skip
    path = tmp_path / "tune.yaml"
    path.write_text(yaml.safe_dump(values))
    for parts_taken, same in ((None, ["region_encoder", "decoder", "heads"]), ('["decoder"]', ["decoder"])):
        run = tmp_path / f"run{len(same)}"
        more = [] if parts_taken is None else ["--model.init_parts", parts_taken]
        assert main(["train", str(path), "--run_dir", str(run), *more]) == 0
        ours, theirs = load_model(run)[0], load_model(model)[0]
        for part in ("region_encoder", "decoder", "heads"):
            pairs = zip(getattr(ours, part).parameters(), getattr(theirs, part).parameters(), strict=True)
            assert all(torch.allclose(a, b, atol=1e-9) for a, b in pairs) == (part in same), part
    fast = ["--model.lr", "0.01", "--model.warmup_steps", "0", "--model.train_parts", '["decoder"]']
    assert main(["train", str(path), "--run_dir", str(tmp_path / "some"), *fast]) == 0
    some, theirs = load_model(tmp_path / "some")[0], load_model(model)[0]
    for part in ("region_encoder", "decoder", "heads"):
        pairs = zip(getattr(some, part).parameters(), getattr(theirs, part).parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs) == (part != "decoder"), part
    argv = [
        "train",
        str(path),
        "--run_dir",
        str(tmp_path / "no"),
        "--model.model.decoder.init_args.filters",
        "[8, 8, 16]",
    ]
    assert main(argv) == 2
    assert "model: decoder does not fit" in capsys.readouterr().err
    assert main(["train", str(path), "--run_dir", str(tmp_path / "no"), "--model.init_parts", '["decodr"]']) == 2
    assert "no part 'decodr'; did you mean 'decoder'" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
