import subprocess
import sys
from pathlib import Path

import pytest

import xt
from xt import plugins
from xt.cli.main import main
from xt.errors import ConfigError
from xt.training.schema import DEFAULT_LOSSES, check_config
from xt.training.strict_yaml import load

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs/xview3_4096_512.yaml"


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_configs_pass(path: Path):
    check_config(path, [])
    overrides = ["--data.root", "x", "--trainer.max_epochs=3", "--model.model.context", "Identity", "--run_dir", "y"]
    overrides += [
        "--model.model.region_encoder.init_args.name",
        "a",
        "--model.lr",
        "1",
        "--model.model.context.class_path",
        "Hyper",
    ]
    check_config(path, overrides)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("trainer:", "trainr:", "unknown key 'trainr'; did you mean 'trainer'"),
        ("max_epochs", "max_epoch", "unknown key 'trainer.max_epoch'; did you mean 'max_epochs'"),
        (
            "PointDetection",
            "PointDetecton",
            "model.task.class_path 'PointDetecton' is unknown; did you mean 'PointDetection'",
        ),
        ("weight_decay", "weigth_decay", "'model.weigth_decay'; did you mean 'weight_decay'"),
        ("context_dim", "contexts_dim", "'model.model.contexts_dim'; did you mean 'context_dim'"),
        ("class_path: Mamba", "class_path: Mambo", "context.class_path 'Mambo' is unknown; did you mean 'Mamba'"),
        ("depth: 4", "deph: 4", "context.init_args.deph'; did you mean 'depth'"),
        ("region_size", "region_siz", "region_encoder.init_args.region_siz'; did you mean 'region_size'"),
        ("image_size", "img_size", "data.init_args.img_size'; did you mean 'image_size'"),
    ],
)
def test_typos_are_found_at_every_depth(tmp_path: Path, old: str, new: str, message: str):
    path = tmp_path / "c.yaml"
    text = CONFIG.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(ConfigError, match=message):
        check_config(path, [])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--trainer.max_epoch", "unknown key 'max_epoch'; did you mean 'max_epochs'"),
        ("--modl.lr", "unknown key 'modl'; did you mean 'model'"),
        ("--model.lrr=1", "unknown key 'lrr'; did you mean 'lr'"),
        ("--model.model.context_dims", "unknown key 'context_dims'; did you mean 'context_dim'"),
        ("--model.model.context.init_args.dept", "unknown key 'dept'; did you mean 'depth'"),
        ("--model.task.loss=PaperDetectionLos", "'PaperDetectionLos' is unknown; did you mean 'PaperDetectionLoss'"),
        ("--data.rot", "unknown key 'rot'; did you mean 'root'"),
    ],
)
def test_typos_in_overrides(override: str, message: str):
    with pytest.raises(ConfigError, match=message):
        check_config(CONFIG, [override, "1"])


def test_a_typo_is_answered_without_torch(tmp_path: Path):
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG.read_text().replace("context_dim", "contexts_dim"))
    code = (
        "import sys; from xt.cli.main import main; code = main(['train', sys.argv[1]])\n"
        "assert 'torch' not in sys.modules\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "did you mean 'context_dim'" in done.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model:\n  task PointDetection\ndata: XView3Data\n", "no model.task:; give one of ImageClassification"),
        ("model:\n  class_path: X\n  init_args\ndata: {}\n", "line 3: could not find expected ':'; write KEY: VALUE"),
        ("model:\n\ttask: PointDetection\n", r"line 2: .*indent with spaces, not tabs"),
        ("model: {}\nmodel: {}\n", "line 2: key 'model' stands twice; keep one"),
        ("- a\n", "must hold keys and values"),
        ("", "must hold keys and values"),
        ("model: !!python/name:os.system x\n", "tags such as !!python are refused"),
        ("model: {task: PointDetection}\n", "no data:; give one of INaturalistData"),
    ],
)
def test_yaml_mistakes_are_said_with_their_line(tmp_path: Path, text: str, message: str):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        check_config(path, [])


def test_parts_of_a_config_may_be_shared(tmp_path: Path):
    path = tmp_path / "c.yaml"
    path.write_text("a: &parts {depth: 1, dim: 2}\nb:\n  <<: *parts\n  dim: 3\nc: {<<: *parts}\n")
    read = load(path)
    assert (read["b"], read["c"]) == ({"depth": 1, "dim": 3}, {"depth": 1, "dim": 2})
    path.write_text("a: &parts {depth: 1}\nb:\n  dim: 3\n  <<: *parts\n  dim: 4\n")
    with pytest.raises(ConfigError, match="line 5: key 'dim' stands twice"):
        load(path)


def test_a_config_that_is_not_there_names_a_near_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError, match=r"did you mean 'configs/xview3_4096_512.yaml'"):
        check_config(Path("configs/xview3_4096_521.yaml"), [])
    with pytest.raises(ConfigError, match="configs is a folder; give a config in it: "):
        check_config(Path("configs"), [])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--model.lr"], "--model.lr has no value"),
        (["--model.model.context", "Mambo"], "'Mambo' is unknown; did you mean 'Mamba'"),
        (["--data=XView3Dta"], "'XView3Dta' is unknown; did you mean 'XView3Data'"),
    ],
)
def test_overrides_without_a_value_or_with_an_unknown_class(overrides: list[str], message: str):
    with pytest.raises(ConfigError, match=message):
        check_config(CONFIG, overrides)


@pytest.mark.parametrize("name", ["Mamba", "xt.models.context.mamba.Mamba"])
def test_arguments_go_to_the_class_that_an_override_names(name: str):
    for key in ("model.model.context", "model.model.context.class_path"):
        check_config(CONFIG, [f"--{key}", name, "--model.model.context.d_state", "8"])
        with pytest.raises(ConfigError, match="unknown key 'd_stat'; did you mean 'd_state'"):
            check_config(CONFIG, [f"--{key}", name, "--model.model.context.d_stat", "8"])
        with pytest.raises(ConfigError, match="unknown key 'head_dim'"):
            check_config(CONFIG, [f"--{key}", name, "--model.model.context.head_dim", "8"])
    check_config(CONFIG, ["--model.model.context", "Mine", "--model.model.context.scale", "2"], more_plugins=True)


def test_an_argument_of_a_class_that_nobody_names_says_which_to_name():
    config = ROOT / "configs/segmentation_ships.yaml"
    given = ["--model.task.loss.class_weights", "[1, 2]"]
    with pytest.raises(ConfigError, match=r"put --model\.task\.loss SegmentationLoss before it"):
        check_config(config, given)
    check_config(config, ["--model.task.loss", "SegmentationLoss", *given])
    with pytest.raises(ConfigError, match=r"put --model\.task\.loss ClassLoss before it"):
        check_config(config, ["--model.task", "ObjectDetection", "--model.task.loss.gamma", "1"])


@pytest.mark.parametrize(("task", "loss"), DEFAULT_LOSSES.items())
def test_the_losses_that_are_named_are_those_that_tasks_take(task: str, loss: str):
    assert type(plugins.resolve("tasks", task)().loss).__name__ == loss


def test_python_is_told_of_mistakes_as_the_command_line_is(tmp_path: Path):
    for overrides, said in (
        (["--trainer.max_step", "3"], "--trainer.max_step: unknown key 'max_step'; did you mean 'max_steps'"),
        (["--model.model.context", "Mambo"], "'Mambo' is unknown; did you mean 'Mamba'"),
    ):
        with pytest.raises(ConfigError, match=said):
            xt.train(CONFIG, [*overrides, "--run_dir", str(tmp_path / "run")])
    assert not list(tmp_path.iterdir())


def test_the_config_as_it_is_understood_is_printed(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(["train", str(ROOT / "configs/xview3_demo.yaml"), "--print_config"])
    assert ended.value.code == 0
    assert "seed_everything: 1" in capsys.readouterr().out


def test_a_wrong_name_beside_plug_ins_is_told_with_the_near_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "nothing_of_a_plug_in.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    argv = ["train", str(ROOT / "configs/xview3_demo.yaml"), "--plugins", "nothing_of_a_plug_in", "--run_dir", "none"]
    assert main([*argv, "--model.model.context", "Mambo"]) == 2
    assert "'Mambo' is unknown; did you mean 'Mamba'?" in capsys.readouterr().err
