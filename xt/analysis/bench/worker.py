"""Measures a case in a process of its own: its memory then holds nothing of others, and it can be given up.

Such a process is forked from one that has imported all and run nothing, so it starts at once.
"""

import multiprocessing
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import TypeAlias

import torch

from xt import plugins
from xt.analysis.bench import contexts, ops
from xt.analysis.bench.measure import Run, Spent, with_peak
from xt.analysis.bench.settings import BOTH, CONTEXTS, Case, Settings

WARM_TOKENS = 256
"""Run before a measurement: loads libraries and compiles what is compiled once."""
Answer: TypeAlias = "Spent | TooMuch | str"
"""What a case took; or that it took too much; or the error of one that failed."""
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload([__name__, "torch._dynamo"])  # which every custom operator imports


class TooMuch(str):
    """Why a case was given up."""

    __slots__ = ()


def prepare(case: Case, settings: Settings) -> Run:
    """Make a case ready to run."""
    if case.kind == CONTEXTS:
        return contexts.prepare(case.side, case.tokens, settings)
    return ops.prepare(case.kind, case.side, case.tokens, settings)


def shorter(case: Case) -> Case:
    """The case that is run before it, unmeasured."""
    return replace(case, tokens=min(case.tokens, WARM_TOKENS))


def probe(case: Case, modes: Sequence[str], settings: Settings, seconds: float) -> list[Answer]:
    """Measure time and memory of a case.

    Args:
        case: What to run.
        modes: In what way, one after the other; after one that gives no figures none is tried.
        settings: How.
        seconds: After which a run is given up, on a CPU.

    Returns:
        An answer for each mode.
    """
    if settings.device == "cuda":  # which counts its memory exactly in any process
        return [_answer(case, mode, settings, prepare(case, settings)) for mode in modes]
    ours, theirs = _processes.Pipe(duplex=False)
    process = _processes.Process(target=_measure, args=(theirs, case, tuple(modes), settings, seconds), daemon=True)
    answers: list[Answer] = []
    try:
        process.start()
        theirs.close()
        while len(answers) < len(modes):
            answers.append(ours.recv())
    except EOFError:  # it ended before it had all
        process.join()
    finally:
        if process.pid is not None:
            process.kill()
            process.join()
    if len(answers) == len(modes):
        return answers
    return answers + [_ending(process.exitcode, seconds)] * (len(modes) - len(answers))


def _ending(code: int | None, seconds: float) -> Answer:
    if code == -signal.SIGALRM:
        return TooMuch(f"took longer than {seconds:g} s")
    if code == -signal.SIGKILL:
        return TooMuch("was killed, most likely for lack of memory")
    return f"its process ended with code {code}"


def _answer(case: Case, mode: str, settings: Settings, run: Run) -> Answer:
    try:
        return with_peak(run, mode == BOTH, settings.device)
    except torch.OutOfMemoryError:
        return TooMuch("is out of memory")
    except Exception as error:  # whatever an encoder of someone else's raises: told, and the others go on
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _measure(told: Connection, case: Case, modes: Sequence[str], settings: Settings, seconds: float) -> None:
    """Send what a case takes, mode by mode."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the one that waits says that it was interrupted
    plugins.load_modules(list(settings.plugins))
    torch.set_num_threads(settings.threads)
    warm = prepare(shorter(case), settings)
    for mode in modes:
        _answer(case, mode, settings, warm)
    run = prepare(case, settings)
    for mode in modes:
        signal.setitimer(signal.ITIMER_REAL, seconds)  # its signal ends the process, in whatever it is
        answer = _answer(case, mode, settings, run)
        signal.setitimer(signal.ITIMER_REAL, 0)
        with suppress(BrokenPipeError):  # nobody waits any more
            told.send(answer)
