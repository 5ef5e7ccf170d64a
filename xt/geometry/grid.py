"""Where regions and tokens lie in an image: integers only.

An image of H × W pixels is cut into rows × cols square regions of R pixels (nested tokenization, xT, arXiv
2403.01915, section 3). Where H or W does not divide by R the image is padded at the bottom and right.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from xt.errors import GeometryError


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of pixels: rows ``row … row + height − 1``, columns ``col … col + width − 1``."""

    row: int
    col: int
    height: int
    width: int

    @property
    def row_stop(self) -> int:
        """One past the last row."""
        return self.row + self.height

    @property
    def col_stop(self) -> int:
        """One past the last column."""
        return self.col + self.width

    @property
    def slices(self) -> tuple[slice, slice]:
        """Row and column slices, for an array whose last two axes are rows and columns."""
        return slice(self.row, self.row_stop), slice(self.col, self.col_stop)

    def clip(self, height: int, width: int) -> "Window":
        """Return the part inside an image of ``height`` × ``width``; it may have no pixels."""
        row, col = min(max(self.row, 0), height), min(max(self.col, 0), width)
        stop_row = min(max(self.row_stop, row), height)
        stop_col = min(max(self.col_stop, col), width)
        return Window(row, col, stop_row - row, stop_col - col)

    def intersect(self, other: "Window") -> "Window":
        """Return the pixels that lie in both; it may have none."""
        row, col = max(self.row, other.row), max(self.col, other.col)
        stop_row, stop_col = min(self.row_stop, other.row_stop), min(self.col_stop, other.col_stop)
        return Window(row, col, max(stop_row - row, 0), max(stop_col - col, 0))

    def within(self, other: "Window") -> "Window":
        """Return the same pixels, counted from the first pixel of another window."""
        return Window(self.row - other.row, self.col - other.col, self.height, self.width)

    def coarsened(self, factor: int) -> "Window":
        """Return the smallest window of cells of ``factor`` × ``factor`` that holds all pixels."""
        row, col = self.row // factor, self.col // factor
        return Window(row, col, -(-self.row_stop // factor) - row, -(-self.col_stop // factor) - col)

    def refined(self, factor: int) -> "Window":
        """Return the same area, in pixels of which ``factor`` × ``factor`` were one."""
        return Window(self.row * factor, self.col * factor, self.height * factor, self.width * factor)

    def grow(self, margin: int) -> "Window":
        """Return the window with ``margin`` pixels more on each side."""
        return Window(self.row - margin, self.col - margin, self.height + 2 * margin, self.width + 2 * margin)


@dataclass(frozen=True)
class TokenLayout:
    """The tokens of a region grid at one stride.

    A sequence holds the tokens that exist in raster order of the whole map (row by row across region borders),
    then ``num_extra`` tokens without a place, such as a class token.

    Attributes:
        region_rows: Rows of regions.
        region_cols: Columns of regions.
        side: Tokens along one side of a region.
        exists: One flag per region in raster order, or None when all exist. A region without a valid pixel is
            neither encoded nor in the sequence.
        num_extra: Tokens without a place, appended last.
        origin: Row and column of the first token in the whole scene, in tokens; a part of a scene has one of its own.
    """

    region_rows: int
    region_cols: int
    side: int
    exists: tuple[bool, ...] | None = None
    num_extra: int = 0
    origin: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        """Check sizes."""
        if min(self.region_rows, self.region_cols, self.side) < 1 or self.num_extra < 0:
            raise GeometryError(f"token layout needs positive sizes, got {self}")
        if self.exists is not None and len(self.exists) != self.num_regions:
            raise GeometryError(f"exists has {len(self.exists)} flags for {self.num_regions} regions")
        if min(self.origin) < 0:
            raise GeometryError(f"a token layout's origin {self.origin} must be ≥ 0")

    @property
    def num_regions(self) -> int:
        """Regions, existing or not."""
        return self.region_rows * self.region_cols

    @property
    def height(self) -> int:
        """Rows of the token map."""
        return self.region_rows * self.side

    @property
    def width(self) -> int:
        """Columns of the token map."""
        return self.region_cols * self.side

    @property
    def region_tokens(self) -> int:
        """Tokens of one region."""
        return self.side * self.side

    @cached_property
    def num_existing(self) -> int:
        """Regions that exist."""
        return self.num_regions if self.exists is None else sum(self.exists)

    @property
    def num_tokens(self) -> int:
        """Length of the sequence, extra tokens included."""
        return self.num_existing * self.region_tokens + self.num_extra

    def segment(self, regions: Sequence[int]) -> "TokenLayout":
        """Return the smallest layout that holds some regions: a part of one row of regions, or whole rows.

        Args:
            regions: Some that exist and follow each other, in raster order. Others of the layout do not exist.
        """
        places = [divmod(region, self.region_cols) for region in regions]
        top, bottom = places[0][0], places[-1][0]
        left, right = (places[0][1], places[-1][1]) if top == bottom else (0, self.region_cols - 1)
        there = set(places)
        flags = tuple((row, col) in there for row in range(top, bottom + 1) for col in range(left, right + 1))
        origin = self.origin[0] + top * self.side, self.origin[1] + left * self.side
        exists = None if all(flags) else flags
        return TokenLayout(bottom - top + 1, right - left + 1, self.side, exists, origin=origin)


@dataclass(frozen=True)
class RegionGrid:
    """The regions of an image, which may be a part of a larger scene.

    Attributes:
        height: Image rows, ≥ 1.
        width: Image columns, ≥ 1.
        region_size: Side of a region in pixels, ≥ 1.
        origin: Row and column of the image's first pixel in the scene, ≥ 0. Windows count from the image, not from the
            scene; a layout's tokens have the places that they have there.
    """

    height: int
    width: int
    region_size: int
    origin: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        """Check sizes."""
        if min(self.height, self.width, self.region_size) < 1:
            raise GeometryError(
                f"image of {self.height} × {self.width} px in regions of {self.region_size} px: all must be ≥ 1"
            )
        if min(self.origin) < 0:
            raise GeometryError(f"an image's origin {self.origin} in its scene must be ≥ 0")

    @property
    def whole(self) -> Window:
        """The image without padding."""
        return Window(0, 0, self.height, self.width)

    @property
    def rows(self) -> int:
        """Rows of regions."""
        return -(-self.height // self.region_size)

    @property
    def cols(self) -> int:
        """Columns of regions."""
        return -(-self.width // self.region_size)

    @property
    def num_regions(self) -> int:
        """Regions in the image."""
        return self.rows * self.cols

    @property
    def padded_height(self) -> int:
        """Image rows with padding."""
        return self.rows * self.region_size

    @property
    def padded_width(self) -> int:
        """Image columns with padding."""
        return self.cols * self.region_size

    @property
    def padding(self) -> tuple[int, int]:
        """Rows added at the bottom and columns added at the right."""
        return self.padded_height - self.height, self.padded_width - self.width

    def window(self, index: int) -> Window:
        """Return region ``index`` (raster order) in the padded frame: always R × R."""
        if not 0 <= index < self.num_regions:
            raise GeometryError(f"region {index} of {self.num_regions}")
        row, col = divmod(index, self.cols)
        size = self.region_size
        return Window(row * size, col * size, size, size)

    def clipped(self, index: int) -> Window:
        """Return the part of region ``index`` that lies on the image."""
        return self.window(index).clip(self.height, self.width)

    def windows(self) -> Iterator[Window]:
        """Yield every region's window in the padded frame, in raster order."""
        return (self.window(index) for index in range(self.num_regions))

    def layout(self, stride: int, exists: tuple[bool, ...] | None = None) -> TokenLayout:
        """Return the layout of tokens at ``stride`` pixels per token.

        Raises:
            GeometryError: If the region size or the origin does not divide by the stride.
        """
        if stride < 1 or self.region_size % stride:
            raise GeometryError(
                f"region size {self.region_size} does not divide by stride {stride}; choose a multiple of {stride}"
            )
        row, col = self.origin
        if row % stride or col % stride:
            raise GeometryError(
                f"origin {self.origin} does not divide by stride {stride}; choose multiples of {stride}"
            )
        origin = row // stride, col // stride
        return TokenLayout(self.rows, self.cols, self.region_size // stride, exists, origin=origin)
