"""How a context encoder's cost grows with the tokens: seconds and megabytes, forward and forward + backward.

    python scripts/context_slope.py Hyper TransformerXL --dim 128 --tokens 16384 65536 262144

Each measurement is a process of its own. The slope is that of log seconds (of the processor) over log tokens: 1 is
linear.
"""

import argparse
import json
import math
import platform
import resource
import subprocess
import sys
import time
from itertools import pairwise

OPTIONS = {"TransformerXL": {"chunk_regions": 16, "min_seq_len": 2048}}
SIDE = 16  # tokens along a region


def measure(name: str, tokens: int, dim: int, backward: bool) -> dict[str, float]:
    import torch

    from xt import plugins
    from xt.geometry.grid import TokenLayout

    side = math.isqrt(tokens // SIDE**2)
    layout = TokenLayout(side, tokens // SIDE**2 // side, SIDE)
    assert layout.num_tokens == tokens, f"{tokens} tokens are no rectangle of regions of {SIDE} x {SIDE} tokens"
    node = {"class_path": name, "init_args": {"depth": 2, **OPTIONS.get(name, {})}}
    encoder = plugins.build("context_encoders", node, dim=dim).train()
    x = torch.randn(1, tokens, dim, requires_grad=backward)
    found = {}
    for _ in range(2):  # the second time without what is done once
        start, clock = time.process_time(), time.perf_counter()
        with torch.set_grad_enabled(backward):
            y = encoder(x, layout)
        if backward:
            y.backward(x.detach())
        found = {"cpu_s": time.process_time() - start, "s": time.perf_counter() - clock}
    return found | {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def main() -> None:
    """Print a line for each measurement and the slopes between them; JSON at the end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+")
    parser.add_argument("--tokens", type=int, nargs="+", default=[16384, 65536, 262144])
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--one", choices=["forward", "both"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        found = measure(options.names[0], options.tokens[0], options.dim, options.one == "both")
        print(json.dumps(found))
        return
    rows = []
    for name in options.names:
        for mode in ("forward", "both"):
            points = []
            for tokens in options.tokens:
                asked = ["--one", mode, "--tokens", str(tokens), "--dim", str(options.dim)]
                command = [sys.executable, __file__, name, *asked]
                told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                points.append({"encoder": name, "mode": mode, "tokens": tokens, **json.loads(told.splitlines()[-1])})
                print(points[-1], flush=True)
            for a, b in pairwise(points):
                grown = math.log(b["tokens"] / a["tokens"])
                slopes = {key: round(math.log(b[key] / a[key]) / grown, 2) for key in ("cpu_s", "peak_mb")}
                print(f"{name} {mode} {a['tokens']} to {b['tokens']}: slopes {slopes}", flush=True)
            rows += points
    print(json.dumps({"machine": platform.processor() or platform.machine(), "dim": options.dim, "rows": rows}))


main()
