"""A context encoder of one's own, from training to prediction, in processes that know it by ``--plugins`` alone."""

import json
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


def xt(place: Path, *commands: str) -> list[tuple[int, str]]:
    """Run commands one after the other in one process that knows nothing of the plug-in; exit codes and errors."""
    code = (
        "import contextlib, io, json, sys\nfrom xt.cli.main import main\n"
        "for command in sys.argv[1:]:\n"
        "    with contextlib.redirect_stderr(io.StringIO()) as error, contextlib.redirect_stdout(io.StringIO()):\n"
        "        code = main(command.split())\n"
        "    print(json.dumps([code, error.getvalue()]))\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(place), *sys.path]), "OMP_NUM_THREADS": "1"}
    argv = [sys.executable, "-c", code, *commands]
    done = subprocess.run(argv, env=environment, cwd=place, capture_output=True, text=True, check=True)
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_a_plug_in_is_trained_measured_and_predicted_with(place: Path):
    more = "--plugins my_mean_context"
    refused, trained = xt(place, "train mine.yaml --run_dir run", f"train mine.yaml --run_dir run {more}")
    assert (refused[0], "'MeanContext' is unknown" in refused[1]) == (2, True), refused
    assert trained == (0, "")
    assert yaml.safe_load((place / "run/config.yaml").read_text())["plugins"] == ["my_mean_context"]
    scene = next((place / "data/test").iterdir())
    unknown, absent, without_name, measured, predicted, tokens = xt(
        place,
        f"predict {scene} -m run -o o.tif",
        f"predict {scene} -m run -o p.tif --plugins none",
        "train mine.yaml --plugins",
        "eval run",
        f"predict {scene} -m run -o o.tif {more}",
        f"features {scene} -m run -o tokens {more}",
    )
    assert (unknown[0], "no context encoder is named 'MeanContext'" in unknown[1]) == (2, True), unknown
    assert (absent[0], "no module named 'none'" in absent[1]) == (2, True), absent
    assert (without_name[0], "argument --plugins: expected one argument" in without_name[1]) == (2, True), without_name
    assert (measured[0], predicted[0], tokens[0]) == (0, 0, 0)  # eval learns of it from the run's config
