"""Measures sides at growing lengths: memory of each in a process of its own, then times in turns.

They take turns so that what else the machine does falls on all alike. A side whose next run would take too much stops.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from xt.analysis.bench import worker
from xt.analysis.bench.measure import Run, Spent, timed
from xt.analysis.bench.settings import BOTH, Case, Settings

LONG = 0.25
"""Of the seconds that a run may take; what takes longer is not repeated."""
Show = Callable[[int, int], None]
Probe = Callable[[Case, Sequence[str], Settings, float], list[worker.Answer]]
"""As :func:`xt.analysis.bench.worker.probe`."""


@dataclass(frozen=True)
class Budget:
    """What one run may take.

    Attributes:
        seconds: Of the clock.
        mebibytes: Of memory.
        repeats: Rounds in which every side runs once, long ones in the first alone; the best counts.
    """

    seconds: float = 20.0
    mebibytes: float = math.inf
    repeats: int = 2

    def refuses(self, points: Mapping[int, Spent], tokens: int) -> str | None:
        """Say why a run at ``tokens`` would take too much, judged by those at fewer tokens."""
        seconds = predicted({n: spent.seconds for n, spent in points.items()}, tokens)
        if seconds > self.seconds:
            return f"about {seconds:.0f} s predicted, more than {self.seconds:g} s"
        memory = predicted({n: spent.mebibytes or 0.0 for n, spent in points.items()}, tokens)
        if memory > self.mebibytes:
            return f"about {memory / 1024:.1f} GiB predicted, more than {self.mebibytes / 1024:.1f} GiB"
        return None


@dataclass
class Series:
    """One side in one mode.

    Attributes:
        points: Tokens → what a run took.
        stopped: Why there are no more.
        failed: Whether it stopped with an error, not for the budget.
    """

    points: dict[int, Spent] = field(default_factory=dict)
    stopped: str | None = None
    failed: bool = False


def predicted(points: Mapping[int, float], tokens: int) -> float:
    """Value at more tokens, or 0 if nothing is known.

    It grows as from the last point with at most half of the tokens to the last one, and at least linearly; between
    points that lie nearer to each other the noise of a machine tells more than growth.
    """
    known = [(n, value) for n, value in sorted(points.items()) if value > 0]
    if not known:
        return 0.0
    last, value = known[-1]
    power = 1.0
    halves = [(n, each) for n, each in known if 2 * n <= last]
    if halves:
        before, earlier = halves[-1]
        power = max(1.0, math.log(value / earlier) / math.log(last / before))
    return float(value * (tokens / last) ** power)


def sweep(
    kind: str,
    sides: Mapping[str, Sequence[str]],
    tokens: Sequence[int],
    settings: Settings,
    budget: Budget,
    show: Show | None = None,
    probe: Probe = worker.probe,
    prepare: Callable[[Case, Settings], Run] = worker.prepare,
) -> dict[str, dict[str, Series]]:
    """Measure all sides at all lengths.

    Args:
        kind: ``"contexts"``, or the name of an operation.
        sides: Name → modes in which it can run.
        tokens: Lengths, ascending.
        settings: How to run.
        budget: What one run may take.
        show: Told ``(done, total)`` cases.
        probe: Measures one case alone.
        prepare: Makes one ready to be timed.

    Returns:
        Side → mode → series.
    """
    found = {side: {mode: Series() for mode in modes} for side, modes in sides.items()}
    for step, count in enumerate(tokens):
        going: dict[Case, list[str]] = {}
        for index, (side, by_mode) in enumerate(found.items()):
            case = Case(kind, side, count)
            going[case] = _probed(case, by_mode, settings, budget, probe)
            if show is not None:
                show(step * len(sides) + index + 1, len(tokens) * len(sides))
        runs = {case: prepare(case, settings) for case, modes in going.items() if modes}
        turns = [(case, mode) for case in runs for mode in going[case]]
        for case in runs if step == 0 else ():  # the process of the probe was another
            warm = prepare(worker.shorter(case), settings)
            for mode in going[case]:
                warm(mode == BOTH)
        for (case, mode), spent in _take_turns(turns, runs, settings, budget).items():
            points = found[case.side][mode].points
            # The time of the probe, which ran alone, no longer counts.
            points[count] = Spent(spent.seconds, spent.cpu_seconds, points[count].mebibytes)
    return found


def _probed(case: Case, by_mode: Mapping[str, Series], settings: Settings, budget: Budget, probe: Probe) -> list[str]:
    """Measure a case alone; return the modes that can go on."""
    wanted = []
    for mode, series in by_mode.items():
        if series.stopped is None:
            series.stopped = budget.refuses(series.points, case.tokens)
            if series.stopped is None:
                wanted.append(mode)
            else:
                series.stopped = f"{case.tokens:,} tokens: {series.stopped}"
    for mode, answer in zip(wanted, probe(case, wanted, settings, budget.seconds) if wanted else (), strict=True):
        series = by_mode[mode]
        if isinstance(answer, Spent):
            series.points[case.tokens] = answer
        else:
            series.stopped = f"{case.tokens:,} tokens: {answer}"
            series.failed = not isinstance(answer, worker.TooMuch)
    return [mode for mode in wanted if by_mode[mode].stopped is None]


def _take_turns(
    turns: Sequence[tuple[Case, str]], runs: Mapping[Case, Run], settings: Settings, budget: Budget
) -> dict[tuple[Case, str], Spent]:
    """Run all once in each round, long ones in the first alone, and keep the best of each."""
    best: dict[tuple[Case, str], Spent] = {}
    for _ in range(budget.repeats):
        for turn in turns:
            if turn in best and best[turn].seconds > LONG * budget.seconds:
                continue
            spent = timed(runs[turn[0]], turn[1] == BOTH, settings.device)
            best[turn] = best[turn].least(spent) if turn in best else spent
    return best
