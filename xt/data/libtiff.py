"""Keeps libtiff from writing to stderr by itself.

GDAL takes what libtiff says of a file and passes it on, but for one thing: where an offset of a damaged file is too
large to go to, the line ``_tiffSeekProc: Invalid argument.`` goes to libtiff's own handler, which prints it. GDAL then
fails by an error of its own, which is the one we tell.
"""

import ctypes

import rasterio._base

HANDLERS = ("TIFFSetErrorHandler", "TIFFSetWarningHandler")


def be_quiet() -> None:
    """Take away libtiff's own handlers, in this process, of the library that rasterio uses.

    Nothing is redirected, so what other threads write to stderr stays. Where the library hides these functions, as one
    that is linked into GDAL may, the lines stay too.
    """
    library = ctypes.CDLL(rasterio._base.__file__)  # loaded already; its symbols are looked for in what it needs
    for name in HANDLERS:
        handler = getattr(library, name, None)
        if handler is not None:
            handler.argtypes, handler.restype = [ctypes.c_void_p], ctypes.c_void_p
            handler(None)
