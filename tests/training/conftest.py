import sys
from pathlib import Path

import pytest

from xt.cli.main import main

# importlib mode adds no folder to the path; small_runs.py is shared by the tests of this folder.
sys.path.insert(0, str(Path(__file__).parent))

from small_runs import config, run_train


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scenes") / "data"
    assert main(["synth", "xview3", str(out), "--scenes", "4", "--size", "300", "--seed", "2"]) == 0
    return out


@pytest.fixture(scope="session")
def unbroken(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    assert run_train(str(config(folder, scenes)), "--run_dir", str(folder / "run")) == 0
    return folder / "run"
