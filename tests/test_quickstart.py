"""The quick start in small: everything that it promises is there, and a second run repeats nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMALL = ["--trainer.max_epochs", "1", "--trainer.check_val_every_n_epoch", "1", "--data.batch_size", "2"]


def quickstart(out: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"XT_PYTHON": sys.executable, "PYTHONPATH": os.pathsep.join(sys.path)}
    argv = [str(ROOT / "scripts/quickstart.sh"), str(out), "--scenes", "6", "--", *overrides]
    return subprocess.run(argv, env=environment, capture_output=True, text=True)


def test_quickstart(tmp_path: Path):
    out = tmp_path / "quick"
    done = quickstart(out, *SMALL)
    assert done.returncode == 0, done.stderr
    shown = [
        line.split()[0] for line in done.stdout.partition("Look at\n")[2].partition("Next")[0].splitlines() if line
    ]
    assert len(shown) == 4
    for pattern in shown:
        pattern = pattern.rstrip(",")
        assert list(Path(pattern).parent.glob(Path(pattern).name)), pattern
    assert {path.suffix for path in (out / "predicted").iterdir()} == {".tif", ".csv", ".gpkg", ".geojson", ".json"}
    assert "fishing_fscore" in done.stdout
    assert not list(out.rglob("*.partial*"))


@pytest.mark.slow
def test_a_second_run_repeats_nothing_and_another_config_is_refused(tmp_path: Path):
    out = tmp_path / "quick"
    assert quickstart(out, *SMALL).returncode == 0
    made = [path for path in out.rglob("*") if path.is_file() and path.suffix not in (".png", ".log")]
    before = [path.stat().st_mtime_ns for path in made]
    again = quickstart(out, *SMALL)
    assert again.returncode == 0, again.stderr
    assert [path.stat().st_mtime_ns for path in made] == before

    other = quickstart(out, *SMALL, "--model.lr", "0.5")
    assert other.returncode == 2
    assert "was trained with another model.lr" in other.stderr


def test_unknown_option_is_refused(tmp_path: Path):
    done = subprocess.run([str(ROOT / "scripts/quickstart.sh"), "--seeds", "3"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "quickstart: unknown option --seeds; see --help\n"
