"""What context encoders learn: each is trained from one config, in a process of its own, and scored on the test data.

Runs are those of ``xt train``, so that they go on after a kill, and what is complete is not trained again.
"""

import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from xt.analysis.bench import contexts
from xt.analysis.bench.results import Facts
from xt.analysis.bench.settings import Settings
from xt.analysis.bench.sweep import Show
from xt.analysis.report import read_metrics, read_scores
from xt.errors import ConfigError

GOOD = 0.9
"""The score whose first step is told."""
DIM = "model.model.context_dim"


@dataclass(frozen=True)
class Lesson:
    """What all encoders are trained on.

    Attributes:
        config: Of ``xt train``; its context is replaced.
        folder: Holds a run folder and a log for each encoder and seed.
        seeds: Of weights and data.
        overrides: Of the config: ``"KEY.SUB=VALUE"``.
    """

    config: Path
    folder: Path
    seeds: tuple[int, ...] = (1,)
    overrides: tuple[str, ...] = ()

    def dim(self) -> int:
        """Channels of a token.

        Raises:
            ConfigError: If the config cannot be read or does not say them.
        """
        given = [each.partition("=")[2] for each in self.overrides if each.partition("=")[0] == DIM]
        try:
            values = yaml.safe_load(self.config.read_text(encoding="utf-8"))
            return int(given[-1] if given else values["model"]["model"]["context_dim"])
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
            raise ConfigError(f"--learn {self.config}: {DIM} cannot be read from it ({error})") from error


def learn(names: Sequence[str], lesson: Lesson, settings: Settings, show: Show | None = None) -> dict[str, Facts]:
    """Train and score encoders, one after the other.

    Args:
        names: As :func:`xt.analysis.bench.contexts.parse` reads them.
        lesson: What they are trained on.
        settings: Plug-ins and threads.
        show: Told ``(done, total)`` runs.

    Returns:
        Name → ``seeds``: for each its ``test`` scores and its ``validation`` scores by step; ``failed``: why
        one has none.
    """
    found: dict[str, Facts] = {name: {"seeds": {}, "failed": []} for name in names}
    lesson.folder.mkdir(parents=True, exist_ok=True)
    for index, (seed, name) in enumerate((seed, name) for seed in lesson.seeds for name in names):
        run = lesson.folder / f"{_slug(name)}-{seed}"
        log = run.with_name(f"{run.name}.log")
        failed = _run(name, seed, run, log, lesson, settings)
        if failed is None:
            found[name]["seeds"][str(seed)] = {"test": read_scores(run, "test"), "validation": _curves(run)}
        else:
            found[name]["failed"].append(f"seed {seed}: {failed} ({log})")
        if show is not None:
            show(index + 1, len(lesson.seeds) * len(names))
    return found


def table(learned: Mapping[str, Facts], parameters: Mapping[str, int]) -> str:
    """Lay scores out as text: mean over the seeds, and the standard deviation if there are several.

    Last stands the step at which the first score was good on validation data, of each seed.
    """
    scored = {name: means(facts) for name, facts in learned.items()}
    titles = list(dict.fromkeys(score for each in scored.values() for score in each))
    width = max(map(len, [*learned, ""]))
    lines = ["  ".join([" " * width, "parameters", *(f"{title:>16}" for title in titles), f"  step of {GOOD:g}"])]
    for name, scores in scored.items():
        cells = [_cell(*scores[title]) if title in scores else "–" for title in titles]
        shown = [f"{parameters[name]:10,}", *(f"{cell:>16}" for cell in cells), f"  {_reached(learned[name])}"]
        lines.append("  ".join([f"{name:{width}}", *shown]))
    return "\n".join(lines)


def means(facts: Facts) -> dict[str, tuple[float, float | None]]:
    """Mean and standard deviation of each test score over the seeds."""
    seeds = [each["test"] for each in facts["seeds"].values()]
    return {
        score: (statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None)
        for score in (seeds[0] if seeds else ())
        for values in [[each[score] for each in seeds]]
    }


def _run(name: str, seed: int, run: Path, log: Path, lesson: Lesson, settings: Settings) -> str | None:
    """Train and evaluate; return why not."""
    plugins = [part for module in settings.plugins for part in ("--plugins", module)]
    overrides = [part for each in lesson.overrides for part in _override(each)]
    train = ["train", str(lesson.config), "--run_dir", str(run), *plugins, *overrides]
    train += ["--model.model.context", json.dumps(contexts.parse(name))]
    train += ["--seed_everything", str(seed), "--data.seed", str(seed), "--trainer.enable_progress_bar", "false"]
    if call_xt(train, log, settings.threads):
        return _last_line(log)
    tested, model = run / "test.json", run / "model/config.json"
    if tested.exists() and tested.stat().st_mtime_ns >= model.stat().st_mtime_ns:
        return None
    code = call_xt(["eval", str(run), "--split", "test", *plugins], log, settings.threads)
    return _last_line(log) if code else None


def call_xt(argv: Sequence[str], log: Path, threads: int) -> int:
    """Run ``xt`` in a process of its own, which appends what it says to a file; return the exit code."""
    with log.open("ab") as file:
        done = subprocess.run(
            [sys.executable, "-m", "xt.cli.main", *argv],
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
            check=False,
        )
    return done.returncode


def _override(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set {text}: it has no value; write {key}=VALUE")
    return f"--{key}", value


def _curves(run: Path) -> dict[str, list[list[float]]]:
    """Validation scores as ``[step, value]``."""
    return {
        name.removeprefix("val/"): [[int(step), float(value)] for step, value in zip(*each, strict=True)]
        for name, each in read_metrics(run).items()
        if name.startswith("val/")
    }


def _reached(facts: Facts) -> str:
    """The step at which the first score was :data:`GOOD` on validation data, of each seed."""
    found = []
    for each in facts["seeds"].values():
        curve = each["validation"].get(next(iter(each["test"])), [])
        found.append(next((f"{step + 1:g}" for step, value in curve if value >= GOOD), "–"))
    return ", ".join(found) or "–"


def _cell(mean: float, deviation: float | None) -> str:
    return f"{mean:.3f}" if deviation is None else f"{mean:.3f} ± {deviation:.3f}"


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    return next((line for line in reversed(lines) if line.strip()), "no reason given").removeprefix("xt: error: ")


def _slug(name: str) -> str:
    """A folder's name for an encoder and its arguments."""
    return re.sub(r"[^\w.=-]+", "_", name).strip("_")
