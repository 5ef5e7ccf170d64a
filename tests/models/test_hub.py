"""Models that are saved and shared by name; the hub is a folder here."""

import functools
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from parts import small_model

import xt
from xt.cli.main import main
from xt.errors import CheckpointError, ModelError, OutputError
from xt.files import previous
from xt.models import hub
from xt.models.checkpoint import build_from_spec, load_model, read_metadata, save_model
from xt.models.metadata import ModelMetadata
from xt.models.xt import XT

METADATA = ModelMetadata("semantic-segmentation", ("red", "nir"), (1.5, 2.0), (3.0, 4.0), -9.0, ("sea", "old ship"), 64,
                         10.0, name="ships")  # fmt: skip
SPEC: dict[str, Any] = {
    "region_encoder": {
        "class_path": "TimmFeatures",
        "init_args": {
            "name": "convnext_atto", "in_chans": 2, "region_size": 64,
            "model_args": {"dims": [8, 8, 8, 8], "depths": [1, 1, 1, 1]},
        },
    },
    "context": {"class_path": "Mamba", "init_args": {"depth": 1, "d_state": 2}},
    "context_dim": 8,
    "decoder": {"class_path": "UNet", "init_args": {"filters": [8, 8, 8, 8]}},
    "heads": {"mask": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> XT:
    torch.manual_seed(0)
    model = build_from_spec(SPEC).eval()
    model.metadata = METADATA
    return model


class FakeHub:
    """A hub whose repositories are folders; it knows what was called."""

    def __init__(self, root: Path) -> None:
        self.root, self.calls = root, []

    def snapshot_download(self, repo_id: str, *, revision: str | None, allow_patterns: list[str], **kwargs: Any) -> str:
        self.calls.append((repo_id, revision, kwargs))
        folder = self.root / repo_id
        if not folder.is_dir():
            raise RepositoryNotFoundError("404 Client Error.\n\nRepository Not Found", response=_response(404))
        return str(folder)

    def api(self, token: str | None = None) -> "FakeHub":
        return self

    def create_repo(self, repo_id: str, *, private: bool | None, exist_ok: bool) -> Any:
        (self.root / repo_id).mkdir(parents=True, exist_ok=exist_ok)
        return type("Url", (str,), {"repo_id": repo_id})()

    def file_exists(self, repo_id: str, filename: str, *, revision: str | None) -> bool:
        return (self.root / repo_id / filename).exists()

    def upload_folder(self, *, repo_id: str, folder_path: Path, ignore_patterns: list[str], **kwargs: Any) -> str:
        self.calls.append((repo_id, kwargs))
        for file in Path(folder_path).iterdir():
            if file.name not in ignore_patterns:
                (self.root / repo_id / file.name).write_bytes(file.read_bytes())
        return f"https://huggingface.co/{repo_id}/commit/1"


def _response(status: int) -> Any:
    """What the hub's errors carry, of whichever client this version has."""
    return type("Response", (), {"status_code": status, "headers": {}, "request": None, "text": "", "url": ""})()


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    monkeypatch.setattr(huggingface_hub, "HfApi", fake.api)
    return fake


def same(ours: XT, theirs: XT) -> bool:
    mine, other = ours.state_dict(), theirs.state_dict()
    return mine.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in mine.items())


def test_a_folder_goes_around_with_weights_metadata_and_card(model: XT, tmp_path: Path):
    assert model.save_pretrained(tmp_path / "model") is None
    loaded = xt.XT.from_pretrained(tmp_path / "model")
    assert same(loaded, model)
    assert not loaded.training
    assert (loaded.metadata, loaded.spec()) == (METADATA, model.spec())
    loaded.save_pretrained(tmp_path / "run/model")
    assert read_metadata(tmp_path / "run") == METADATA
    assert same(XT.from_pretrained(str(tmp_path / "run")), model)
    card = (tmp_path / "model/README.md").read_text()
    for fact in ("# ships", "2 bands (red, nir)", "-9 is no data", "64 × 64 px of 10 m", "sea, old ship", "context Mamba",
                 "xt predict scene.tif -m FOLDER", "pipeline_tag: image-segmentation"):  # fmt: skip
        assert fact in card


def test_a_card_that_a_person_wrote_stays(model: XT, tmp_path: Path):
    save_model(tmp_path / "model", model, METADATA)
    assert not (tmp_path / "model/README.md").exists()
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model/README.md").write_text("mine")
    model.save_pretrained(tmp_path / "model")
    save_model(tmp_path / "model", model, METADATA)
    assert (tmp_path / "model/README.md").read_text() == "mine"
    (tmp_path / "model").rename(previous(tmp_path / "model"))  # where a kill between two renames leaves it
    model.save_pretrained(tmp_path / "model")
    assert (tmp_path / "model/README.md").read_text() == "mine"
    (tmp_path / "model/notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"it holds notes\.txt"):
        model.save_pretrained(tmp_path / "model")


def test_a_model_without_metadata_says_what_it_needs(tmp_path: Path):
    bare = small_model()
    with pytest.raises(ModelError, match="no metadata to save"):
        bare.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_to_the_hub_and_back(model: XT, fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert model.push_to_hub("org/ships", branch="main", token="t") == "https://huggingface.co/org/ships/commit/1"
    assert "-m hf://org/ships" in (fake.root / "org/ships/README.md").read_text()
    (fake.root / "org/ships/README.md").write_text("mine")
    model.save_pretrained(tmp_path / "ships", push_to_hub=True, repo_id="org/ships")
    assert (fake.root / "org/ships/README.md").read_text() == "mine"
    fake.calls.clear()
    monkeypatch.chdir(tmp_path)
    assert same(XT.from_pretrained("org/ships", revision="v1", local_files_only=True), model)
    assert same(XT.from_pretrained("hf://org/ships@v2"), model)
    assert same(xt.load("hf://org/ships", device="cpu").network, model)
    assert load_model(Path("hf://org/ships@v3"))[1] == METADATA
    assert [call[:2] for call in fake.calls] == [("org/ships", each) for each in ("v1", "v2", None, "v3")]
    assert fake.calls[0][2]["local_files_only"]
    with pytest.raises(CheckpointError, match="revision v2 in its name"):
        XT.from_pretrained("hf://org/ships@v2", revision="v1")


def test_the_page_on_export(model: XT, fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page = (Path(__file__).parents[2] / "docs/export.md").read_text()
    (code,) = re.findall(r"```python\n(import xt\n.*?)```", page, re.S)
    model.save_pretrained(tmp_path / "runs/ships/model")
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert same(XT.from_pretrained("hf://org/ships"), model)
    assert same(XT.from_pretrained("ships"), model)


def test_a_folder_goes_before_a_repository_of_its_name(
    model: XT, fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    model.save_pretrained("org/ships")
    assert same(XT.from_pretrained("org/ships"), model)
    assert fake.calls == []


def test_what_comes_from_the_hub_is_checked(model: XT, fake: FakeHub):
    model.push_to_hub("org/ships")
    weights = fake.root / "org/ships/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(CheckpointError, match="is damaged: its SHA-256 is not the one"):
        XT.from_pretrained("org/ships")
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"hf://org/ships is not an xT model: it has no model\.safetensors"):
        XT.from_pretrained("org/ships")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RepositoryNotFoundError("404\n\nx", response=_response(404)), "does not exist, or is private"),
        (LocalEntryNotFoundError("no internet\nx"), "cannot be reached"),
        (HfHubHTTPError("500 Server Error\nx", response=_response(500)), "cannot be had or written: 500 Server Error"),
        (OSError(28, "No space left"), "No space left"),
    ],
)
def test_what_the_hub_says_is_one_line(error: Exception, said: str, monkeypatch: pytest.MonkeyPatch, model: XT):
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", fail)
    for call in (lambda: XT.from_pretrained("org/none"), lambda: model.push_to_hub("org/none")):
        with pytest.raises(CheckpointError, match=f"^hf://org/none .*{said}") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_hub_that_is_not_there_is_one_line(model: XT, monkeypatch: pytest.MonkeyPatch):
    nowhere = functools.partial(huggingface_hub.HfApi, endpoint="http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub, "HfApi", nowhere)
    with pytest.raises(CheckpointError, match=r"^hf://org/none cannot be .*refused") as caught:
        model.push_to_hub("org/none", token="none")
    assert "\n" not in str(caught.value)


def test_offline_and_not_in_the_cache_is_one_line_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "a.tif").touch()
    assert main(["predict", str(tmp_path / "a.tif"), "-m", "hf://org/none", "-o", str(tmp_path / "o.tif")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "hf://org/none cannot be reached, and is not in the cache" in error


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("hf://org/name", ("org/name", None)),
        ("hf:org/name@a/b", ("org/name", "a/b")),
        (str(Path("hf://org/na.me-1/")), ("org/na.me-1", None)),
        ("org/name", None),
        ("runs/x/model", None),
        ("hf://name", None),
        ("hf://a/b/c", None),
    ],
)
def test_addresses(text: str, want: tuple[str, str | None] | None):
    assert hub.address(text) == want


def test_the_digest_is_that_of_the_weights(model: XT, tmp_path: Path):
    model.save_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    assert config["sha256"] == hashlib.sha256((tmp_path / "model/model.safetensors").read_bytes()).hexdigest()
