"""What Lightning says to everybody is left out while xT trains, and only then."""

import logging
import warnings
from pathlib import Path

import pytest

import xt
from xt.errors import ConfigError
from xt.training import cli
from xt.training.parsing import without_noise

NAMES = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.profilers")


def levels() -> list[int]:
    return [logging.getLogger(name).level for name in NAMES]


def test_messages_of_lightning_are_left_out_and_others_are_not():
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with without_noise():
            assert levels() == [logging.WARNING, logging.WARNING, logging.INFO]
            warnings.warn("The 'val_dataloader' does not have many workers which may be a bottleneck", stacklevel=1)
            warnings.warn("of the user's", stacklevel=1)
    assert [str(each.message) for each in heard] == ["of the user's"]


def test_a_program_has_its_loggers_and_warnings_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    during: list[list[int]] = []

    def refuse(*_: object) -> None:
        during.append(levels())
        raise ConfigError("as asked")

    monkeypatch.setattr(cli, "check_config", refuse)
    before = levels()
    logging.getLogger(NAMES[0]).setLevel(logging.DEBUG)
    filters = list(warnings.filters)
    try:
        with pytest.raises(ConfigError, match="as asked"):
            xt.train(tmp_path / "none.yaml")
        assert during == [[logging.WARNING, logging.WARNING, logging.INFO]]
        assert levels() == [logging.DEBUG, *before[1:]]
        assert warnings.filters == filters
    finally:
        logging.getLogger(NAMES[0]).setLevel(before[0])
