"""Small pictures of what a model says beside what is true, drawn while it trains."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

Picture = npt.NDArray[np.uint8]
SIDE = 512
"""Pixels of a panel's longer side, at most."""
GAP, LINE = 8, 18
COLOURS = (
    (0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0),
    (204, 121, 167),
)  # fmt: skip
"""Of classes, which may be told apart by the colour-blind (Okabe and Ito); the first is the background."""
NO_DATA = (70, 60, 90)


@dataclass(frozen=True)
class Mark:
    """A ring around something that is there, or a cross on something that was found.

    Attributes:
        row: In pixels of the image.
        column: Likewise.
        colour: Red, green, blue.
        found: Whether it is a cross.
    """

    row: float
    column: float
    colour: tuple[int, int, int]
    found: bool


@dataclass(frozen=True)
class Panel:
    """One of the pictures that stand side by side.

    Attributes:
        title: What is shown, in one or more lines.
        picture: ``(h, w, 3)``, already shrunk.
        scale: Pixels of the image for one of the picture.
        marks: Asked when the panel is drawn, which is after the scores of its validation are known.
    """

    title: str
    picture: Picture
    scale: float = 1.0
    marks: Callable[[], Sequence[Mark]] = tuple


def class_colours(num: int) -> tuple[tuple[int, int, int], ...]:
    """Colours of classes; those behind :data:`COLOURS` begin again behind the background."""
    return tuple(
        COLOURS[index if index < len(COLOURS) else 1 + (index - 1) % (len(COLOURS) - 1)] for index in range(num)
    )


def shrinking(height: int, width: int) -> float:
    """Pixels of an image for one of its panel."""
    return max(1.0, height / SIDE, width / SIDE)


def of_image(image: Tensor, valid: Tensor) -> Picture:
    """An image ``(C, H, W)`` as the model takes it: three bands as red, green and blue, else the first in grey.

    Args:
        image: Normalised.
        valid: ``(1, H, W)``; the rest is drawn in one dark colour.
    """
    shown = image.detach().float().cpu()[: 3 if len(image) == 3 else 1]
    small = _shrunk(shown, "area")
    known = _shrunk(valid.detach().float().cpu(), "area")[0] > 0
    values = small[:, known]
    low, high = torch.quantile(values, torch.tensor([0.01, 0.995])) if known.any() else torch.tensor([0.0, 1.0])
    return _masked((small - low) / max(float(high - low), 1e-6), known.numpy())


def of_values(values: npt.NDArray[np.float32], valid: Tensor, high: float) -> Picture:
    """A map ``(H, W)`` in grey from 0 to ``high``; its peaks are kept."""
    known = _shrunk(valid.detach().float().cpu(), "area")[0] > 0
    return _masked(_shrunk(torch.from_numpy(values)[None], "max") / high, known.numpy())


def of_classes(classes: npt.NDArray[np.int64], known: npt.NDArray[np.bool_]) -> Picture:
    """Class numbers ``(H, W)`` in colours; what is not known is drawn in one dark colour."""
    stacked = torch.from_numpy(np.stack([np.where(known, classes, 0), known]).astype(np.float32))
    small, seen = _shrunk(stacked, "nearest").numpy().astype(np.int64)
    picture: Picture = np.asarray(class_colours(int(small.max()) + 1), dtype=np.uint8)[small]
    picture[seen == 0] = NO_DATA
    return picture


def draw(panels: Sequence[Panel]) -> Image.Image:
    """Panels side by side, each under its title."""
    from matplotlib import get_data_path  # a second's import, for pictures alone

    font = ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", size=12)  # Pillow's own has ASCII alone
    titles = [panel.title.split("\n") for panel in panels]
    top = LINE * max(len(lines) for lines in titles) + 4
    widths = [
        max(panel.picture.shape[1], *(int(font.getlength(line)) + 3 for line in lines))
        for panel, lines in zip(panels, titles, strict=True)
    ]
    height = top + max(panel.picture.shape[0] for panel in panels)
    sheet = Image.new("RGB", (sum(widths) + GAP * (len(panels) - 1), height), "white")
    pen, left = ImageDraw.Draw(sheet), 0
    for panel, lines, width in zip(panels, titles, widths, strict=True):
        for number, line in enumerate(lines):
            pen.text((left + 2, 2 + LINE * number), line, fill="black", font=font)
        sheet.paste(Image.fromarray(panel.picture), (left, top))
        for mark in panel.marks():
            x, y = left + (mark.column + 0.5) / panel.scale, top + (mark.row + 0.5) / panel.scale
            if mark.found:
                pen.line([x - 4, y, x + 4, y], fill=mark.colour, width=2)
                pen.line([x, y - 4, x, y + 4], fill=mark.colour, width=2)
            else:
                pen.ellipse([x - 8, y - 8, x + 8, y + 8], outline=mark.colour, width=2)
        left += width + GAP
    return sheet


def _shrunk(values: Tensor, how: str) -> Tensor:
    """Bring ``(C, H, W)`` to the size of a panel by the mean, the highest or one of the values that fall together."""
    height, width = values.shape[-2:]
    scale = shrinking(height, width)
    size = (max(1, round(height / scale)), max(1, round(width / scale)))
    if size == (height, width):
        return values
    if how == "max":
        return F.adaptive_max_pool2d(values, size)
    return F.interpolate(values[None], size=size, mode=how)[0]


def _masked(values: Tensor, known: npt.NDArray[np.bool_]) -> Picture:
    """Values of 0 to 1, ``(1 or 3, h, w)``, as a picture."""
    levels = (values.clamp(0, 1) * 255).round().byte().expand(3, -1, -1).permute(1, 2, 0).numpy()
    picture: Picture = np.where(known[..., None], levels, np.asarray(NO_DATA, dtype=np.uint8))
    return picture
