"""Images on the command line: paths, addresses, patterns and lists."""

import glob
from pathlib import Path

from xt.cli import options
from xt.data.address import image_path, is_virtual
from xt.errors import ConfigError

HELP = (
    "GeoTIFF, JPEG 2000, mosaic (.vrt), scene folder, pattern, https:// or s3:// address, /vsi… of GDAL, or @LIST: a "
    "file with one of these in each line (# begins a comment)"
)


def image_argument(text: str) -> Path:
    """Read an image; an empty one, such as an unset variable of the shell gives, is refused."""
    options.path(text)
    return image_path(text)  # a path has lost one of two slashes


def stands_for_several(image: Path) -> bool:
    """Whether it is ``@LIST``, or a pattern that the shell left alone."""
    return (str(image).startswith("@") or _has_wildcards(image)) and not is_virtual(image) and not image.exists()


def expanded(images: list[Path]) -> list[Path]:
    """Replace ``@LIST`` by the lines of a file, and patterns in it or that the shell left alone by what they match.

    Raises:
        ConfigError: If a list cannot be read, or nothing is left.
    """
    found: list[Path] = []
    for image in images:
        text = str(image)
        if not stands_for_several(image):
            found.append(image)
        elif text.startswith("@"):
            try:
                listed = Path(text[1:]).read_text(encoding="utf-8-sig", errors="surrogateescape")  # as names of files
            except OSError as error:
                raise ConfigError(f"{text}: the list of images cannot be read: {error}") from error
            if "\0" in listed:
                raise ConfigError(f"{text}: the list of images is no text; give a file with a name in each line")
            lines = [line.strip() for line in listed.splitlines() if not line.startswith("#")]
            found += [each for line in lines if line for each in _matches(image_path(line))]
        else:
            found += _matches(image)
    if not found:
        raise ConfigError(f"{', '.join(map(str, images))}: no image in the list")
    return list(dict.fromkeys(found))


def _has_wildcards(image: Path) -> bool:
    return any(each in str(image) for each in "*?[")


def _matches(image: Path) -> list[Path]:
    """What a pattern matches; the image itself where it is none, or matches nothing."""
    if not _has_wildcards(image) or is_virtual(image) or image.exists():
        return [image]
    return [Path(each) for each in sorted(glob.glob(str(image), recursive=True))] or [image]
