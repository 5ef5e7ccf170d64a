"""What a batch must hold, said in one line where a data module of one's own gives something else."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from xt.errors import InputError

SAMPLE = {
    "image": ("(C, H, W)", torch.float32),
    "valid": ("(1, H, W)", torch.bool),
    "mask": ("(H, W)", torch.int64),
    "values": ("(T, H, W)", torch.float32),
    "label": ("()", torch.int64),
}
"""Key → shape and type of a sample."""
GIVEN = {
    "mask": ("mask",),
    "values": ("values",),
    "label": ("label",),
    "points": ("targets", "points", "scene_id", "origin"),
}
"""What a task learns from → the keys that hold it."""


def check_batch(batch: Mapping[str, Any], gives: str, bands: int, targets: int, any_float: bool = False) -> None:
    """Compare keys, types and shapes of a batch of images with what its task takes.

    Args:
        batch: Of a loader.
        gives: Of the data module; of another kind than the built-in ones the image alone is looked at.
        bands: Of the image.
        targets: Values of a pixel.
        any_float: Whether the trainer has turned what was float32 into another type of fractions.

    Raises:
        InputError: If something is missing or of another type or shape.
    """
    needed = ("image", "valid", "name", *GIVEN.get(gives, ()))
    if missing := [key for key in needed if key not in batch]:
        raise InputError(f"data: a sample has no {missing[0]!r} (it has {', '.join(batch)}); give {', '.join(needed)}")
    found = {key: batch[key] for key in SAMPLE if key in needed}
    for key, value in found.items():
        shape, kind = SAMPLE[key]
        dims = shape.count(",") + 1 if shape != "()" else 0
        fits = isinstance(value, Tensor) and (
            value.dtype == kind or (any_float and kind.is_floating_point and value.is_floating_point())
        )
        if not fits or value.ndim != dims + 1:
            told = f"{value.dtype} {tuple(value.shape[1:])}" if isinstance(value, Tensor) else type(value).__name__
            raise InputError(f"data: {key!r} of a sample is {told}; give {kind} {shape}".replace("torch.", ""))
    if found["image"].shape[1] != bands:
        raise InputError(f"data: 'image' of a sample has {found['image'].shape[1]} bands; the data module says {bands}")
    _check_sizes(found, targets)


def check_values(batch: Mapping[str, Any], gives: str, classes: int, ignore_index: int) -> None:
    """Look at the values of a batch whose types are right.

    Args:
        batch: Of a loader.
        gives: Of the data module.
        classes: How many there are.
        ignore_index: Mask value that is no class.

    Raises:
        InputError: If pixels are no numbers or, where they are not valid, not 0, or a class is none.
    """
    image, valid = batch["image"], batch["valid"]
    odd = ~image.isfinite().flatten(1).all(1)
    if odd.any():
        name = batch["name"][int(odd.nonzero()[0])]
        raise InputError(f"data: pixels of {name} are NaN or infinite; set them to 0, and valid to False there")
    wrong = ((image != 0) & ~valid).flatten(1).any(1)
    if wrong.any():
        name = batch["name"][int(wrong.nonzero()[0])]
        raise InputError(f"data: pixels of {name} are not 0 where valid is False; set them to 0, as prediction does")
    if gives in ("mask", "label") and classes:
        known = batch[gives][batch[gives] != ignore_index] if gives == "mask" else batch[gives]
        other = known[(known < 0) | (known >= classes)]
        if len(other):
            raise InputError(f"data: {gives!r} has the class {int(other[0])}, and there are {classes}, from 0 on")


def _check_sizes(found: Mapping[str, Tensor], targets: int) -> None:
    batch, size = len(found["image"]), tuple(found["image"].shape[-2:])
    wanted = {"valid": (1, *size), "mask": size, "values": (targets, *size)}
    for key, value in found.items():
        want = (batch, *wanted.get(key, value.shape[1:]))
        if tuple(value.shape) != want:
            raise InputError(
                f"data: {key!r} of a sample is {tuple(value.shape[1:])} where the image is {size[0]} × {size[1]} px; "
                f"give {want[1:]}"
            )
