"""Where an image lies: a file, a folder, or something that GDAL reads through one of its virtual file systems.

An address becomes a path of GDAL's, ``https://host/a.tif`` → ``/vsicurl/https:/host/a.tif``, with one slash where
:class:`pathlib.Path` leaves one; :func:`gdal_name` gives back what GDAL takes. Only what a user types becomes one:
nothing in a file can.
"""

import re
from pathlib import Path
from typing import Any

from xt.errors import ConfigError

SCHEMES = {
    "http": "/vsicurl/http://",
    "https": "/vsicurl/https://",
    "s3": "/vsis3/",
    "gs": "/vsigs/",
    "az": "/vsiaz/",
}
"""Scheme → what stands in its place for GDAL."""

OPTIONS: dict[str, Any] = {
    "GDAL_HTTP_MAX_RETRY": 4,
    "GDAL_HTTP_RETRY_DELAY": 1,  # seconds, doubled each time
    "GDAL_HTTP_CONNECTTIMEOUT": 20,
    "GDAL_HTTP_LOW_SPEED_LIMIT": 100,  # bytes in a second …
    "GDAL_HTTP_LOW_SPEED_TIME": 60,  # … for so many seconds are a broken line
    "CPL_VSIL_CURL_NON_CACHED": "/vsicurl/:/vsis3/:/vsigs/:/vsiaz/",  # a file that changes is seen to
}
"""Of GDAL for what is not on this machine; credentials and more come from the environment, as GDAL documents it."""

_ARCHIVE = "/vsi(?:zip|tar|gzip|7z|rar)/"


def image_path(text: str | Path) -> Path:
    """Read what a user calls an image: a path, ``/vsi…``, or an address ``https:``, ``s3:``, ``gs:`` or ``az:``.

    Raises:
        ConfigError: If it is empty, which would be the current folder.
    """
    if not str(text):
        raise ConfigError("the name of an image is empty; name a file or folder")
    scheme, colon, rest = str(text).partition("://")
    if colon and scheme in SCHEMES:
        return Path(SCHEMES[scheme] + rest)
    archive = re.match(rf"{_ARCHIVE}(?![/{{])", str(text))
    if archive:
        return Path(archive[0], Path(str(text)[archive.end() :]).absolute().relative_to("/"))
    return Path(text)


def is_virtual(path: Path) -> bool:
    """Whether GDAL alone can read it."""
    return str(path).startswith("/vsi")


def gdal_name(path: Path) -> str:
    """What GDAL takes."""
    if not is_virtual(path):
        return str(path)
    return re.sub(rf"{_ARCHIVE}(?![/{{])", r"\g<0>/", re.sub(r"(https?|ftp):/(?!/)", r"\1://", str(path)))


def shown(path: Path) -> str:
    """For messages and reports: as GDAL takes it, without the query of a signed address, which is a password.

    Bytes of a name that are not UTF-8 are escaped, so that any file and terminal takes them.
    """
    text = gdal_name(path).partition("?")[0] if is_virtual(path) else str(path)
    return text.encode(errors="backslashreplace").decode()


def is_utf8(path: Path) -> bool:
    """Whether a name can be said to GDAL; the system allows any bytes in it."""
    return str(path).encode(errors="ignore").decode() == str(path)


def fault(path: Path) -> str | None:
    """What is wrong with the name of an image, found out before it is opened; None if nothing is."""
    if not is_utf8(path):
        return f"{shown(path)}: the name is not UTF-8, which GDAL does not take; rename it"
    if is_virtual(path) or path.exists():
        return None
    address = re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]+):/(?!/)(.*)", str(path))  # Path leaves one slash of two
    if address is None:
        return f"{path}: no such file"
    scheme, rest = address.groups()
    known = f"addresses begin with {', '.join(f'{each}://' for each in SCHEMES)} or /vsi… of GDAL"
    if scheme in ("zip", "tar", "gzip"):
        known = f"what lies in an archive is /vsi{scheme}/ARCHIVE/FILE"
    return f"{scheme}://{rest}: no such file; {known}"


def stem(path: Path) -> str:
    """Name of a scene: that of the file without suffix, or that of the folder."""
    return path.name if path.is_dir() else Path(shown(path)).stem
