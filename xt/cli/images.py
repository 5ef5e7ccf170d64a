"""Images on the command line: paths, addresses, patterns and lists."""

import glob
from pathlib import Path

from xt.data.address import image_path, is_virtual
from xt.errors import ConfigError

HELP = "GeoTIFF, scene folder, pattern, https:// or s3:// address, /vsi… of GDAL, or @LIST of these"


def stands_for_several(image: Path) -> bool:
    """Whether it is ``@LIST``, or a pattern that the shell left alone."""
    text = str(image)
    return text.startswith("@") | any(each in text for each in "*?[") and not is_virtual(image) and not image.exists()


def expanded(images: list[Path]) -> list[Path]:
    """Replace ``@LIST`` by the lines of a file, and patterns that the shell left alone by what they match.

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
                lines = Path(text[1:]).read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"{text}: the list of images cannot be read: {error}") from error
            found += [image_path(line.strip()) for line in lines if line.strip() and not line.startswith("#")]
        else:
            found += [Path(each) for each in sorted(glob.glob(text, recursive=True))] or [image]
    if not found:
        raise ConfigError(f"{', '.join(map(str, images))}: no image in the list")
    return list(dict.fromkeys(found))
