"""SwinV2-T on a GPU, timm's and this package's, eager and compiled, in bf16 at 512 px.

    PYTHONPATH=.:kernels python scripts/gpu_encoder.py [FOLDER]

Writes FOLDER/gpu_encoder.json.
"""

import copy
import json
import sys
import time
from pathlib import Path

import timm
import torch
from triton.testing import do_bench

from xt.models.region.faster import accelerate

BATCH, SIZE = 16, 512
START = time.perf_counter()


def say(*words: object) -> None:
    print(f"[{time.perf_counter() - START:5.1f}s]", *words, flush=True)


def main() -> None:
    torch.manual_seed(0)
    stock = timm.create_model("swinv2_tiny_window16_256", in_chans=2, img_size=SIZE, features_only=True).cuda().eval()
    with torch.no_grad():
        for p in stock.parameters():
            p += 0.02 * torch.randn_like(p)
    ours = copy.deepcopy(stock)
    accelerate(ours)
    image = torch.randn(BATCH, 2, SIZE, SIZE, device="cuda")
    with torch.no_grad():
        pairs = list(zip(ours(image), stock(image), strict=True))
    errors = [float((a - b).norm() / b.norm()) for a, b in pairs]
    say("fp32 difference of the maps", [f"{each:.1e}" for each in errors])
    facts: dict[str, object] = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "errors": errors}
    models = {"timm": stock.bfloat16(), "xt": ours.bfloat16()}
    models |= {f"{name} compiled": torch.compile(model) for name, model in list(models.items())}
    image = image.bfloat16()
    for way in ("forward", "both"):
        for name, model in models.items():

            def run() -> None:
                with torch.set_grad_enabled(way == "both"):  # noqa: B023
                    maps = model(image)  # noqa: B023
                if way == "both":  # noqa: B023
                    sum(each.float().square().mean() for each in maps).backward()

            run()
            spent = do_bench(run, warmup=20, rep=150, return_mode="median")
            torch.cuda.reset_peak_memory_stats()
            run()
            memory = torch.cuda.max_memory_allocated() / 2**30
            speed = BATCH * SIZE**2 / 1e3 / spent
            facts[f"{name}, {way}"] = {"ms": spent, "GiB": memory, "Mpx/s": speed}
            say(f"{name}, {way}: {spent:.2f} ms, {speed:.0f} Mpx/s, {memory:.2f} GiB")
            if len(sys.argv) > 1:
                (Path(sys.argv[1]) / "gpu_encoder.json").write_text(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
