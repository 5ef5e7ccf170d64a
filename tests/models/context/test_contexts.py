from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from xt import plugins
from xt.errors import ModelError
from xt.geometry import order
from xt.geometry.grid import TokenLayout
from xt.models.context.base import ContextEncoder
from xt.models.context.full_attention import FullAttention
from xt.models.context.hyper import Hyper
from xt.models.context.identity import Identity
from xt.models.context.mamba import Mamba
from xt.models.context.transformer_xl import TransformerXL
from xt_kernels.hyper_attention import op

DIM = 32


def make(name: str) -> ContextEncoder:
    torch.manual_seed(0)
    return {
        "Identity": lambda: Identity(DIM),
        "FullAttention": lambda: FullAttention(DIM, head_dim=16),
        "Hyper": lambda: Hyper(DIM, head_dim=16, block_size=16, sample_size=16, min_seq_len=32),
        "Mamba": lambda: Mamba(DIM),
        "TransformerXL": lambda: TransformerXL(DIM, depth=4, chunk_regions=2, head_dim=16),
    }[name]()  # fmt: skip


MIXING = ["FullAttention", "Hyper", "Mamba", "TransformerXL"]


def tokens_for(layout: TokenLayout, batch: int = 2) -> Tensor:
    return torch.randn(batch, layout.num_tokens, DIM, generator=torch.Generator().manual_seed(1))


def change_seen(context: ContextEncoder, layout: TokenLayout, source: int, target: int) -> float:
    """How much the tokens of region ``target`` change when those of ``source`` do."""
    x = tokens_for(layout)
    region = torch.tensor(order.region_indices(layout))
    y = x.clone()
    # Not a constant: layer normalisation would take that away.
    y[:, torch.cat([region == source, torch.zeros(layout.num_extra, dtype=torch.bool)])] *= -1
    with torch.no_grad():
        difference = context.eval()(y, layout) - context(x, layout)
    return float(difference[:, : len(region)][:, region == target].abs().max())


def test_the_control_carries_nothing():
    assert change_seen(make("Identity"), TokenLayout(4, 4, 3), 0, 15) == 0


def test_transformer_xl_reaches_depth_times_chunk_regions_back_and_no_farther():
    layout = TokenLayout(4, 4, 2)
    context = make("TransformerXL")
    # Chunks are regions (0, 1), (2, 3), ...; four layers carry over four chunks.
    assert change_seen(context, layout, 0, 9) > 0
    assert change_seen(context, layout, 0, 10) == 0
    assert change_seen(context, layout, 4, 2) == 0


@pytest.mark.parametrize("name", MIXING)
def test_recomputation_changes_no_gradient(name: str):
    layout = TokenLayout(3, 3, 3)
    grads = []
    for training in (True, False):
        context, x = make(name).train(training), tokens_for(layout).requires_grad_()
        context(x, layout).square().sum().backward()
        grads.append([x.grad, *(p.grad for p in context.parameters())])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "calls"),
    [
        # Layers times chunks, each with the one before.
        ("xview3_4096_512_xl", [(4096, 4096)] * 2 + [(4096, 8192)] * 6),
        ("inat_reptilia_512_256_xl", [(128, 128)] * 2 + [(129, 257)] * 2),
        ("xview3_4096_512_hyper", [(16384, 16384)] * 2),
        ("inat_reptilia_512_256_hyper", []),
    ],
)
def test_attention_of_the_configs_is_hashed(config: str, calls: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch):
    values = yaml.safe_load((Path(__file__).parents[3] / "configs" / f"{config}.yaml").read_text())
    parts = values["model"]["model"]
    side = parts["region_encoder"]["init_args"]["region_size"] // 32
    regions = values["data"]["init_args"]["image_size"] // (32 * side)
    layout = TokenLayout(regions, regions, side, num_extra=int(parts["decoder"]["class_path"] == "ClassToken"))
    hashed = []

    def attend(q: Tensor, k: Tensor, *options: object) -> Tensor:
        hashed.append((q.shape[2], k.shape[2]))
        return q

    monkeypatch.setattr(op, "hyper_attention", attend)
    context = plugins.build("context_encoders", parts["context"], dim=128).eval()
    with torch.no_grad():
        context(torch.zeros(1, layout.num_tokens, 128), layout)
    assert hashed == calls


def test_the_xl_config_reaches_the_class_token_from_every_region():
    context = TransformerXL(DIM, chunk_regions=2, head_dim=16, block_size=16, sample_size=16, min_seq_len=16)
    layout = TokenLayout(2, 2, 4, num_extra=1)
    x = tokens_for(layout)
    for region in range(4):
        y = x.clone()
        y[:, torch.cat([torch.tensor(order.region_indices(layout)) == region, torch.tensor([False])])] *= -1
        with torch.no_grad():
            assert not torch.equal(context.eval()(y, layout)[:, -1], context(x, layout)[:, -1])


def test_builds_on_the_meta_device():
    with torch.device("meta"):
        for name in MIXING:
            make(name)


def test_heads_must_divide_with_both_numbers():
    with pytest.raises(ModelError, match=r"96 does not divide by head_dim 128"):
        Hyper(96)
