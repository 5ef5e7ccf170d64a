"""``xt bench``: what it tells, when it stops, and when it refuses to tell. No figure of time is judged."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from xt.analysis.bench import compare, contexts, ops, worker
from xt.analysis.bench.measure import Spent, exponent
from xt.analysis.bench.results import figures, table
from xt.analysis.bench.settings import BOTH, CONTEXTS, MODES, Case, Settings, parse_tokens
from xt.analysis.bench.sweep import Budget, Series, predicted, sweep
from xt.cli.main import main
from xt.errors import ConfigError
from xt_kernels.dispatch import Backend
from xt_kernels.window_attention import interface

PLUGINS = """
import xt.plugins
from torch import nn
from xt.models.context.base import ContextEncoder

@xt.plugins.register("context_encoders")
class BenchQuadratic(ContextEncoder):
    def __init__(self, dim: int, factor: float = 1.0) -> None:
        super().__init__()
        self.dim, self.factor, self.linear = dim, factor, nn.Linear(dim, dim)

    def forward(self, tokens, layout):
        return self.factor * self.linear(tokens @ tokens.mT @ tokens)

@xt.plugins.register("context_encoders")
class BenchLinear(BenchQuadratic):
    def forward(self, tokens, layout):
        return self.linear(tokens)

@xt.plugins.register("context_encoders")
class BenchBroken(BenchQuadratic):
    def forward(self, tokens, layout):
        if tokens.shape[1] > 16:
            raise RuntimeError("too long for me")
        return self.linear(tokens)
"""
SETTINGS = Settings(dim=8, plugins=("bench_plugins",))


@pytest.fixture(autouse=True)
def _plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "bench_plugins.py").write_text(PLUGINS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(compare.machine, "limits", lambda settings: {"memory": 10.0, "gemm": 50.0})
    from xt import plugins

    plugins.load_modules(["bench_plugins"])


def counted(case: Case, modes: Sequence[str], settings: Settings, seconds: float) -> list[worker.Answer]:
    """Made-up times: the products that a run does."""
    run = worker.prepare(case, settings)
    with FlopCounterMode(display=False) as counter:
        run(False)
    products = counter.get_total_flops() / 1e6
    factors = [3 if mode == BOTH else 1 for mode in modes]
    return [Spent(factor * products, factor * products, case.tokens) for factor in factors]


def test_lengths_are_read_and_laid_out():
    assert parse_tokens("64k,4k,1M,100,4096") == (100, 4096, 65536, 2**20)
    with pytest.raises(ConfigError, match="'4x' is no number of tokens"):
        parse_tokens("16k,4x")
    for tokens in (1, 7, 64, 100, 512, 3 * 256, 2**18):
        assert contexts.layout_of(tokens).num_tokens == tokens
    assert contexts.layout_of(65536).region_rows == contexts.layout_of(65536).region_cols == 16


def test_planted_quadratic_has_exponent_two_and_stops_where_it_costs_too_much():
    names = {"BenchLinear": MODES, "BenchQuadratic:factor=0.5": MODES}
    lengths = (64, 256, 1024, 4096)
    found = sweep(CONTEXTS, names, lengths, SETTINGS, Budget(400.0, repeats=0), probe=counted)
    linear, quadratic = (figures(found[name], "seconds") for name in names)
    assert linear["exponents"]["forward"]["time"] == pytest.approx(1.0)
    assert linear["exponents"]["both"] == {
        "tokens": [1024, 4096],
        "time": pytest.approx(1.0),
        "memory": pytest.approx(1),
    }
    assert "stopped" not in linear
    assert quadratic["exponents"]["forward"]["time"] == pytest.approx(2.0, abs=0.05)
    assert quadratic["exponents"]["both"]["time"] == pytest.approx(2.0, abs=0.05)
    assert quadratic["stopped"].keys() == {"forward", "both"}
    assert quadratic["stopped"]["forward"].startswith("4,096 tokens: about 5")
    assert quadratic["stopped"]["forward"].endswith("s predicted, more than 400 s")
    since = figures(found["BenchLinear"], "seconds", since=256)
    assert since["exponents"]["forward"]["tokens"] == [256, 1024, 4096]


def test_a_prediction_follows_the_last_growth_and_memory_counts():
    assert predicted({}, 100) == 0
    assert predicted({10: 2.0}, 100) == pytest.approx(20)
    assert predicted({1: 5.0, 10: 2.0, 20: 8.0}, 100) == pytest.approx(200)
    assert predicted({10: 2.0, 20: 2.0}, 40) == pytest.approx(4)  # never less than linearly
    assert predicted({1000: 2.0, 1024: 2.0, 1025: 2.2}, 2050) == pytest.approx(4.4)  # a noisy neighbour tells nothing
    assert predicted({10: 2.0, 20: 8.0, 21: 9.0}, 42) == pytest.approx(9 * 2 ** (math.log(4.5) / math.log(2.1)))
    points = {10: Spent(1, 1, 512.0), 20: Spent(2, 2, 2048.0)}
    assert Budget(100, 9000).refuses(points, 40) is None
    assert Budget(100, 8000).refuses(points, 40) == "about 8.0 GiB predicted, more than 7.8 GiB"


class Named(str):
    """A run that does nothing and has a name."""

    def __call__(self, backward: bool) -> None:
        pass


def test_what_is_loaded_at_a_first_run_is_not_timed(monkeypatch: pytest.MonkeyPatch):
    ran: list[tuple[int, bool]] = []
    monkeypatch.setattr("xt.analysis.bench.sweep.timed", lambda run, *given: (run(True), Spent(1.0, 1.0))[1])
    sweep(
        CONTEXTS, {"side": MODES}, (512, 1024), SETTINGS, Budget(100.0, repeats=1), None,
        lambda case, modes, *given: [Spent(1.0, 1.0, 1.0)] * len(modes),
        lambda case, settings: lambda backward: ran.append((case.tokens, backward)),
    )  # fmt: skip
    assert ran == [(256, False), (256, True), (512, True), (512, True), (1024, True), (1024, True)]


def test_the_best_of_the_rounds_counts_and_long_runs_are_not_repeated(monkeypatch: pytest.MonkeyPatch):
    times = {"short": iter([Spent(3.0, 1.0), Spent(2.0, 5.0)]), "long": iter([Spent(30.0, 30.0)])}
    monkeypatch.setattr("xt.analysis.bench.sweep.timed", lambda side, backward, device: next(times[side]))
    found = sweep(
        CONTEXTS, dict.fromkeys(times, MODES[:1]), (64,), SETTINGS, Budget(100.0), None,
        lambda case, modes, *given: [Spent(99.0, 99.0, 7.0)], lambda case, settings: Named(case.side),
    )  # fmt: skip
    assert found["short"]["forward"].points == {64: Spent(2.0, 1.0, 7.0)}
    assert found["long"]["forward"].points == {64: Spent(30.0, 30.0, 7.0)}
    assert Spent(1.0, 2.0, 5.0).least(Spent(2.0, 1.0)) == Spent(1.0, 1.0, 5.0)


def test_what_takes_too_much_has_not_failed():
    answers = {"slow": worker.TooMuch("took longer"), "broken": "RuntimeError: no"}
    found = sweep(
        CONTEXTS, dict.fromkeys(answers, MODES[:1]), (64, 128), SETTINGS, Budget(), None,
        lambda case, modes, *given: [answers[case.side]],
    )  # fmt: skip
    assert [found[side]["forward"].failed for side in answers] == [False, True]
    assert [found[side]["forward"].stopped for side in answers] == [
        "64 tokens: took longer",
        "64 tokens: RuntimeError: no",
    ]


def test_growth_is_told_of_figures_that_all_mean_something():
    assert exponent([1, 2, 4], [1.0, 2.0, 4.0], 1.0) == pytest.approx(1)
    assert exponent([1, 2, 4], [0.5, 2.0, 4.0], 1.0) is None
    assert exponent([4], [4.0], 1.0) is None
    five = Series({n: Spent(float(n), float(n), 8.0) for n in (1, 2, 4, 8, 16)})
    assert figures({"forward": five}, "seconds")["exponents"]["forward"]["tokens"] == [4, 8, 16]


def test_a_process_of_its_own_tells_what_it_takes_or_why_not(capfd: pytest.CaptureFixture[str]):
    linear, broken = (Case(CONTEXTS, side, 4096) for side in ("BenchLinear", "BenchBroken"))
    wide = Settings(dim=256, plugins=SETTINGS.plugins)
    forward, both = worker.probe(linear, MODES, wide, 60)
    assert 3.5 < forward.mebibytes < 7  # the output is 4 MiB, some of which may be there
    assert 7.5 < both.mebibytes < 15  # and the gradient of the input
    assert worker.probe(broken, MODES, SETTINGS, 60) == ["RuntimeError: too long for me"] * 2
    slow = worker.probe(Case(CONTEXTS, "BenchQuadratic", 16384), MODES, SETTINGS, 0.01)
    assert slow == ["took longer than 0.01 s"] * 2
    assert all(isinstance(each, worker.TooMuch) for each in slow)
    assert "Traceback" not in capfd.readouterr().err


def test_contexts_come_as_table_json_and_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out"
    argv = ["bench", "contexts", "BenchQuadratic", "BenchBroken", "--tokens", "16,64", "--dim", "8"]
    argv += ["--threads", "1", "--repeats", "1", "--plugins", "bench_plugins", "-o", str(out)]
    assert main(argv) == 3  # one failed
    told = capsys.readouterr()
    assert "xt: error: BenchBroken, both: 64 tokens: RuntimeError: too long for me" in told.err
    facts = json.loads((out / "contexts.json").read_text())
    assert facts["settings"] | {"budget": 0} == {
        "device": "cpu", "dtype": "float32", "threads": 1, "dim": 8, "plugins": ["bench_plugins"], "tokens": [16, 64], "budget": 0,
    }  # fmt: skip
    assert facts["clock"] == "cpu_seconds"
    assert torch.__version__.startswith(facts["hardware"]["torch"])
    quadratic, broken = (facts["encoders"][name] for name in ("BenchQuadratic", "BenchBroken"))
    assert quadratic["parameters"] == 72
    assert [point["tokens"] for point in quadratic["both"]] == [16, 64]
    assert all(point[key] > 0 for point in quadratic["forward"] for key in ("seconds", "cpu_seconds"))
    assert [point["tokens"] for point in broken["forward"]] == [16]
    assert "BenchBroken" in told.out
    assert "forward stopped at 64 tokens: RuntimeError: too long for me" in told.out
    assert sorted(path.name for path in out.iterdir()) == ["contexts.json", "contexts.png"]
    assert main(argv) == 2
    assert "contexts.png exists; say --overwrite" in capsys.readouterr().err


def test_table_lays_out_lengths_exponents_and_stops():
    series = {
        "forward": [{"tokens": 1024, "seconds": 0.01234, "mebibytes": 3.2}, {"tokens": 4096, "seconds": 123.4, "mebibytes": 9}],
        "both": [{"tokens": 1024, "seconds": 2.0, "mebibytes": 1234.0}],
    }  # fmt: skip
    exponents = {"forward": {"time": 1.044, "memory": None}, "both": {"time": None, "memory": None}}
    facts = series | {"exponents": exponents, "stopped": {"both": "4,096 tokens: took longer than 5 s"}}
    assert table({"Mine": facts}, "seconds", {"Mine": "  3 parameters"}) == "\n".join([
        "                            forward        forward + backward",
        "                  tokens         s  MiB    s   MiB",
        "Mine               1,024    0.0123    3    2  1234",
        "  3 parameters     4,096       123    9    –     –",
        "                exponent      1.04",
        "  forward + backward stopped at 4,096 tokens: took longer than 5 s",
    ])  # fmt: skip


def test_operations_come_with_rates_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    argv = ["bench", "ops", "window_attention", "--tokens", "512", "--threads", "1", "--repeats", "1", "--json"]
    assert main([*argv, "--peers", "blocked,published", "-o", str(tmp_path / "out")]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "out/ops.json").read_text()) == facts
    peers = facts["ops"]["window_attention"]["peers"]
    assert list(peers) == ["blocked", "published"]
    (point,) = peers["published"]["both"]
    assert point["rate"] == pytest.approx(2 * 3 * 32 * 512 * 256 * 7 / point["cpu_seconds"] / 1e9)
    assert point["of_limit"] == pytest.approx(point["rate"] / 50)
    assert point["times_first"] == pytest.approx(point["cpu_seconds"] / peers["blocked"]["both"][0]["cpu_seconds"])
    assert 0 < peers["blocked"]["check"] < 1e-4


@pytest.mark.parametrize("name", ops.OPS)
def test_all_peers_give_what_the_reference_gives(name: str):
    peers = ops.chosen(name, SETTINGS)
    checked = ops.check(name, peers, SETTINGS)
    assert set(checked) == {each for each, peer in peers.items() if peer.oracle is not None}
    assert max(checked.values()) < 2e-5


def test_estimates_tell_their_error_to_exact_attention():
    error = {peer: ops.load("hyper_attention").errors(peer, 5120, "cpu") for peer in ("plain", "plain_taper", "sdpa")}
    assert 0.09 < error["plain"] < 0.13
    assert 0.01 < error["plain_taper"] < 0.03
    assert error["sdpa"] is None


@pytest.mark.parametrize("wrong", ["output", "gradient of input 3", "NaN"])
def test_no_figures_of_a_wrong_operation(wrong: str, monkeypatch: pytest.MonkeyPatch, capsys, tmp_path: Path):
    right = interface.BACKENDS["blocked"].run

    def run(qkv: Tensor, scale: Tensor, bias: Tensor, masks: Tensor | None, kinds: Tensor | None) -> Tensor:
        out = right(qkv, scale, bias, masks, kinds)
        if wrong == "gradient of input 3":
            return out + 0.1 * (bias - bias.detach()).sum()
        return out * (1.001 if wrong == "output" else math.nan)

    monkeypatch.setitem(interface.BACKENDS, "blocked", Backend(run))
    monkeypatch.setattr(compare, "sweep", lambda *args: pytest.fail("measured what is wrong"))
    assert main(["bench", "ops", "window_attention", "--threads", "1", "-o", str(tmp_path / "out")]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    what = "output" if wrong == "NaN" else wrong
    assert told.err.startswith(f"xt: error: window_attention: the {what} of 'blocked' in float")
    assert told.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["context"], "no such thing to measure; did you mean 'contexts'?"),
        (["contexts", "Hypr"], "no context encoder is named 'Hypr'; did you mean 'Hyper'?"),
        (["contexts", "Mamba:dept=2"], "Mamba takes no argument 'dept'; did you mean 'depth'?"),
        (["contexts", "Mamba:depth=x"], "Mamba:depth=x cannot be built: 'str' object cannot be"),
        (["contexts", "Mamba:depth"], "'depth' has no value; write Mamba:depth=VALUE"),
        (["contexts", "--plugins", "no_such_module"], "no module named 'no_such_module'"),
        (["ops", "hyper_atention"], "did you mean 'hyper_attention'?"),
        (["ops", "selective_scan", "--peers", "numbba"], "did you mean 'numba'?"),
        (["ops", "--tokens", "many"], "'many' is no number of tokens"),
        (["ops", "--repeats", "0"], "--repeats 0: it must be at least 1"),
    ],
)
def test_unknown_names_give_the_nearest(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    assert main(["bench", *argv]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("where", ["sweep", "plot"])
def test_interrupted_it_leaves_no_file(where: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def interrupted(*args: object) -> None:
        if where == "plot":
            args[-1].write_bytes(b"half a picture")
        raise KeyboardInterrupt

    monkeypatch.setattr(compare, "sweep", lambda kind, sides, *rest: {side: {} for side in sides})
    monkeypatch.setattr(compare, where, interrupted)
    argv = ["bench", "contexts", "Identity", "--tokens", "16", "--dim", "8", "--threads", "1"]
    assert main([*argv, "-o", str(tmp_path / "out")]) == 130
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
