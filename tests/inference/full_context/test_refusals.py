"""The full context is refused where it cannot be, before anything is done."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_inputs import noise, raster, save

import xt
from xt.errors import ConfigError, ModelError
from xt.geometry.grid import RegionGrid
from xt.geometry.plan import ScenePlan
from xt.inference import first_pass


def test_full_context_of_what_needs_all_at_once_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = raster(tmp_path / "a.tif", noise(2, 330, 400))
    pooled = xt.load(save(tmp_path / "c", "classification", 2, context="Hyper", head_dim=8))
    with pytest.raises(ModelError, match=r"Pooled gives one answer for each window; .* whole image give --tile 400"):
        xt.predict(pooled, path, context="full")
    image = torch.from_numpy(noise(2, 330, 400)[None] / 100).float()
    with torch.no_grad(), xt.predict(pooled, path, tile=400) as got:
        want = pooled.network(image)["label"].softmax(1).numpy()[0]
        assert np.allclose(got.summary.score, want.max(), atol=1e-5)
    dense = xt.load(save(tmp_path / "s", "semantic-segmentation", 2))
    with monkeypatch.context() as patch:
        patch.setattr(type(dense.network.decoder), "is_local", False)
        with pytest.raises(ModelError, match="UNet needs a window's features at once; take --context windows"):
            xt.predict(dense, path, context="full")
    hyper = xt.load(save(tmp_path / "h", "semantic-segmentation", 2, context="Hyper", head_dim=8))
    with monkeypatch.context() as patch:
        patch.setattr(first_pass.os, "sysconf", lambda name: 10)
        with pytest.raises(ConfigError, match=r"Hyper sees all tokens at once, which takes about \d+ MiB; 0 are free"):
            xt.predict(hyper, path, context="full")
    grid = RegionGrid(330, 400, hyper.network.region_size)
    with pytest.raises(ConfigError, match="1 are free; take --context windows, or a context that reads in parts"):
        first_pass.check_full_context(hyper.network, ScenePlan(grid, 2, 0, 0, 4), limit=1 << 20)
    with xt.predict(hyper, path, context="full") as got:
        assert got.shape == (330, 400)
