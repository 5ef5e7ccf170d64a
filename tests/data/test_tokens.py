import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from xt.data.labels import LabelTable
from xt.data.scene_tokens import SceneTokens, TokenFacts, open_tokens, read_facts
from xt.data.targets import cell_targets, detection_targets
from xt.data.tokens import TokenData
from xt.errors import InputError, LabelError
from xt.losses.tokens import TokenLoss


def points() -> LabelTable:
    rng = np.random.default_rng(0)
    return LabelTable.build(
        30, row=rng.integers(0, 256, 30).astype(float), column=rng.integers(0, 192, 30).astype(float),
        is_vessel=rng.choice([0.0, 1.0, np.nan], 30), is_fishing=rng.choice([0.0, 1.0, np.nan], 30),
        confidence=rng.choice(["HIGH", "LOW"], 30, p=[0.8, 0.2]),
    )  # fmt: skip


def test_cells_from_labels_are_those_from_pixels():
    """Well apart, so that no disc hides another's."""
    table = points()
    places = np.stack([table.row, table.column], 1)
    apart = [i for i in range(len(table)) if np.hypot(*(places - places[i]).T)[np.arange(30) != i].min() > 16]
    table = table.select(np.array(apart))
    assert len(table) > 5
    pixels = {name: torch.from_numpy(each)[None] for name, each in detection_targets(table, 256, 192).items()}
    pixels["valid"] = torch.ones(1, 1, 256, 192, dtype=torch.bool)
    cells = cell_targets(table, 8, 6, 32)
    assert cells["fishing"].sum() > 0
    assert cells["holds"].sum() > cells["asked"].sum() > cells["fishing"].sum()
    torch.manual_seed(0)
    loss, mixed = TokenLoss(4, 32), torch.randn(1, 4, 8, 6)
    given = {name: torch.from_numpy(each)[None] for name, each in cells.items()} | {"seen": torch.ones(1, 1, 8, 6)}
    torch.testing.assert_close(loss.statistics(mixed, pixels), loss.of_cells(mixed, given))


class _Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def test_facts_and_values_are_read_strictly(tmp_path: Path):
    facts = TokenFacts("a", 70, 40, 32, 16, 3, (True, False) * 3, "0" * 64, {})
    assert facts.shape == (3, 6, 4)
    (tmp_path / "a.json").write_text(facts.to_json())
    assert read_facts(tmp_path / "a.json") == facts
    np.save(tmp_path / "a.npy", np.zeros((3, 6, 5), np.float16))
    with pytest.raises(InputError, match=r"\(3, 6, 5\), its .json says float16 \(3, 6, 4\)"):
        open_tokens(tmp_path / "a.npy", facts)
    np.save(tmp_path / "a.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(InputError, match="cannot be read"):
        open_tokens(tmp_path / "a.npy", facts)
    (tmp_path / "a.npy").write_bytes(pickle.dumps(_Code(str(tmp_path / "ran"))))
    with pytest.raises(InputError, match="cannot be read"):
        open_tokens(tmp_path / "a.npy", facts)
    assert not (tmp_path / "ran").exists()
    (tmp_path / "a.json").write_text('{"scene": "a"}')
    with pytest.raises(InputError, match="not of xt features"):
        read_facts(tmp_path / "a.json")
    with pytest.raises(InputError, match="xt features writes it"):
        read_facts(tmp_path / "none.json")


def test_flips_move_tokens_cells_and_regions_together(tmp_path: Path):
    rng = np.random.default_rng(0)
    facts = TokenFacts("a", 192, 128, 64, 32, 1, tuple(map(bool, rng.integers(0, 2, 6))), "0" * 64, {})
    cell = np.arange(24, dtype=np.float16).reshape(1, 6, 4)
    np.save(tmp_path / "a.npy", cell)
    table = points()
    table = table.select(table.column < 128)
    table = replace(table, row=table.row * 0.7, scene_id=np.full(len(table), "a"))
    plain = SceneTokens([(tmp_path / "a.npy", facts)], table, 0, flip=False)[0, 0]
    flipped = SceneTokens([(tmp_path / "a.npy", facts)], table, 0, flip=True)
    orders = set()
    for epoch in range(12):
        sample = flipped[epoch, 0]
        place = sample["tokens"].astype(int).ravel()
        orders.add(tuple(place))
        for name, values in sample["cells"].items():
            assert (values.ravel() == plain["cells"][name].ravel()[place]).all(), name
        regions = np.kron(sample["exists"], np.ones((2, 2)))
        assert (regions.ravel() == plain["cells"]["seen"].ravel()[place]).all()
    assert len(orders) == 4


def test_scenes_are_looked_at_before_training_and_only_its_own_are_flipped(tmp_path: Path):
    model = {"mlm:input": [{"bands": [{"name": "a"}]}]}
    facts = TokenFacts("s", 128, 128, 64, 32, 1, (True,) * 4, "0" * 64, model)
    for split in ("train", "validation"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "s.json").write_text(facts.to_json())
        (tmp_path / f"{split}.csv").write_text("scene_id,row,column\ns,5,6\n")
    np.save(tmp_path / "train/s.npy", np.arange(16, dtype=np.float16).reshape(1, 4, 4))
    with pytest.raises(InputError, match=r"validation/s\.npy: no such file"):
        TokenData(str(tmp_path), str(tmp_path)).setup("fit")
    np.save(tmp_path / "validation/s.npy", np.arange(16, dtype=np.float16).reshape(1, 4, 4))
    data = TokenData(str(tmp_path), str(tmp_path))
    data.setup("fit")
    assert data.bands == ("a",)
    seen = {split: {each[epoch, 0]["tokens"].tobytes() for epoch in range(12)} for split, each in data.datasets.items()}
    assert {split: len(each) for split, each in seen.items()} == {"train": 4, "validation": 1}
    (tmp_path / "train.csv").write_text("scene_id,row,column\nS,5,6\n")
    with pytest.raises(LabelError, match=r"train\.csv: none of its 1 objects .*'S' is the name of none, 's' is one"):
        TokenData(str(tmp_path), str(tmp_path)).setup("fit")
    (tmp_path / "train.csv").write_text("scene_id,row,column\n")
    TokenData(str(tmp_path), str(tmp_path)).setup("fit")
