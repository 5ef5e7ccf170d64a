"""Only what a run wrote is ever removed."""

import os
from pathlib import Path

import pytest

from xt.cli.main import main
from xt.errors import OutputError
from xt.training.ownership import check_own, clear

CONFIG = Path(__file__).parents[2] / "configs" / "xview3_4096_512.yaml"
WRITTEN = [
    "config.yaml",
    "metrics.csv",
    "done",
    "checkpoints/last.ckpt",
    "checkpoints/previous.ckpt.sha256",
    "checkpoints/.last.ckpt.0123456789abcdef.partial.ckpt",
    "tensorboard/events.out.tfevents.1.host.2.0",
    "tensorboard/hparams.yaml",
    "samples/0_scene-1.png",
    "samples/.0_scene-1.png.0123abcd.partial.png",
    "model/model.safetensors",
    "model/config.json",
    ".model.0123456789abcdef.partial/config.json",
    ".model.previous/config.json",
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "mine"
    for name in WRITTEN:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("model: {task: {class_path: xt.tasks.detection.PointDetection}}\n")
    return folder


def everything(folder: Path) -> set[Path]:
    return {Path(top) / name for top, folders, files in os.walk(folder) for name in (*folders, *files)}


def test_a_run_is_cleared(run: Path):
    check_own(run, True, [])
    clear(run)
    assert everything(run) == set()


def test_what_is_left_of_a_killed_removal_is_still_a_run(run: Path, monkeypatch: pytest.MonkeyPatch):
    plain, removed = Path.unlink, list[Path]()

    def once(path: Path, missing_ok: bool = False) -> None:
        if removed:
            raise KeyboardInterrupt
        removed.append(path)
        plain(path, missing_ok)

    while len([path for path in everything(run) if path.is_file()]) > 1:
        removed.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", once)
            with pytest.raises(KeyboardInterrupt):
                clear(run)
        check_own(run, True, [])
    assert (run / "config.yaml").exists()


@pytest.mark.parametrize("name", ["notes.txt", "checkpoints/mine.ckpt", "model/readme.md", "data/a.tif", "last.ckpt"])
def test_a_foreign_file_is_named_and_nothing_is_removed(run: Path, name: str, capsys: pytest.CaptureFixture[str]):
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).write_text("mine")
    before = everything(run)
    with pytest.raises(OutputError, match=name.split("/")[0]):
        check_own(run, True, [])
    check_own(run, False, [])  # going on removes nothing
    assert main(["train", str(CONFIG), "--run_dir", str(run), "--fresh"]) == 2
    assert name.split("/")[0] in capsys.readouterr().err
    assert everything(run) == before


def test_links_are_refused(run: Path, tmp_path: Path):
    link = tmp_path / "link"
    link.symlink_to(run)
    with pytest.raises(OutputError, match="is a link"):
        check_own(link, True, [])
    (run / "done").unlink()
    (run / "done").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="holds done"):
        check_own(run, True, [])


def test_home_current_folder_and_what_holds_data_are_refused(run: Path, monkeypatch: pytest.MonkeyPatch):
    for keep in ([run / "model"], [CONFIG, run / "model"]):
        with pytest.raises(OutputError, match=r"holds .*model"):
            check_own(run, True, keep)
    monkeypatch.setenv("HOME", str(run))
    with pytest.raises(OutputError, match="--fresh would remove"):
        check_own(run, True, [])
    monkeypatch.setenv("HOME", "/")
    monkeypatch.chdir(run)
    with pytest.raises(OutputError, match="--fresh would remove"):
        check_own(Path("."), True, [])


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("content", [None, "name: other\n", "model: {task: {class_path: torch.nn.Linear}}\n", ": [\n"])
def test_a_folder_that_is_no_run_is_neither_cleared_nor_filled(tmp_path: Path, content: str | None, fresh: bool):
    (tmp_path / "a.txt").write_text("mine")
    if content:
        (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(OutputError, match=r"holds a\.txt and is no run"):
        check_own(tmp_path, fresh, [])


def test_a_file_and_an_empty_folder(tmp_path: Path):
    check_own(tmp_path, True, [])
    (tmp_path / ".config.yaml.0123456789abcdef.partial.yaml").write_text("mod")  # killed while it was written
    check_own(tmp_path, False, [])
    check_own(tmp_path / "none", True, [])
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is no folder"):
        check_own(tmp_path / "file", False, [])
