"""Images, models and options drawn at random: the ways to the same result give the same result."""

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from small_inputs import raster, save

from xt.cli.main import main
from xt.inference import engine, predict, reader, views
from xt.models.checkpoint import load_model
from xt.models.context.base import SequentialContextEncoder

TASKS = ["semantic-segmentation", "point-detection", "classification"]
CONTEXTS: dict[str, dict[str, Any]] = {
    "Mamba": {"depth": 1}, "TransformerXL": {"depth": 1, "head_dim": 8, "chunk_regions": 2, "min_seq_len": 32, "block_size": 16, "sample_size": 16}, "Identity": {},
    "Hyper": {"depth": 1, "head_dim": 8}, "Vim": {"depth": 1}, "RWKV": {"depth": 1, "head_dim": 8}, "Mamba2": {"depth": 1, "head_dim": 8},
}  # fmt: skip
LAYOUTS: list[dict[str, Any]] = [
    {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"},
    {"tiled": True, "blockxsize": 16, "blockysize": 48, "interleave": "band"},
    {"blockysize": 1, "compress": "lzw"},
    {"blockysize": 7},
]
MISSING = 9


@dataclass
class Case:
    """What one seed draws: an image with holes, a model, and options of ``xt predict``."""

    seed: int
    folder: Path
    options: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.draw = draw = random.Random(self.seed)
        rng = np.random.default_rng(self.seed)
        self.task, self.bands = draw.choice(TASKS), draw.choice((1, 2))
        self.size = height, width = draw.randint(1, 400), draw.randint(1, 400)
        self.kind = draw.choice(["uint8", "uint16", "int16", "float32"])
        self.pixels = rng.integers(10, 200, (self.bands, height, width)).astype(self.kind)
        for _ in range(draw.randint(0, 4)):
            top, left = draw.randrange(height), draw.randrange(width)
            bands = draw.choice([slice(None), slice(1)])
            self.pixels[bands, top : top + draw.randint(1, 200), left : left + draw.randint(1, 200)] = MISSING
        missing = self.pixels == MISSING
        self.known = ~(missing.all(0) if self.kind == "uint8" else missing.any(0))
        self.context = draw.choice(list(CONTEXTS))
        self.model = save(self.folder / "m", self.task, self.bands, context=self.context, **CONTEXTS[self.context])
        in_passes = isinstance(load_model(self.model)[0].context.encoder, SequentialContextEncoder)
        self.full = self.task != "classification" and in_passes and draw.random() < 0.4
        if self.full:
            self.options += ["--context", "full"]
        elif draw.random() < 0.8:
            side = draw.randint(1, 5)
            self.options += ["--tile", str(64 * side), "--overlap", str(64 * draw.randrange(side))]
            self.options += ["--blend", draw.choice(["cosine", "linear", "none"])]
        self.options += ["--tta", draw.choice(["none", "none", "flips", "d4"])]
        self.save("whole", self.pixels, draw.choice(LAYOUTS))

    def save(self, name: str, pixels: np.ndarray, layout: dict[str, Any], **given: Any) -> Path:
        """Save an image; all have one name, in folders of their own."""
        (self.folder / name).mkdir()
        return raster(self.folder / name / "a.tif", pixels, **{"nodata": MISSING} | layout | given)

    def predict(self, image: str, out: str, *more: str, codes: tuple[int, ...] = (0,)) -> int:
        argv = ["predict", self.folder / image / "a.tif", "-m", self.model, "-o", f"{out}.tif", *self.options, *more]
        code = main(list(map(str, argv)))
        assert code in codes
        return code

    def same(self, one: str, other: str, tolerance: float = 0.0) -> None:
        """Compare all files of two results; with a tolerance the maps alone."""
        maps = []
        for name in (one, other):
            with rasterio.open(self.folder / f"{name}.tif") as dataset:
                maps.append((dataset.read(), dataset.read_masks(), dataset.profile))
        for mine, theirs in zip(*(each[:2] for each in maps), strict=True):
            np.testing.assert_allclose(mine.astype(float), theirs.astype(float), atol=tolerance, rtol=tolerance)
        for suffix in ("csv", "geojson", "json") if not tolerance else ():
            files = [self.folder / f"{name}.{suffix}" for name in (one, other)]
            assert files[0].exists() == files[1].exists()
            if files[0].exists():
                assert files[0].read_bytes() == files[1].read_bytes(), suffix


@pytest.fixture(params=[*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 60))])
def case(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    monkeypatch.chdir(tmp_path)
    drawn = Case(request.param, tmp_path)
    drawn.predict("whole", "whole")
    return drawn


def test_all_ways_to_a_result(case: Case, monkeypatch: pytest.MonkeyPatch):
    _missing_pixels_stay(case)
    if not case.full:
        _shares(case)
    _cut_off_anywhere(case)
    _another_layout(case)
    _a_mask_instead_of_nodata(case)
    _a_window_is_an_image(case)
    _little_memory(case, monkeypatch)


def _missing_pixels_stay(case: Case) -> None:
    with rasterio.open(case.folder / "whole.tif") as dataset:
        assert ((dataset.read_masks() != 0) == case.known).all()


def _shares(case: Case) -> None:
    count = case.draw.randint(2, 4)
    for number in case.draw.sample(range(1, count + 1), count):
        case.predict("whole", "shares", "--shard", f"{number}/{count}")
    assert main(["merge", str(case.folder / "shares.tif")]) == 0
    case.same("whole", "shares")


def _cut_off_anywhere(case: Case) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "COMMIT_SECONDS", case.draw.choice([0.0, 0.0, 20.0]))
        for name in ("encode", "decode"):
            patch.setattr(views, name, _stopping(getattr(views, name), case.draw.randint(1, 12)))
        for _ in range(30):
            if case.predict("whole", "killed", codes=(0, 130)) == 0:
                break
    assert (case.folder / "killed.tif").exists()
    case.same("whole", "killed")


def _stopping(plain: Any, at: int) -> Any:
    """Stop as Ctrl-C does at one of the calls, once."""
    calls = 0

    def stop(*args: Any, **given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            raise KeyboardInterrupt
        return plain(*args, **given)

    return stop


def _another_layout(case: Case) -> None:
    kind = "uint8" if case.kind == "uint8" else case.draw.choice(["float32", "int32", "float64"])
    case.save("layout", case.pixels.astype(kind), case.draw.choice(LAYOUTS))
    case.predict("layout", "layout")
    case.same("whole", "layout")


def _a_mask_instead_of_nodata(case: Case) -> None:
    raster(case.folder / "known.tif", case.known[None].astype(np.uint8) * case.draw.choice([1, 255]))
    case.save("masked", case.pixels, {}, nodata=None)
    case.predict("masked", "masked", "--mask", str(case.folder / "known.tif"))
    case.same("whole", "masked")


def _a_window_is_an_image(case: Case) -> None:
    height, width = case.size
    top, left = case.draw.randrange(height), case.draw.randrange(width)
    high, wide = case.draw.randint(1, height - top), case.draw.randint(1, width - left)
    case.save("cut_out", case.pixels[:, top : top + high, left : left + wide], case.draw.choice(LAYOUTS))
    case.predict("cut_out", "cut_out")
    case.predict("whole", "window", "--window", f"{top},{left},{high},{wide}")
    case.same("cut_out", "window", 1e-6)


def _little_memory(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "BUDGET", 0)
    monkeypatch.setattr(reader, "CACHED", 0)
    case.predict("whole", "small")
    case.same("whole", "small")
    assert json.loads((case.folder / "small.report.json").read_text())["result"]["regions"] > 0
