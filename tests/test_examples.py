"""The example package: installed, it keeps the contract, is trained and predicted with, and a broken one beside it harms none."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from xt.cli.main import main

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples/fading"
COMMANDS = """
import contextlib, io, json, sys
from xt.cli.main import main
for command in sys.argv[1:]:
    with contextlib.redirect_stderr(io.StringIO()) as error, contextlib.redirect_stdout(io.StringIO()) as out:
        code = main(command.split())
    print(json.dumps([code, error.getvalue(), out.getvalue()]))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example installed by pip, and a package whose encoder cannot be imported."""
    folder = tmp_path_factory.mktemp("example")
    shutil.copytree(EXAMPLE, folder / "source")  # a build leaves files beside what it builds
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(folder / "site"), str(folder / "source")], check=True)
    broken = folder / "site/broken-0.1.dist-info"
    broken.mkdir()
    (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 0.1\n")
    (broken / "entry_points.txt").write_text("[xt.context_encoders]\nBroken = broken_context:Broken\n")
    return folder


def environment(installed: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(installed / "site"), *sys.path]), "OMP_NUM_THREADS": "1"}


def config(folder: Path) -> Path:
    values = yaml.safe_load((ROOT / "configs/xview3_demo.yaml").read_text())
    model = values["model"]["model"]
    model["context"] = {"class_path": "FadingMeans", "init_args": {"longest": 100.0}}
    model["region_encoder"]["init_args"]["model_args"] = {"dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
    model["decoder"]["init_args"]["filters"] = [8, 8, 8, 8]
    values["trainer"] |= {"max_steps": 1, "limit_val_batches": 1, "enable_progress_bar": False}
    values["data"]["init_args"] |= {"root": str(folder / "data"), "image_size": 64, "batch_size": 1}
    path = folder / "fading.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_it_is_listed_trained_and_predicted_with(installed: Path, tmp_path: Path):
    assert main(["synth", "xview3", str(tmp_path / "data"), "--scenes", "3", "--size", "130"]) == 0
    scene = next((tmp_path / "data/test").iterdir())
    commands = [
        "models list --json",
        f"train {config(tmp_path)} --run_dir run",
        f"predict {scene} -m run -o out.tif",
        f"predict {scene} -m run -o full.tif --context full",
    ]
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, *commands],
        env=environment(installed), cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [code for code, _, _ in results] == [0] * 4, results
    listed = {each["name"]: each for each in json.loads(results[0][2])}
    assert listed["FadingMeans"]["origin"] == "package xt-fading 0.1.0"
    assert (listed["FadingMeans"]["cost"], listed["FadingMeans"]["streaming"]) == ("linear", "passes")
    assert "No module named 'broken_context'" in listed["Broken"]["broken"]
    saved = json.loads((tmp_path / "run/model/config.json").read_text())["model"]["context"]
    assert saved == {"class_path": "FadingMeans", "init_args": {"depth": 2, "longest": 100.0}}
    assert (tmp_path / "out.tif").is_file()
    assert (tmp_path / "full.tif").is_file()


@pytest.mark.slow
def test_its_own_tests_pass(installed: Path):
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "xt.testing.pytest_plugin", "tests"]
    more = {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"
    }  # the plug-in by name: its entry point may be that of another checkout
    done = subprocess.run(
        argv, env=environment(installed) | more, cwd=installed / "source", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert "15 passed, 2 skipped" in done.stdout
