import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio


@pytest.mark.parametrize(
    ("argv", "unbuffered"),
    [
        (["--version"], "1"), (["--version"], ""), (["info", "{raster}"], "1"), (["info", "{raster}"], ""),
        (["info", "--help"], ""),
    ],
)  # fmt: skip
def test_output_that_nobody_takes(tmp_path: Path, argv: list[str], unbuffered: str):
    """A full disk is one line, and a closed pipe none, whether Python writes at once or at its end."""
    raster = tmp_path / "a.tif"
    with rasterio.open(raster, "w", driver="GTiff", count=1, height=2, width=3, dtype="uint8") as out:
        out.write(np.ones((1, 2, 3), np.uint8))
    code = "import sys; from xt.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *(each.format(raster=raster) for each in argv)]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    read, write = os.pipe()
    os.close(read)
    with Path("/dev/full").open("w") as full, os.fdopen(write, "w") as closed:
        told = [subprocess.run(command, stdout=out, stderr=-1, text=True, env=environment) for out in (full, closed)]
    assert [each.returncode for each in told] == [3, 143]
    assert [each.stderr for each in told] == [
        "xt: error: cannot write: No space left on device; free space first\n",
        "",
    ]
