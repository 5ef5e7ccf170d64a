"""Loading that goes on exactly: order and augmentation of samples are functions of seed, epoch and index."""

import signal
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset, Sampler

from xt.errors import ConfigError, InputError

Key = tuple[int, int]
"""Epoch and index: what a sampler yields and a dataset is asked for."""


class EpochSampler(Sampler[Key]):
    """Yields ``(epoch, index)`` of this process; holds no random state.

    Of w processes with batches of b, process r gets samples r, r + w, r + 2w, … of the epoch's order. So the k-th
    batches of all processes together hold the samples of the k-th batch of w · b in one process.

    When shuffled, for training, all processes get equally many: samples that do not fill a last batch of all processes
    are left out, or, where there is no full batch at all, those that cannot be shared out evenly. When not, for scores,
    each sample is given exactly once, and processes may get one more or less.

    Args:
        length: Samples of an epoch.
        seed: Of the order.
        shuffle: Whether the order changes from epoch to epoch.
        skip: Samples of this process already used in the first epoch that is asked for.
        batch_size: Samples of a batch of one process.
        num_replicas: Processes; those of ``torch.distributed`` by default, asked when the order is needed.
        rank: This process among them.
        same: Whether every epoch is the first one again.
    """

    def __init__(
        self,
        length: int,
        seed: int,
        shuffle: bool,
        skip: int = 0,
        batch_size: int = 1,
        num_replicas: int | None = None,
        rank: int | None = None,
        same: bool = False,
    ) -> None:
        self.length, self.seed, self.shuffle, self.skip, self.batch_size = length, seed, shuffle, skip, batch_size
        self.num_replicas, self.rank, self.same = num_replicas, rank, same
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; the trainer calls this."""
        self.epoch = 0 if self.same else epoch

    def __len__(self) -> int:
        return len(self._mine())

    def __iter__(self) -> Iterator[Key]:
        order = np.arange(self.length)
        if self.shuffle:
            np.random.default_rng((self.seed, self.epoch)).shuffle(order)
        skip, self.skip = self.skip, 0
        return iter([(self.epoch, int(order[place])) for place in self._mine()[skip:]])

    def _mine(self) -> range:
        """Places of this process's samples in the order."""
        together = dist.is_available() and dist.is_initialized()
        world = self.num_replicas if self.num_replicas is not None else dist.get_world_size() if together else 1
        rank = self.rank if self.rank is not None else dist.get_rank() if together else 0
        used = self.length
        if self.shuffle:
            used -= used % (world * self.batch_size if used >= world * self.batch_size else world)
            if self.length and not used:
                raise ConfigError(f"data: {self.length} training samples for {world} processes; use fewer devices")
        return range(rank, used, world)


def make_loader(
    dataset: Dataset[Any],
    batch_size: int,
    num_workers: int,
    seed: int,
    shuffle: bool,
    skip_batches: int = 0,
    epoch: int = 0,
    same: bool = False,
) -> DataLoader[Any]:
    """Make a loader over a dataset that is asked for ``(epoch, index)``.

    Worker processes stay from epoch to epoch; the epoch comes with each key, from the sampler in this process.

    Args:
        dataset: ``__getitem__`` takes a :data:`Key`.
        batch_size: Samples of a batch.
        num_workers: Processes; 0 loads in this one.
        seed: Of the order.
        shuffle: Change the order from epoch to epoch; a last, smaller batch is then left out.
        skip_batches: Batches of the first epoch that an earlier run has used.
        epoch: The first; worker processes ask for samples before a trainer that goes on says which it is.
        same: Give the samples of the first epoch in every epoch.
    """
    length = len(dataset)  # type: ignore[arg-type]
    sampler = EpochSampler(length, seed, shuffle, skip_batches * batch_size, batch_size, same=same)
    sampler.set_epoch(epoch)
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=collate,
        persistent_workers=num_workers > 0,
        worker_init_fn=_ignore_interrupts if num_workers else None,
        multiprocessing_context="spawn" if num_workers else None,
        timeout=300 if num_workers else 0,
    )


def _ignore_interrupts(worker: int) -> None:
    """Leave Ctrl-C, which reaches all processes of a terminal, to the one that trains."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def collate(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Stack arrays and tensors, and make numbers a tensor; what is neither (names, tables) becomes a list.

    Raises:
        InputError: If arrays of one name differ in shape.
    """
    batch: dict[str, Any] = {}
    for key, first in samples[0].items():
        values = [sample[key] for sample in samples]
        if isinstance(first, Mapping):
            batch[key] = collate(values)
        elif isinstance(first, np.ndarray | torch.Tensor):
            shapes = {tuple(value.shape) for value in values}
            if len(shapes) > 1:
                raise InputError(f"data: {key!r} of a batch has the shapes {sorted(shapes)}; give all samples one size")
            batch[key] = torch.from_numpy(np.stack(values)) if isinstance(first, np.ndarray) else torch.stack(values)
        elif isinstance(first, int | float) and not isinstance(first, bool):
            batch[key] = torch.tensor(values)
        else:
            batch[key] = values
    return batch


def sample_rng(seed: int, key: Key) -> np.random.Generator:
    """Random numbers of one sample in one epoch."""
    return np.random.default_rng((seed, *key))
