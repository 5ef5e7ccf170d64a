import os
from collections.abc import Iterator
from itertools import chain

import numpy as np
import pytest
import torch
import torch.distributed as dist
from keys import Keys

from xt.data.base import DataModule
from xt.data.loading import EpochSampler, collate, make_loader
from xt.errors import ConfigError, InputError


def batches(length: int, world: int, size: int, epoch: int = 0, skip: int = 0) -> list[list[list[int]]]:
    """Process → batch → indexes."""
    found = []
    for rank in range(world):
        sampler = EpochSampler(length, 7, True, skip * size, size, world, rank)
        total = len(sampler)
        sampler.set_epoch(epoch)
        keys = list(sampler)
        assert len(keys) == total - skip * size
        assert {key[0] for key in keys} <= {epoch}
        found.append([[index for _, index in keys[i : i + size]] for i in range(0, len(keys), size)])
    return found


@pytest.mark.parametrize("length", [24, 25, 29, 100])
@pytest.mark.parametrize(("world", "size"), [(1, 6), (2, 3), (3, 2), (6, 1)])
def test_batches_of_all_processes_are_those_of_one(length: int, world: int, size: int):
    for epoch in (0, 3):
        (alone,) = batches(length, 1, 6, epoch)
        together = batches(length, world, size, epoch)
        assert {len(each) for each in together} == {length // 6}
        for step, batch in enumerate(alone):
            mine = [each[step] for each in together]
            assert sorted(chain(*mine)) == sorted(batch)
            assert [index for turn in zip(*mine, strict=True) for index in turn] == batch  # strided
    assert batches(length, world, size, 0) != batches(length, world, size, 1)


def test_going_on_repeats_and_skips_nothing():
    for world, size in ((1, 4), (2, 2)):
        whole, rest = batches(30, world, size, 2), batches(30, world, size, 2, skip=3)
        assert rest == [each[3:] for each in whole]
    sampler = EpochSampler(30, 0, True, skip=8, batch_size=4)
    assert len(sampler) == 28
    assert [len(list(sampler)), len(list(sampler))] == [20, 28]


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("length", [1, 7, 10])
def test_every_validation_sample_is_scored_once(length: int, world: int):
    samplers = [EpochSampler(length, 0, False, batch_size=4, num_replicas=world, rank=rank) for rank in range(world)]
    found = [[index for _, index in sampler] for sampler in samplers]
    assert [len(each) for each in found] == [len(sampler) for sampler in samplers]
    assert sorted(chain(*found)) == list(range(length))
    assert all(each == sorted(each) for each in found)


def test_few_samples_are_shared_out_evenly_or_refused():
    assert [[len(b) for b in each] for each in batches(7, 1, 16)] == [[7]]
    assert [[len(b) for b in each] for each in batches(7, 3, 16)] == [[2]] * 3
    with pytest.raises(ConfigError, match="2 training samples for 3 processes"):
        len(EpochSampler(2, 0, True, num_replicas=3, rank=0))


@pytest.fixture
def alone_together() -> Iterator[None]:
    """A group of processes that has one member."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_processes_are_asked_for_when_the_order_is_needed(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
):
    sampler = EpochSampler(10, 0, False)
    assert len(sampler) == 10
    request.getfixturevalue("alone_together")
    assert len(sampler) == 10
    monkeypatch.setattr(dist, "get_world_size", lambda: 4)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    assert [index for _, index in sampler] == [1, 5, 9]


def test_workers_stay_and_learn_the_epoch():
    loader = make_loader(Keys(), 2, 1, 5, True, skip_batches=2)
    processes = set()
    for epoch, skip in ((3, 2), (4, 0), (9, 0)):
        loader.sampler.set_epoch(epoch)
        found = list(loader)
        order = np.random.default_rng((5, epoch)).permutation(11).tolist()[:10]
        assert torch.cat([batch["index"] for batch in found]).tolist() == order[2 * skip :]
        assert {int(e) for batch in found for e in batch["epoch"]} == {epoch}
        processes |= {int(p) for batch in found for p in batch["process"]}
    assert len(processes) == 1
    assert processes != {os.getpid()}


class Numbers(DataModule):
    bands, mean, std = ("a",), (0.0,), (1.0,)
    asked: list[str]

    def dataset(self, split: str) -> Keys:
        self.asked = [*getattr(self, "asked", []), split]
        return Keys()


def test_the_base_sets_up_once_and_loaders_skip_once():
    data = Numbers("x", batch_size=3, seed=5)
    data.setup("fit")
    data.setup("validate")
    data.setup("fit")
    assert data.asked == ["train", "validation"]
    data.setup("test")
    assert data.asked[-1] == "test"
    data.skip_batches = 2
    loader = data.train_dataloader()
    first, second = ([batch["index"].tolist() for batch in loader] for _ in range(2))
    assert [batch["index"].tolist() for batch in data.train_dataloader()] == first  # made anew before a batch is used
    data.skip_batches = 0
    assert [batch["index"].tolist() for batch in data.train_dataloader()] == second
    assert (len(first), len(second)) == (1, 3)
    assert first == second[2:]
    assert [len(batch["index"]) for batch in data.val_dataloader()] == [1] * 11
    assert [int(batch["index"]) for batch in data.test_dataloader()] == list(range(11))
    assert data.inputs.bands == ("a",)


@pytest.mark.parametrize(("key", "value"), [("image_size", 0), ("batch_size", 0), ("num_workers", -1)])
def test_sizes_too_small_name_their_key(key: str, value: int):
    with pytest.raises(ConfigError, match=rf"data\.init_args\.{key} is {value}"):
        Numbers("x", **{key: value})


def test_statistics_of_a_run_are_taken_where_the_data_say_none():
    class Late(DataModule):
        """Says its statistics when it is set up."""

        def dataset(self, split: str) -> Keys:
            return Keys()

        def setup(self, stage: str) -> None:
            self.mean, self.std = getattr(self, "mean", ()) or (3.0,), (1.0,)

    data = Late()
    others = {"classes": [], "samples": None}
    assert data.state_dict() == {"mean": [], "std": [], "target_mean": [], "target_std": []} | others
    data.load_state_dict({"mean": [7.0], "other": 1})
    data.setup("fit")
    assert data.state_dict() == {"mean": [7.0], "std": [1.0], "target_mean": [], "target_std": []} | others
    data.load_state_dict({"mean": [8.0], "target_mean": [2.0]})
    assert (data.mean, data.target_mean) == ((7.0,), (2.0,))


def test_samples_of_arrays_and_of_tensors_make_the_same_batch():
    arrays = [
        {"image": np.full((1, 2, 3), i, np.float32), "name": str(i), "label": i, "of": {"x": np.ones(2)}}
        for i in (4, 5)
    ]
    tensors = [
        each | {"image": torch.from_numpy(each["image"]), "of": {"x": torch.ones(2).double()}} for each in arrays
    ]
    for batch in map(collate, (arrays, tensors)):
        assert batch["image"].shape == (2, 1, 2, 3)
        assert batch["image"][:, 0, 0, 0].tolist() == [4, 5]
        assert batch["label"].tolist() == [4, 5]
        assert batch["of"]["x"].tolist() == [[1, 1], [1, 1]]
        assert batch["name"] == ["4", "5"]
    tensors[1]["image"] = torch.zeros(1, 2, 4)
    with pytest.raises(InputError, match=r"'image' of a batch has the shapes \[\(1, 2, 3\), \(1, 2, 4\)\]"):
        collate(tensors)


def test_every_epoch_may_be_the_first_one_again():
    loader = make_loader(Keys(), 2, 0, 5, True, same=True)
    seen = []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        seen.append([(batch["epoch"].tolist(), batch["index"].tolist()) for batch in loader])
    assert seen[0] == seen[1]
    assert seen[0] != sorted(seen[0])
