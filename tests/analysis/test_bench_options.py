"""What ``xt bench`` is asked for; nothing is measured."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from xt.analysis.bench import compare, machine
from xt.analysis.bench.settings import Settings
from xt.analysis.bench.sweep import Budget
from xt.cli.main import main


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What would be measured: kind, names, lengths, settings, budget, and what else there is of the kind."""
    found: list[tuple[Any, ...]] = []

    def report(kind: str, *given: Any) -> compare.Report:
        found.append((kind, *given[:5]))
        return compare.Report({"kind": kind}, "the table", ["Mine: broken"] if "Mine" in given[0] else [])

    monkeypatch.setattr(compare, "compare_contexts", lambda *given: report("contexts", *given))
    monkeypatch.setattr(compare, "compare_ops", lambda *given: report("ops", *given))
    monkeypatch.setattr(compare, "chosen", lambda names, parameters, settings: [*names, parameters])
    monkeypatch.setattr(compare, "write", lambda report, paths: None)
    monkeypatch.setattr(machine, "free_bytes", lambda device: 10 * 2**30)
    monkeypatch.setattr(
        torch, "set_num_threads", lambda number: monkeypatch.setattr(torch, "get_num_threads", lambda: number)
    )
    torch.set_num_threads(3)
    return found


def test_what_is_measured_unless_told_otherwise(asked: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]):
    assert main(["bench", "contexts"]) == main(["bench", "ops"]) == 0
    settings = Settings("cpu", "float32", 3, 128, ())
    assert asked == [
        ("contexts", [None], (4096, 16384, 65536), settings, Budget(20.0, 8192.0, 2), None),
        ("ops", [], (4096, 16384), settings, Budget(5.0, 8192.0, 2), None),
    ]
    assert capsys.readouterr().out == "the table\n" * 2


def test_what_is_told_is_measured(
    asked: list[tuple[Any, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "my_bench_module.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    argv = ["--tokens", "2k,1k", "--dtype", "bfloat16", "--threads", "2", "--repeats", "4", "--seconds", "7"]
    argv += ["--memory", "1.5", "--plugins", "my_bench_module", "-o", str(tmp_path)]
    of_contexts = ["contexts", "Mine", "Other", "--dim", "8", "--slope-from", "1k", "--parameters", "2M"]
    assert main(["bench", *of_contexts, *argv]) == 3
    told = capsys.readouterr()
    assert told.out.splitlines() == ["the table", f"{tmp_path}/contexts.png", f"{tmp_path}/contexts.json"]
    assert told.err == "xt: error: Mine: broken\n"
    assert main(["bench", "ops", "window_attention", "--peers", "a,b", *argv, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"kind": "ops"}
    settings, budget = Settings("cpu", "bfloat16", 2, 8, ("my_bench_module",)), Budget(7.0, 1536.0, 4)
    assert asked[0] == ("contexts", ["Mine", "Other", 2_000_000], (1024, 2048), settings, budget, 1024)
    assert asked[1][1:3] == (["window_attention"], (1024, 2048))
    assert asked[1][4:] == (budget, ["a", "b"])


@pytest.mark.parametrize(("text", "number"), [("130k", 130_000), ("2M", 2_000_000), ("512", 512)])
def test_parameters_are_counted_in_thousands(asked: list[tuple[Any, ...]], text: str, number: int):
    assert main(["bench", "contexts", "--parameters", text]) == 0
    assert asked[0][1] == [number]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--parameters", "0k"], "--parameters 0k: write such as 130k or 2M"),
        (["--parameters", "k"], "--parameters k: write such as 130k or 2M"),
        (["--slope-from", "4x"], "--slope-from 4x: '4x' is no number of tokens"),
        (["--slope-from", "32k"], "--slope-from 32k: fewer than two of the lengths (4,096, 16,384, 65,536) reach it"),
        (["--set", "a.b=1"], "--set a.b=1: it overrides the config of --learn, which is not given"),
        (["--learn", "a.yaml"], "--learn needs -o DIR, which holds the runs"),
        (["--peers", "a"], "--peers is of xt bench ops, not of contexts"),
        (["--dtype", "float16"], "--dtype float16 is for GPUs"),
        (["--threads", "0"], "--threads 0: it must be at least 1"),
        (["--dim", "0"], "--dim 0: it must be at least 1"),
        (["--device", "cuda"], "--device cuda: PyTorch finds no GPU here; xt doctor says more"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    asked: list[tuple[Any, ...]], argv: list[str], said: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", "contexts", *argv]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert asked == []


@pytest.mark.parametrize("option", ["slope-from", "parameters", "learn", "set"])
def test_options_of_contexts_are_refused_for_operations(
    asked: list[tuple[Any, ...]], option: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["bench", "ops", f"--{option}", "4k"]) == 2
    assert f"--{option} is of xt bench contexts, not of ops" in capsys.readouterr().err
    assert asked == []


def test_two_lengths_make_an_exponent(asked: list[tuple[Any, ...]]):
    assert main(["bench", "contexts", "--slope-from", "16k"]) == 0
    assert asked[0][-1] is not None
