"""Run by test_resume.py in a process of its own: ends a prediction at its n-th change of the file system, for many n.

    faults.py FOLDER kill|full STRIDE

Each run is a fork of a process that has done it all once, in one thread. Prints JSON lines: the unbroken run, and each n.
"""

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import rasterio

from xt.cli.main import main
from xt.inference import engine, parts, views

FOLDER, MODE, STRIDE = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
ARGV = ["predict", str(FOLDER / "a.tif"), "-m", str(FOLDER / "m"), "-o", str(FOLDER / "out/o.tif"), "--tile", "128"]
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"}
engine.COMMIT_SECONDS = 0.0


def run(stop_at: int = 0) -> dict[str, Any]:
    """Predict in a fork; at change ``stop_at`` the process dies, or the disk is full from there on."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(read)
        code, facts = predict(stop_at)
        os.write(write, json.dumps(facts).encode())
        os._exit(code)
    os.close(write)
    with os.fdopen(read) as file:
        text = file.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return {"code": code, **(json.loads(text) if text else {})}


def predict(stop_at: int) -> tuple[int, dict[str, Any]]:
    seen, encoded = 0, 0
    plain_encode, plain_part = views.encode, parts.write_part

    def change() -> None:
        nonlocal seen
        seen += 1
        if stop_at and seen >= stop_at:
            if MODE == "kill":
                os._exit(9)
            raise OSError(28, "No space left on device")

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(args[0], str | os.PathLike) and str(FOLDER / "out") in str(args[0]):
            if args[2] & (os.O_WRONLY | os.O_RDWR) and ".lock" not in str(args[0]):
                change()
        elif event in CHANGES and MODE == "kill" and str(FOLDER / "out") in str(args[0]):
            change()

    def part(*args: Any) -> None:
        change()
        plain_part(*args)

    def encode(model: Any, regions: Any) -> Any:
        nonlocal encoded
        encoded += len(regions)
        return plain_encode(model, regions)

    parts.write_part, views.encode = part, encode
    sys.addaudithook(hook)
    sys.stderr, sys.stdout = open(FOLDER / "err", "w"), open(os.devnull, "w")
    code = main(ARGV)
    sys.stderr.close()
    return code, {"changes": seen, "encoded": encoded}


def outputs() -> dict[str, str]:
    """What lies in the output folder: of rasters their pixels, of other files their bytes."""
    found = {}
    for path in sorted((FOLDER / "out").iterdir()):
        if path.name.startswith("."):
            found[path.name] = "of a job"
        elif path.suffix == ".tif":
            with rasterio.open(path) as dataset:
                found[path.name] = hashlib.sha256(dataset.read().tobytes()).hexdigest()
        elif path.name.endswith(".report.json"):
            found[path.name] = "of the run"
        else:
            found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
    return found


def committed() -> int:
    """Regions that the journal says are done."""
    path = FOLDER / "out/.o.tif.job/journal.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    whole = [line for line in lines if line.endswith("\n")]
    return json.loads(whole[-1].partition(" ")[2])["counts"]["regions"] if len(whole) > 1 else 0


def clear() -> None:
    for path in (FOLDER / "out").iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


assert main(ARGV) == 0  # so that each fork finds compiled what it needs
clear()
first = run()
want = outputs()
clear()
print(json.dumps({"first": first, "want": want}), flush=True)
for n in range(1, first["changes"] + 1, STRIDE):
    broken = run(n)
    left, done = outputs(), committed()
    message = (FOLDER / "err").read_text() if MODE == "full" else ""
    again = run()
    print(
        json.dumps(
            {"n": n, "broken": broken, "left": left, "done": done, "again": again, "got": outputs(), "error": message}
        )
    )
    clear()
