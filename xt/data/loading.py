"""Loading that goes on exactly: order and augmentation of samples are functions of seed, epoch and index."""

import signal
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

Key = tuple[int, int]
"""Epoch and index: what a sampler yields and a dataset is asked for."""


class EpochSampler(Sampler[Key]):
    """Yields ``(epoch, index)``; holds no random state.

    Args:
        length: Samples of an epoch.
        seed: Of the order.
        shuffle: Whether the order changes from epoch to epoch.
        skip: Samples already used in the first epoch that is asked for.
    """

    def __init__(self, length: int, seed: int, shuffle: bool, skip: int = 0) -> None:
        self.length, self.seed, self.shuffle, self.skip = length, seed, shuffle, skip
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; the trainer calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Key]:
        order = np.arange(self.length)
        if self.shuffle:
            np.random.default_rng((self.seed, self.epoch)).shuffle(order)
        skip, self.skip = self.skip, 0
        return iter([(self.epoch, int(index)) for index in order[skip:]])


def make_loader(
    dataset: Dataset[Any], batch_size: int, num_workers: int, seed: int, shuffle: bool, skip_batches: int = 0
) -> DataLoader[Any]:
    """Make a loader over a dataset that is asked for ``(epoch, index)``.

    Args:
        dataset: ``__getitem__`` takes a :data:`Key`.
        batch_size: Samples of a batch.
        num_workers: Processes; 0 loads in this one.
        seed: Of the order.
        shuffle: Change the order from epoch to epoch; a last, smaller batch is then left out.
        skip_batches: Batches of the first epoch that an earlier run has used.
    """
    length = len(dataset)  # type: ignore[arg-type]
    sampler = EpochSampler(length, seed, shuffle, skip_batches * batch_size)
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=collate,
        drop_last=shuffle and length >= batch_size,
        persistent_workers=False,
        worker_init_fn=_ignore_interrupts if num_workers else None,
        multiprocessing_context="spawn" if num_workers else None,
        timeout=300 if num_workers else 0,
    )


def _ignore_interrupts(worker: int) -> None:
    """Leave Ctrl-C, which reaches all processes of a terminal, to the one that trains."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def collate(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Stack arrays; what is no array (names, tables) becomes a list."""
    batch: dict[str, Any] = {}
    for key, first in samples[0].items():
        values = [sample[key] for sample in samples]
        if isinstance(first, Mapping):
            batch[key] = collate(values)
        elif isinstance(first, np.ndarray):
            batch[key] = torch.from_numpy(np.stack(values))
        elif isinstance(first, int | float) and not isinstance(first, bool):
            batch[key] = torch.tensor(values)
        else:
            batch[key] = values
    return batch


def sample_rng(seed: int, key: Key) -> np.random.Generator:
    """Random numbers of one sample in one epoch."""
    return np.random.default_rng((seed, *key))
