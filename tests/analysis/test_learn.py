"""``xt bench contexts --parameters --learn``: equal sizes, one lesson for all, and what is said of it."""

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest

from xt import plugins
from xt.analysis.bench import compare, learn, plot, sizes
from xt.analysis.bench.settings import Settings
from xt.cli.main import main
from xt.errors import XTWarning
from xt.training.schema import check_config

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs/xview3_demo_context.yaml"
SETTINGS = Settings(dim=32)
SIZES = [
    "FullAttention:head_dim=8",
    "Mamba",
    "Mamba2:head_dim=8",
    "RWKV:version=6,head_dim=8",
    "SS2D",
    "TimeMachine",
    "Vim",
]


@pytest.mark.parametrize("text", SIZES)
def test_encoders_get_one_size_and_keep_what_was_said(text: str):
    found = sizes.sized(text, 40_000, SETTINGS)
    assert found.startswith(text)
    assert sizes.count(found, SETTINGS) == pytest.approx(40_000, rel=sizes.TOLERANCE)


def test_all_encoders_of_the_script_come_to_its_size():
    script = (ROOT / "scripts/far_context.sh").read_text().replace("\\\n", " ")
    (command,) = re.findall(r"bench contexts (.*?) --parameters (\d+)k", script)
    sides, settings = shlex.split(command[0].replace('"${own[@]}"', "")), Settings(dim=64)
    assert {side.split(":")[0] for side in sides} == set(plugins.BUILTINS["context_encoders"])
    for side in sides:
        found = sizes.count(sizes.sized(side, int(command[1]) * 1000, settings), settings)
        assert found == pytest.approx(int(command[1]) * 1000, rel=sizes.TOLERANCE) or side == "Identity"


def test_who_fits_stays_and_who_cannot_comes_near():
    fits = sizes.count("Mamba", SETTINGS)
    assert sizes.sized("Mamba", fits, SETTINGS) == "Mamba"
    assert sizes.sized("Identity", 40_000, SETTINGS) == "Identity"
    with pytest.warns(XTWarning, match=r"^Mamba:depth=2,d_state=16 has 19,968 parameters; .* no nearer to 40,000"):
        assert sizes.sized("Mamba:depth=2,d_state=16", 40_000, SETTINGS) == "Mamba:depth=2,d_state=16"
    lists = "LongNet:depth=2,head_dim=8,segment_lengths=[8,16],dilations=[1,2],mlp_ratio=4"
    assert sizes.sized(lists, sizes.count(lists, SETTINGS), SETTINGS) == lists
    with pytest.warns(XTWarning):
        assert sizes.sized("Mamba:depth=2", 1_000_000, SETTINGS) == "Mamba:depth=2,d_state=128"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Stand in for training: scores depend on encoder and seed; SS2D cannot be trained."""
    told: list[list[str]] = []

    def call(argv: Sequence[str], log: Path, threads: int) -> int:
        told.append(list(argv))
        if argv[0] == "train":
            check_config(CONFIG, [each for each in argv[2:] if each != "--run_dir"][1:])
            run = Path(argv[argv.index("--run_dir") + 1])
            context = json.loads(argv[argv.index("--model.model.context") + 1])
            if context["class_path"] == "SS2D":
                log.write_text("step 1\nxt: error: loss is not finite at step 3\n")
                return 2
            (run / "model").mkdir(parents=True, exist_ok=True)
            if not (run / "model/config.json").exists():
                (run / "model/config.json").write_text("{}")
            (run / "metrics.csv").write_text(
                "step,name,value\n10,train/loss,2\n10,val/fishing_f1,0.25\n20,val/fishing_f1,0.9\n"
            )
        else:
            score = 0.5 + int(argv[1][-1]) / 8 if "Mamba" in argv[1] else 0.5
            (Path(argv[1]) / "test.json").write_text(json.dumps({"test/fishing_f1": score, "test/accuracy": 0.75}))
        return 0

    monkeypatch.setattr(learn, "call_xt", call)
    monkeypatch.setattr(compare.machine, "limits", lambda settings: {"memory": 10.0, "gemm": 50.0})
    monkeypatch.setattr(compare, "sweep", lambda kind, sides, *rest: {side: {} for side in sides})
    return told


def test_all_learn_from_one_config_and_the_scores_are_told(tmp_path: Path, calls: list[list[str]], capsys):
    argv = [
        "bench",
        "contexts",
        "Mamba",
        "Identity",
        "SS2D",
        "--parameters",
        "130k",
        "--threads",
        "1",
        "--seeds",
        "1,2",
    ]
    argv += ["--learn", str(CONFIG), "--set", "trainer.max_epochs=3", "--set", "data.root=here", "-o", str(tmp_path)]
    assert main(argv) == 3
    told = capsys.readouterr()
    runs = tmp_path / "runs"
    assert f"xt: error: SS2D:depth=2,mlp_ratio=2.125, seed 1: loss is not finite at step 3 ({runs}/SS2D_depth=2_mlp_ratio=2.125-1.log)" in told.err  # fmt: skip
    lines = [line.split() for line in told.out.split("learned, on test data")[1].splitlines()]
    assert ["Mamba", "131,072", "0.688", "±", "0.088", "0.750", "±", "0.000", "21,", "21"] in lines
    assert ["SS2D:depth=2,mlp_ratio=2.125", "130,960", "–", "–", "–"] in lines
    first = calls[0]
    assert first[:4] == ["train", str(CONFIG), "--run_dir", str(runs / "Mamba-1")]
    values = dict(zip(first[4::2], first[5::2], strict=True))
    assert values == {
        "--trainer.max_epochs": "3", "--data.root": "here", "--seed_everything": "1", "--data.seed": "1",
        "--model.model.context": '{"class_path": "Mamba", "init_args": {}}', "--trainer.enable_progress_bar": "false",
    }  # fmt: skip
    assert [call[0] for call in calls] == ["train", "eval", "train", "eval", "train"] * 2
    later = calls[5]
    assert [later[later.index(key) + 1] for key in ("--run_dir", "--seed_everything", "--data.seed")] == [
        str(runs / "Mamba-2"), "2", "2",
    ]  # fmt: skip
    facts = json.loads((tmp_path / "contexts.json").read_text())
    assert facts["settings"]["dim"] == 64  # of the config
    mamba = facts["encoders"]["Mamba"]["learned"]["seeds"]
    assert mamba["2"] == {
        "test": {"fishing_f1": 0.75, "accuracy": 0.75},
        "validation": {"fishing_f1": [[10, 0.25], [20, 0.9]]},
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["contexts.json", "contexts.png", "learned.png", "runs"]

    calls.clear()  # what is scored is not scored again, unless its model is newer
    (runs / "Identity-1/model/config.json").touch()
    assert main([*argv, "--overwrite"]) == 3
    assert [call[1] for call in calls if call[0] == "eval"] == [str(runs / "Identity-1")]


def test_labels_say_what_tells_encoders_apart():
    assert plot._short_names(["Mamba:depth=2", "XL:a=1,b=[2,3]", "XL:a=1,b=[2,4]", "XL:a=1"]) == [
        "Mamba", "XL:b=[2,3]", "XL:b=[2,4]", "XL",
    ]  # fmt: skip


def test_a_run_is_a_process_of_its_own_with_a_log(tmp_path: Path):
    assert learn.call_xt(["--version"], tmp_path / "log", 1) == 0
    assert (tmp_path / "log").read_text().startswith("xt ")
    assert learn.call_xt(["trai"], tmp_path / "log", 1) == 2
    assert learn._last_line(tmp_path / "log") == "no command 'trai'; did you mean 'train'?"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["contexts", "--learn", str(CONFIG)], "needs -o DIR"),
        (["ops", "--learn", str(CONFIG), "-o", "out"], "--learn is of xt bench contexts, not of ops"),
        (
            ["contexts", "--learn", "none.yaml", "-o", "out"],
            "--learn none.yaml: model.model.context_dim cannot be read",
        ),
        (["contexts", "--learn", str(CONFIG), "-o", "out", "--set", "lr"], "--set lr: it has no value; write lr=VALUE"),
        (["contexts", "--parameters", "many"], "--parameters many: write such as 130k or 2M"),
    ],
)
def test_what_does_not_fit_together_is_said(argv: list[str], said: str, calls, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", *argv]) == 2
    assert said in capsys.readouterr().err
    assert calls == []
