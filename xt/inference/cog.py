"""Temporary."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio

from xt.geometry.grid import Window
from xt.inference.creation import check_creation


@dataclass(frozen=True)
class Part:
    path: Path
    window: Window


def check_cog(options, product):
    return check_creation(options, product.dtype, len(product.names))


def write_part(path, pixels, product):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            height=pixels.shape[1],
            width=pixels.shape[2],
            count=pixels.shape[0],
            dtype=product.dtype,
            nodata=product.nodata,
        ) as d:
            d.write(pixels)


def assemble(parts, partial, profile, product, settings, tags):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(
            partial,
            "w",
            **(settings | profile | {"count": len(product.names), "dtype": product.dtype, "nodata": product.nodata}),
        ) as d:
            full = np.full((len(product.names), profile["height"], profile["width"]), product.nodata, product.dtype)
            for p in parts:
                with rasterio.open(p.path) as s:
                    full[:, *p.window.slices] = s.read()
            d.write(full)
            for i, n in enumerate(product.names, 1):
                d.set_band_description(i, n)
