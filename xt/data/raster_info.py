"""What is known of a raster before any pixel is read."""

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import rasterio
from rasterio._err import CPLE_BaseError  # no public name
from rasterio.enums import ColorInterp, MaskFlags


@dataclass(frozen=True)
class RasterInfo:
    """What is known of a raster before any pixel is read.

    Attributes:
        path: The file.
        driver: GDAL's name of the format.
        height: Rows.
        width: Columns.
        bands: Bands that hold an image; an alpha band is not among them.
        alpha: 1-based index of the alpha band, or None.
        dtype: Sample type.
        nodata: Nodata value of the tag, or None.
        crs: WKT, or None.
        transform: Six affine coefficients (a, b, c, d, e, f), or None without georeference.
        num_gcps: Ground control points.
        has_rpcs: Whether rational polynomial coefficients are there.
        block: Rows and columns of a block.
        compression: Name, or None.
        colours: Colour interpretation of each band.
        has_mask: Whether a mask band or file says what is valid.
        names: What the file calls each band, or None.
        scales: Factor by which the file would have the values of each band multiplied.
        offsets: What it would have added then.
    """

    path: str
    driver: str
    height: int
    width: int
    bands: tuple[int, ...]
    alpha: int | None
    dtype: str
    nodata: float | None
    crs: str | None
    transform: tuple[float, ...] | None
    num_gcps: int
    has_rpcs: bool
    block: tuple[int, int]
    compression: str | None
    colours: tuple[str, ...]
    has_mask: bool
    names: tuple[str | None, ...]
    scales: tuple[float, ...]
    offsets: tuple[float, ...]

    @property
    def notes(self) -> list[str]:
        """What a user should know before a model runs on it."""
        found = []
        if self.num_gcps and self.transform is None:
            found.append(f"{self.num_gcps} ground control points and no transform: copied, and used for points")
        elif self.transform is None:
            found.append("no georeference: results are in pixels")
        elif self.crs is None:
            found.append("no CRS: the result has none either")
        if self.nodata is None and self.alpha is None and not self.has_mask:
            found.append("nothing marks missing pixels: give --nodata VALUE if a border is not data")
        if self.dtype.startswith("complex"):
            found.append("complex samples: only their absolute value can be used (--complex abs)")
        if set(self.scales) != {1.0} or set(self.offsets) != {0.0}:
            found.append(
                "scale and offset are in the file and not applied: models learn and predict from what is stored; to "
                "numbers that are learnt or scored they are"
            )
        return found


def describe(dataset: Any) -> RasterInfo:
    """Describe an open dataset."""
    colours = colours_of(dataset)
    alpha = alpha_band(dataset)
    gcps, gcp_crs = dataset.gcps
    identity = dataset.transform == rasterio.Affine.identity()
    crs = dataset.crs or gcp_crs
    return RasterInfo(
        path=dataset.name,
        driver=dataset.driver,
        height=dataset.height,
        width=dataset.width,
        bands=tuple(i for i in dataset.indexes if i != alpha),
        alpha=alpha,
        dtype=dataset.dtypes[0],
        nodata=dataset.nodata,
        crs=crs.to_wkt() if crs else None,
        transform=None if identity else tuple(dataset.transform[:6]),
        num_gcps=len(gcps),
        has_rpcs=dataset.rpcs is not None,
        block=tuple(dataset.block_shapes[0]),
        compression=dataset.compression.name if dataset.compression else None,
        colours=tuple(c.name for c in colours),
        has_mask=any(MaskFlags.per_dataset in flags and alpha is None for flags in dataset.mask_flag_enums),
        names=tuple(dataset.descriptions),
        scales=tuple(map(float, dataset.scales)),
        offsets=tuple(map(float, dataset.offsets)),
    )


def alpha_band(dataset: Any) -> int | None:
    """Return the 1-based index of the alpha band, or None."""
    colours = colours_of(dataset)
    return colours.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in colours else None


def colours_of(dataset: Any) -> list[ColorInterp]:
    """Colour interpretation of each band, asked once.

    Rasterio raises here what GDAL said before of something else: of a tile that cannot be read, or, as a warning, of a
    tag that nobody needs. Such a thing is said once.
    """
    if dataset not in _asked:
        try:
            colours = dataset.colorinterp
        except CPLE_BaseError:
            colours = dataset.colorinterp
        _asked[dataset] = [ColorInterp(each) for each in colours]
    return _asked[dataset]


_asked: WeakKeyDictionary[Any, list[ColorInterp]] = WeakKeyDictionary()
