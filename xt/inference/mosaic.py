"""Parts of a raster side by side, as a VRT of GDAL: what is copied into one file, with all that is known of it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from xt.geometry.grid import Window
from xt.tasks.base import Product

TYPES = {
    "uint8": "Byte", "int8": "Int8", "uint16": "UInt16", "int16": "Int16", "uint32": "UInt32", "int32": "Int32",
    "uint64": "UInt64", "int64": "Int64", "float32": "Float32", "float64": "Float64",
}  # fmt: skip
"""GDAL's names."""


def mosaic_xml(
    sources: Sequence[tuple[Path, Window]],
    profile: Mapping[str, Any],
    product: Product,
    tags: Mapping[str, str],
    block: int,
) -> str:
    """Describe a raster by its parts.

    Args:
        sources: GeoTIFFs of the product's bands, and where they lie; what they leave uncovered is nodata.
        profile: Grid: height, width, CRS, and a transform or control points or neither, RPCs.
        product: Bands, their type and nodata, classes and colours.
        tags: Metadata of the file.
        block: Side of the sources' blocks.
    """
    lines = [f'<VRTDataset rasterXSize="{profile["width"]}" rasterYSize="{profile["height"]}">']
    lines += _georeference(profile)
    lines += _metadata(tags)
    for band, name in enumerate(product.names, start=1):
        lines.append(f'<VRTRasterBand dataType="{TYPES[product.dtype]}" band="{band}">')
        lines += [f"<Description>{escape(name)}</Description>", f"<NoDataValue>{product.nodata!r}</NoDataValue>"]
        lines += _metadata({f"CLASS_{value}": text for value, text in enumerate(product.classes)})
        if product.colours and product.dtype == "uint8" and len(product.names) == 1:
            entries = (f'<Entry c1="{r}" c2="{g}" c3="{b}" c4="255"/>' for r, g, b in product.colours)
            lines += ["<ColorInterp>Palette</ColorInterp>", "<ColorTable>", *entries, "</ColorTable>"]
        for path, window in sources:
            lines.append(_source(path, window, band, TYPES[product.dtype], block))
        lines.append("</VRTRasterBand>")
    return "\n".join([*lines, "</VRTDataset>"])


def _georeference(profile: Mapping[str, Any]) -> Iterator[str]:
    crs, transform, rpcs = profile.get("crs"), profile.get("transform"), profile.get("rpcs")
    wkt = crs.to_wkt(version="WKT2_2019") if crs else ""
    if profile.get("gcps"):
        yield f"<GCPList Projection={quoteattr(wkt)}>"
        for point in profile["gcps"]:
            place = (point.col, point.row, point.x, point.y, point.z or 0.0)
            pixel = " ".join(
                f'{key}="{value!r}"' for key, value in zip(("Pixel", "Line", "X", "Y", "Z"), place, strict=True)
            )
            yield f"<GCP Id={quoteattr(point.id or '')} Info={quoteattr(point.info or '')} {pixel}/>"
        yield "</GCPList>"
    elif wkt:
        yield f"<SRS>{escape(wkt)}</SRS>"
    if transform is not None:
        yield f"<GeoTransform>{', '.join(repr(float(value)) for value in transform.to_gdal())}</GeoTransform>"
    if rpcs is not None:
        yield from _metadata(rpcs.to_gdal(), ' domain="RPC"')


def _metadata(values: Mapping[str, str], domain: str = "") -> Iterator[str]:
    if values:
        yield f"<Metadata{domain}>"
        yield from (f"<MDI key={quoteattr(key)}>{escape(value)}</MDI>" for key, value in values.items())
        yield "</Metadata>"


def _source(path: Path, window: Window, band: int, dtype: str, block: int) -> str:
    size = f'xSize="{window.width}" ySize="{window.height}"'
    return (
        f'<SimpleSource><SourceFilename relativeToVRT="0">{escape(str(path.absolute()))}</SourceFilename>'
        f"<SourceBand>{band}</SourceBand>"
        f'<SourceProperties RasterXSize="{window.width}" RasterYSize="{window.height}" DataType="{dtype}" '
        f'BlockXSize="{block}" BlockYSize="{block}"/>'
        f'<SrcRect xOff="0" yOff="0" {size}/><DstRect xOff="{window.col}" yOff="{window.row}" {size}/></SimpleSource>'
    )
