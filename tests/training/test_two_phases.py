"""Encode once, train the context on tokens, then tune all parts: ``xt features``, ``TokenDetection``, ``init_from``."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from token_parts import ENCODER, PARTS, model_folder, scene

from xt.cli.main import main
from xt.data.scene_tokens import TokenFacts
from xt.data.synthetic.scenes import COLUMNS
from xt.models.checkpoint import encoder_sha256, load_model

ROOT = Path(__file__).parents[2]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "model")


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
