"""Small runs of the real ``xt train`` for the tests of this folder."""

import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
import yaml

ROOT = Path(__file__).parents[2]


def config(folder: Path, scenes: Path, **changes: object) -> Path:
    encoder = {
        "name": "convnext_atto",
        "region_size": 64,
        "model_args": {"dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "drop_path_rate": 0.2},
    }
    values = {
        "seed_everything": 1,
        "trainer": {"accelerator": "cpu", "max_epochs": 2, "enable_progress_bar": False},
        "checkpoint_every": 1,
        "model": {
            "task": "PointDetection",
            "lr": 0.001,
            "warmup_steps": 2,
            "model": {
                "region_encoder": {"class_path": "TimmFeatures", "init_args": encoder},
                "context": {"class_path": "Mamba", "init_args": {"depth": 1}},
                "context_dim": 16,
                "decoder": {"class_path": "UNet", "init_args": {"filters": [8, 8, 8], "out_stride": 4}},
            },
        },
        "data": {
            "class_path": "XView3Data",
            "init_args": {"root": str(scenes), "image_size": 128, "crops_per_scene": 2},
        },
    }
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(values | changes))
    return path


def losses(run: Path) -> list[tuple[str, ...]]:
    with (run / "metrics.csv").open() as file:
        return [tuple(row) for row in csv.reader(file)]


def run_train(*argv: str, kill_at: int | None = None, by: int = 0, stage: str = "training") -> int:
    """Run ``xt train`` in a process group of its own, without a survivor; return the exit code.

    ``kill_at``: before that step's update (or in the validation after so many steps) the process ends without a word,
    or the whole group gets the signal ``by``, as Ctrl-C on a terminal does.
    """
    code = (
        "import os, sys, signal\nfrom xt.training.module import TrainingModule\n"
        "kill_at, by, stage = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]\n"
        "plain = getattr(TrainingModule, f'{stage}_step')\n"
        "def step(self, batch, index):\n"
        "    if self.global_step == kill_at: os.killpg(0, by) if by else os._exit(9)\n"
        "    return plain(self, batch, index)\n"
        "setattr(TrainingModule, f'{stage}_step', step)\n"
        "from xt.cli.main import main\n"
        "if __name__ == '__main__': sys.exit(main(['train', *sys.argv[4:]]))"
    )
    threads = str(torch.get_num_threads())  # as here: another number changes the last digits of sums
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": threads}
    argv_all = [sys.executable, "-c", code, str(-1 if kill_at is None else kill_at), str(by), stage, *argv]
    child = subprocess.Popen(
        argv_all, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    _, err = child.communicate()
    sys.stderr.write(err.decode())
    assert any(group_is_gone(child.pid) for _ in range(200))
    return child.returncode


def group_is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    time.sleep(0.1)  # multiprocessing's tracker leaves a moment after its parent
    return False
