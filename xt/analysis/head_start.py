"""What it is worth to start from weights: scores of runs from scratch and not, and when the latter reach the former.

``python -m xt.analysis.head_start SCORE --scratch RUN … --started RUN …`` takes run folders in the same order of seeds.
The scores are those of ``xt eval`` on validation and test data; steps are those of validations in training.
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

from xt.analysis.report import read_metrics, read_scores


def summary(values: Sequence[float]) -> str:
    """Mean, standard deviation, and each."""
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{deviation} ({', '.join(f'{value:.3f}' for value in values)})"


def steps_to(run: Path, score: str, value: float) -> int | None:
    """Steps after which a run's validation first reached a value."""
    steps, values = read_metrics(run)[f"val/{score}"]
    return next((int(step) + 1 for step, each in zip(steps, values, strict=True) if each >= value), None)


def tell(score: str, scratch: Sequence[Path], started: Sequence[Path]) -> list[str]:
    """Say scores of both sides, and for each pair of runs the steps to the best validation of the one from scratch."""
    lines = []
    for side, runs in (("from scratch", scratch), ("started", started)):
        for split in ("validation", "test"):
            lines.append(f"{side}, {split}: {summary([read_scores(run, split)[score] for run in runs])}")
    for base, run in zip(scratch, started, strict=True):
        best = max(float(value) for value in read_metrics(base)[f"val/{score}"][1])
        own = steps_to(base, score, best)
        reached = steps_to(run, score, best)
        lines.append(
            f"validation {best:.3f}: {base.name} after {own} steps, {run.name} after {reached or 'none of its'}"
        )
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    """Print what :func:`tell` says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("score", help="such as iou_ship")
    parser.add_argument("--scratch", type=Path, nargs="+", required=True, metavar="RUN", help="run folders")
    parser.add_argument("--started", type=Path, nargs="+", required=True, metavar="RUN", help="run folders")
    args = parser.parse_args(argv)
    print("\n".join(tell(args.score, args.scratch, args.started)))


if __name__ == "__main__":
    main()
