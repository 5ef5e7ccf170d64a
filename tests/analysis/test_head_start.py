"""What is said of runs that start from weights, beside runs from scratch."""

import json
from pathlib import Path

from xt.analysis.head_start import main


def run(folder: Path, curve: dict[int, float], test: float) -> str:
    folder.mkdir()
    rows = [f"{step},val/iou,{value}" for step, value in curve.items()]
    (folder / "metrics.csv").write_text("\n".join(["step,name,value", "3,train/loss,1.0", *rows]) + "\n")
    for split, key, value in (("validation", "val", max(curve.values())), ("test", "test", test)):
        (folder / f"{split}.json").write_text(json.dumps({f"{key}/iou": value}))
    return str(folder)


def test_scores_and_the_step_that_reaches_the_best_from_scratch(tmp_path: Path, capsys):
    scratch = [run(tmp_path / "s1", {7: 0.2, 15: 0.6, 23: 0.5}, 0.3), run(tmp_path / "s2", {7: 0.3, 15: 0.4}, 0.5)]
    started = [run(tmp_path / "w1", {7: 0.65, 15: 0.8}, 0.7), run(tmp_path / "w2", {7: 0.1, 15: 0.39}, 0.2)]
    main(["iou", "--scratch", *scratch, "--started", *started])
    assert capsys.readouterr().out.splitlines() == [
        "from scratch, validation: 0.500 ± 0.141 (0.600, 0.400)",
        "from scratch, test: 0.400 ± 0.141 (0.300, 0.500)",
        "started, validation: 0.595 ± 0.290 (0.800, 0.390)",
        "started, test: 0.450 ± 0.354 (0.700, 0.200)",
        "validation 0.600: s1 after 16 steps, w1 after 8",
        "validation 0.400: s2 after 16 steps, w2 after none of its",
    ]
