"""Compares context encoders, or operations with their peers, and tells the figures."""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from xt import plugins
from xt.analysis.bench import contexts, learn, machine, ops
from xt.analysis.bench.plot import plot, plot_learned
from xt.analysis.bench.results import Column, Facts, digits, figures, table
from xt.analysis.bench.settings import BOTH, CONTEXTS, MODES, Settings
from xt.analysis.bench.sizes import count, sized
from xt.analysis.bench.sweep import Budget, Series, Show, sweep
from xt.errors import OutputError, PluginError, nearest
from xt.files import replacing_all

LIMIT_UNITS = {"memory": "GB/s", "gemm": "GFLOP/s"}


@dataclass(frozen=True)
class Report:
    """What a comparison found.

    Attributes:
        facts: All figures, for JSON.
        text: For a terminal.
        failed: Sides that ended with an error: ``"SIDE: reason"``.
    """

    facts: Facts
    text: str
    failed: list[str]


def outputs(folder: Path, what: str, overwrite: bool, learned: bool = False) -> list[Path]:
    """Final names of the picture and the JSON, and of the picture of what was learned.

    Raises:
        OutputError: If one exists and must not be replaced.
    """
    paths = [folder / f"{what}.png", folder / f"{what}.json", *([folder / "learned.png"] if learned else [])]
    for path in paths:
        if path.exists() and not overwrite:
            raise OutputError(f"{path} exists; say --overwrite, or choose another folder with -o")
    return paths


def write(report: Report, paths: Sequence[Path]) -> None:
    """Write pictures and JSON; all appear when all are complete."""
    facts = report.facts
    groups = {"context encoders": facts["encoders"]} if "encoders" in facts else {}
    groups |= {name: op["peers"] for name, op in facts.get("ops", {}).items()}
    hardware, shared = facts["hardware"], facts["settings"]
    threads = f", threads: {hardware['threads']}" if shared["device"] == "cpu" else ""
    heading = f"{hardware['device']}{threads}, {shared['dtype']}, {hardware['date']}"
    with ExitStack() as stack:
        picture, data, *learned = stack.enter_context(replacing_all(paths))
        plot(groups, facts["clock"], heading, picture)
        for path in learned:
            plot_learned({name: side["learned"] for name, side in facts["encoders"].items()}, path)
        data.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def chosen(names: Sequence[str], parameters: int | None, settings: Settings) -> list[str]:
    """Complete the encoders to compare: all that are registered by default; sized if ``parameters`` are said.

    Raises:
        PluginError: If a name or an argument is unknown; with the nearest one.
    """
    known = plugins.names("context_encoders")
    names = list(names) or list(plugins.working("context_encoders"))
    for name in names:
        short = contexts.parse(name)["class_path"]
        if short not in known:
            raise PluginError(f"no context encoder is named {short!r}{nearest(short, known)}")
    return names if parameters is None else [sized(name, parameters, settings) for name in names]


def compare_contexts(
    names: Sequence[str],
    tokens: Sequence[int],
    settings: Settings,
    budget: Budget,
    since: int | None = None,
    show: Show | None = None,
    learned: Mapping[str, Facts] | None = None,
) -> Report:
    """Measure context encoders side by side.

    Args:
        names: As :func:`chosen` gives them.
        tokens: Lengths, ascending.
        settings: How to run.
        budget: What one run may take.
        since: Exponents are of lengths from here on.
        show: Told ``(done, total)`` measurements.
        learned: What :func:`xt.analysis.bench.learn.learn` gave, to be told with it.
    """
    learned = learned or {}
    parameters = {name: count(name, settings) for name in names}
    series = sweep(CONTEXTS, dict.fromkeys(names, MODES), tokens, settings, budget, show)
    sides = {n: {"parameters": parameters[n], **figures(series[n], settings.clock, since)} for n in names}
    for name, lessons in learned.items():
        sides[name]["learned"] = lessons
    facts = _facts(settings, budget, tokens) | {"encoders": sides}
    heads = {name: f"  {count / 1e6:.2f} M parameters" for name, count in parameters.items()}
    head = f"context encoders, {settings.dim} channels, {settings.dtype} on {facts['hardware']['device']}"
    text = [head, "", table(sides, settings.clock, heads), "", *_notes(settings, facts)]
    if learned:
        text += ["", "learned, on test data", "", learn.table(learned, parameters)]
    failed = [f"{name}, {reason}" for name, lessons in learned.items() for reason in lessons["failed"]]
    return Report(facts, "\n".join(text), [*_failed(series), *failed])


def compare_ops(
    names: Sequence[str],
    tokens: Sequence[int],
    settings: Settings,
    budget: Budget,
    wanted: list[str] | None = None,
    show: Show | None = None,
) -> Report:
    """Measure operations beside their peers, after all have been compared with their references.

    Args:
        names: Operations; all by default.
        tokens: Lengths, ascending.
        settings: How to run.
        budget: What one run may take.
        wanted: Peers; all by default.
        show: Told ``(done, total)`` measurements.

    Raises:
        ConfigError: If a name is unknown; with the nearest one.
        WrongResultError: If an operation is wrong; nothing is measured then.
    """
    names = list(names) or list(ops.OPS)
    peers = {name: ops.chosen(name, settings, wanted) for name in names}
    checked = {name: ops.check(name, peers[name], settings) for name in names}
    facts = _facts(settings, budget, tokens) | {"ops": {}}
    head = f"operations, {settings.dtype} on {facts['hardware']['device']}; all have the results of their references"
    text, failed = [head], []
    for name in names:
        series = sweep(name, {p: each.modes for p, each in peers[name].items()}, tokens, settings, budget, show)
        sides = {p: figures(each, settings.clock) for p, each in series.items()}
        _add_rates(name, sides, settings, facts["limits"])
        op = ops.load(name)
        heads = {}
        for peer, side in sides.items():
            side["check"] = checked[name].get(peer)
            for point in side["forward"]:
                point["error"] = op.errors(peer, point["tokens"], settings.device)
                if point["error"] is not None:
                    heads[peer] = f"  error {point['error']:.3f}"
        facts["ops"][name] = {"shape": op.shape, "limit": op.limit, "peers": sides}
        columns = _columns(op.limit)
        text += ["", f"{name}: {op.shape}", "", table(sides, settings.clock, heads, columns, slope=False)]
        failed += [f"{name} {each}" for each in _failed(series)]
    return Report(facts, "\n".join([*text, "", *_notes(settings, facts)]), failed)


def _add_rates(name: str, sides: dict[str, Facts], settings: Settings, limits: dict[str, float]) -> None:
    """Give each point its rate, its share of the machine's limit, and how many times the first peer's time it takes."""
    op, itemsize = ops.load(name), getattr(torch, settings.dtype).itemsize
    first = next(iter(sides.values()))
    for mode in MODES:
        ours = {point["tokens"]: point[settings.clock] for point in first.get(mode, ())}
        for peer, side in sides.items():
            for point in side.get(mode, ()):
                rate = op.work(peer, point["tokens"], itemsize, mode == BOTH) / point[settings.clock] / 1e9
                point |= {"rate": rate, "of_limit": rate / limits[op.limit]}
                if point["tokens"] in ours:
                    point["times_first"] = point[settings.clock] / ours[point["tokens"]]


def _columns(limit: str) -> list[Column]:
    return [
        (LIMIT_UNITS[limit], lambda point, mode: digits(point["rate"])),
        ("of limit", lambda point, mode: f"{point['of_limit']:.0%}"),
        ("×", lambda point, mode: digits(point["times_first"]) if "times_first" in point else "–"),
    ]


def _facts(settings: Settings, budget: Budget, tokens: Sequence[int]) -> Facts:
    allowed = asdict(budget) | {"mebibytes": round(budget.mebibytes)}
    return {
        "hardware": machine.hardware(settings),
        "limits": machine.limits(settings),
        "settings": asdict(settings) | {"tokens": list(tokens), "budget": allowed},
        "clock": settings.clock,
    }


def _notes(settings: Settings, facts: Facts) -> list[str]:
    limits, threads = facts["limits"], f"{settings.threads} thread{'s' if settings.threads > 1 else ''}"
    clock = "of the processor" if settings.clock == "cpu_seconds" else "of the clock"
    rounds = facts["settings"]["budget"]["repeats"]
    return [
        f"s: seconds {clock}, the best of {rounds} rounds in turns; MiB: peak beyond inputs and parameters",
        f"limits of this machine ({threads}): copy {limits['memory']:.1f} GB/s, matrix product "
        f"{limits['gemm']:.0f} GFLOP/s",
    ]


def _failed(series: dict[str, dict[str, Series]]) -> list[str]:
    return [
        f"{side}, {mode}: {each.stopped}"
        for side, by_mode in series.items()
        for mode, each in by_mode.items()
        if each.failed
    ]
