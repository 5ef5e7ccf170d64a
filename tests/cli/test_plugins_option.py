"""A context encoder of one's own, from training to prediction, in processes that know it by ``--plugins`` alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from xt.cli.main import main

ROOT = Path(__file__).parents[2]
MODULE = """
import xt.plugins
from torch import Tensor, nn
from xt.geometry.grid import TokenLayout
from xt.models.context.base import ContextEncoder

@xt.plugins.register("context_encoders")
class MeanContext(ContextEncoder):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim, self.linear = dim, nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        return self.linear(tokens + tokens.mean(1, keepdim=True))
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "my_mean_context.py").write_text(MODULE)
    assert main(["synth", "xview3", str(tmp_path / "data"), "--scenes", "3", "--size", "130"]) == 0
    values = yaml.safe_load((ROOT / "configs/xview3_demo.yaml").read_text())
    model = values["model"]["model"]
    model["context"] = {"class_path": "MeanContext"}
    model["region_encoder"]["init_args"]["model_args"] = {"dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
    model["decoder"]["init_args"]["filters"] = [8, 8, 8, 8]
    values["trainer"] |= {"max_epochs": 1, "check_val_every_n_epoch": 1, "enable_progress_bar": False}
    values["data"]["init_args"] |= {"root": str(tmp_path / "data"), "image_size": 64, "batch_size": 1}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values))
    return tmp_path


def xt(place: Path, *argv: str) -> tuple[int, str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(place), *sys.path]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "xt.cli.main", *argv]
    done = subprocess.run(command, env=environment, cwd=place, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def test_a_plug_in_is_trained_measured_and_predicted_with(place: Path):
    code, error = xt(place, "train", "mine.yaml", "--run_dir", "run")
    assert (code, "'MeanContext' is unknown" in error) == (2, True), error
    more = ["--plugins", "my_mean_context"]
    assert xt(place, "train", "mine.yaml", "--run_dir", "run", *more) == (0, "")
    assert yaml.safe_load((place / "run/config.yaml").read_text())["plugins"] == ["my_mean_context"]
    assert xt(place, "eval", "run")[0] == 0
    scene = str(next((place / "data/test").iterdir()))
    code, error = xt(place, "predict", scene, "-m", "run", "-o", "o.tif")
    assert (code, "no context encoder is named 'MeanContext'" in error) == (2, True), error
    assert xt(place, "predict", scene, "-m", "run", "-o", "o.tif", *more)[0] == 0
    assert xt(place, "features", scene, "-m", "run", "-o", "tokens", *more)[0] == 0
    code, error = xt(place, "predict", scene, "-m", "run", "-o", "p.tif", "--plugins", "none")
    assert (code, "no module named 'none'" in error) == (2, True), error
    code, error = xt(place, "train", "mine.yaml", "--plugins")
    assert (code, "argument --plugins: expected one argument" in error) == (2, True), error
