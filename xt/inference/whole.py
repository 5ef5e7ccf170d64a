"""Images of which a model sees the whole, as in training: photos, brought to its size."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from xt.data.address import shown
from xt.data.georeference import map_crs
from xt.data.photos import Photo
from xt.errors import XTWarning
from xt.files import explained
from xt.geometry.grid import Window
from xt.geometry.plan import blocks
from xt.inference.cog import Part, write_part
from xt.inference.engine import BLOCK
from xt.inference.estimate import Estimate, result_bytes
from xt.inference.options import PredictOptions
from xt.inference.outcome import Outcome
from xt.models.metadata import ModelMetadata
from xt.tasks.base import Task


def windowed(options: PredictOptions) -> str | None:
    """The first option given that means windows of an image, as the command line calls it; None if there is none."""
    given = {
        "--context full": options.context == "full",
        "--overlap": options.overlap is not None,
        "--bands": options.bands is not None,
        "--nodata": options.nodata is not None,
        "--aoi": options.aoi is not None,
        "--mask": options.mask is not None,
        "--window": options.crop is not None,
        "--complex": options.complex_abs,
        "a share of one image": options.share != (1, 1),
    }
    return next((name for name, is_given in given.items() if is_given), None)


def open_whole(path: Path, metadata: ModelMetadata) -> Photo:
    """Open an image as a photo, and warn if it is a map.

    Raises:
        InputError: If it is no photo.
    """
    photo = Photo(path, metadata.inputs, metadata.image_size)
    profile = photo.profile()
    if map_crs(profile) is not None:
        warnings.warn(
            f"{shown(path)}: {profile['height']} × {profile['width']} px are seen as a whole, brought to "
            f"{metadata.image_size} px as in training; for classes of its parts give --tile {metadata.image_size}",
            XTWarning,
            stacklevel=4,
        )
    return photo


def spread(task: Task, outcome: Outcome, profile: Mapping[str, Any], folder: Path) -> list[Part]:
    """Write the answer for the whole at each pixel of the file, instead of at those that the model saw.

    Raises:
        OutputError: If it cannot be written.
    """
    answer = outcome.mean
    assert answer is not None  # every pixel of a photo counts
    parts = []
    for block in blocks(Window(0, 0, profile["height"], profile["width"]), *BLOCK):
        shape = (block.height, block.width)
        values = np.broadcast_to(np.asarray(answer, np.float32)[:, None, None], (len(answer), *shape))
        part = Part(folder / f"{block.row}_{block.col}.tif", block)
        with explained(part.path):
            write_part(part.path, task.paint(values, np.ones(shape, bool)), task.product)
        parts.append(part)
    return parts


def of_file(foreseen: Estimate, source: Photo, task: Task) -> Estimate:
    """What an image will take, of which the model sees less than is published."""
    profile = source.profile()
    height, width = profile["height"], profile["width"]
    result = result_bytes(task.product, height * width)
    return replace(foreseen, height=height, width=width, result=result, disk=foreseen.disk + result)
