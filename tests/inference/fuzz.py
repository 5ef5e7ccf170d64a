"""Run by test_fuzz.py in a process of its own: predicts images of which some bytes are wrong.

    fuzz.py FOLDER COUNT

Prints a JSON line for each image that did not end as it should, and one with the exit codes of all.
"""

import contextlib
import io
import json
import random
import resource
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

import numpy as np
import rasterio
from small_inputs import save

from xt.cli.main import main

FOLDER, COUNT = Path(sys.argv[1]), int(sys.argv[2])
KINDS = {
    "tiles": {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"},
    "strips": {"blockysize": 3, "compress": "lzw", "predictor": 2},
    "raw": {"tiled": True, "blockxsize": 16, "blockysize": 16, "nodata": 3, "interleave": "pixel"},
    "zstd": {"compress": "zstd", "transform": rasterio.Affine(2.0, 0, 5, 0, -2.0, 9), "crs": "EPSG:32632"},
    "big": {"bigtiff": "yes", "blockysize": 7, "compress": "deflate"},
    "gcps": {"gcps": [rasterio.control.GroundControlPoint(r, c, c / 9, r / 9) for r in (0, 99) for c in (0, 90)],
             "crs": "EPSG:4326"},
}  # fmt: skip
SECONDS = 20


def made() -> dict[str, bytes]:
    """One small image of each kind."""
    pixels = np.random.default_rng(0).integers(0, 200, (2, 110, 130), dtype=np.uint16)
    found = {}
    for name, options in KINDS.items():
        path = FOLDER / f"{name}.tif"
        with rasterio.open(path, "w", driver="GTiff", count=2, height=110, width=130, dtype="uint16", **options) as out:
            out.write(pixels)
        found[name] = path.read_bytes()
    return found


def mutated(data: bytes, draw: random.Random) -> bytes:
    """Change, cut or repeat bytes, mostly where the header and the directory are."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        at = draw.randrange(min(len(changed), draw.choice((16, 600, len(changed)))))
        kind = draw.randrange(5)
        if kind == 0:
            changed[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            changed[at] = draw.randrange(256)
        elif kind == 2:
            changed[at : at + 4] = draw.choice((0, 1, 0xFFFFFFFF, 0x7FFFFFFF, 65536)).to_bytes(4, "little")
        elif kind == 3:
            del changed[at + draw.randrange(1, 50) :]
            changed = changed or bytearray(b"\0")
        else:
            changed[at:at] = changed[at : at + draw.randrange(1, 9)]
    return bytes(changed)


def late(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"took more than {SECONDS} s")


signal.signal(signal.SIGALRM, late)
images, model = made(), save(FOLDER / "m", "semantic-segmentation", 2)
codes: Counter[int] = Counter()
for n in range(COUNT):
    draw = random.Random(n)
    kind = draw.choice(sorted(images))
    image, out = FOLDER / "a.tif", FOLDER / "out" / "o.tif"
    out.parent.mkdir(exist_ok=True)
    image.write_bytes(mutated(images[kind], draw))
    said, wrong = io.StringIO(), ""
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = main(["predict", str(image), "-m", str(model), "-o", str(out), "--bands", "1,2"])
    except BaseException as error:
        code, wrong = 1, f"{type(error).__name__}: {error}"
    signal.alarm(0)
    codes[code] += 1
    error = said.getvalue()
    left = sorted(path.name for path in out.parent.iterdir())
    if code not in (0, 3) or wrong or "Traceback" in error:
        wrong = wrong or "code or traceback"
    elif code == 3 and (error.count("\n") != 1 or left or str(image) not in error):
        wrong = "not one line that names the image, or files are left"
    elif code == 0 and left != ["o.report.json", "o.tif"]:
        wrong = "files are missing"
    if wrong:
        print(
            json.dumps({"n": n, "kind": kind, "code": code, "wrong": wrong, "error": error, "left": left}), flush=True
        )
    for path in out.parent.iterdir():
        path.unlink()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
print(json.dumps({"codes": codes, "peak MiB": peak}))
