"""What ``xt features`` asks for; nothing is encoded."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_inputs import noise, raster

from xt.cli.main import main
from xt.data.source import Source
from xt.errors import InputError
from xt.inference import features, session
from xt.models.metadata import ModelMetadata


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A folder with images, and what is asked for of each."""
    found: list[tuple[Any, ...]] = []
    metadata = ModelMetadata("classification", ("b0", "b1"), (0.0, 0.0), (1.0, 1.0), classes=("x", "y"))

    def load(*given: Any) -> Any:
        found.append(given)
        return SimpleNamespace(network="network", metadata=metadata)

    def encode(network: object, told: ModelMetadata, source: Source, out: Path, *options: Any) -> bool:
        assert (network, told) == ("network", metadata)
        if source.path.stem == "bad":
            raise InputError("bad.tif: cannot be read")
        found.append((source.path.name, source.indexes, source.nodata, str(out), *options))
        return True

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(session, "load", load)
    monkeypatch.setattr(features, "encode_image", encode)
    for name in ("a", "b", "bad"):
        raster(tmp_path / f"{name}.tif", noise(3, 70, 70))
    return found


def test_options_reach_the_work(asked: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]):
    argv = ["features", "[ab].tif", "-m", "m", "-o", "out/tokens", "--bands", "3,1"]
    assert main(argv) == 0
    assert capsys.readouterr().out == "out/tokens: tokens of 2 images\n"
    more = ["--nodata", "7", "--overwrite", "--precision", "bf16", "--device", "cpu", "--plugins", "p"]
    assert main([*argv, *more]) == 0
    assert asked[0] == (Path("m"), None, [])
    assert asked[3] == (Path("m"), "cpu", ["p"])
    assert asked[1:3] == [(f"{name}.tif", (3, 1), (), f"out/tokens/{name}", False, "fp32") for name in "ab"]
    assert asked[4] == ("a.tif", (3, 1), (7.0,), "out/tokens/a", True, "bf16")


def test_one_image_that_fails_spoils_no_other(asked: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]):
    argv = ["features", "a.tif", "bad.tif", "b.tif", "-m", "m", "-o", "tokens", "--bands", "1,2"]
    assert main(argv) == 3
    told = capsys.readouterr()
    assert told.out == "tokens: tokens of 2 images\n"
    assert told.err == "xt: error: bad.tif: cannot be read\n"
    assert [each[0] for each in asked[1:]] == ["a.tif", "b.tif"]
