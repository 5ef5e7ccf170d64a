from itertools import pairwise

import pytest
import torch
from family import IDS, LAYOUTS, check_contract, elements, tokens_for
from literal import agree, gelu, places, randomise, rms_norm
from torch import Tensor, nn

from xt.errors import ModelError
from xt.geometry.grid import TokenLayout
from xt.models.context import base
from xt.models.context.msa import MSA

DIM, HEAD = 8, 4


def make(depth: int = 2, **options: float) -> MSA:
    return MSA(DIM, depth, **{"head_dim": HEAD, "mlp_ratio": 2, "window": 3, "pool": 2, **options})


def softmax_mean(q: Tensor, ks: list[Tensor], vs: list[Tensor]) -> Tensor:
    """One query over a list of keys, head by head."""
    heads = []
    for first in range(0, DIM, HEAD):
        part = slice(first, first + HEAD)
        weights = torch.stack([torch.exp((q[part] * k[part]).sum() / HEAD**0.5) for k in ks])
        heads.append(sum(w / weights.sum() * v[part] for w, v in zip(weights, vs, strict=True)))
    return torch.cat(heads)


def block(layer: nn.Module, scales: list[dict], window: int, pool: int) -> list[dict]:
    """Every scale is a table place → token; an extra token has place ("extra", n) at the coarsest."""
    rows = layer.attn.qkv.weight, layer.attn.qkv.bias

    def project(x: Tensor) -> tuple[Tensor, ...]:
        return (rows[0] @ rms_norm(layer.input_layernorm, x) + rows[1]).split(DIM)

    def out(x: Tensor) -> Tensor:
        return layer.attn.proj.weight @ x + layer.attn.proj.bias

    scales = [dict(each) for each in scales]
    for fine, coarse in pairwise(scales):
        for at, x in coarse.items():
            if at[0] != "extra":
                below = [project(y) for b, y in fine.items() if (b[0] // pool, b[1] // pool) == at]
                coarse[at] = x + out(softmax_mean(project(x)[0], [b[1] for b in below], [b[2] for b in below]))
    found = []
    for level, tokens in enumerate(scales):
        mixed = {}
        for at, x in tokens.items():
            seen = []
            for upper in range(level, len(scales)):
                side = pool ** (upper - level)
                for b, y in scales[upper].items():
                    if "extra" in (at[0], b[0]):
                        same = upper == len(scales) - 1
                    else:
                        same = all(p // side // window == r // window for p, r in zip(at, b, strict=True))
                    seen += [project(y)] if same else []
            x = x + out(softmax_mean(project(x)[0], [s[1] for s in seen], [s[2] for s in seen]))
            y = rms_norm(layer.post_attention_layernorm, x)
            inner = gelu(layer.mlp.gate_proj.weight @ y) * (layer.mlp.up_proj.weight @ y)
            mixed[at] = x + layer.mlp.down_proj.weight @ inner
        found.append(mixed)
    return found


def literal(encoder: MSA, x: Tensor, layout: TokenLayout, window: int, pool: int) -> Tensor:
    place = places(layout)
    scales = [dict(zip(place, x[0], strict=False))]
    size = max(layout.region_rows, layout.region_cols) * layout.side
    while size > window:
        size = -(-size // pool)
        above: dict = {}
        for at, token in scales[-1].items():
            above.setdefault((at[0] // pool, at[1] // pool), []).append(token)
        scales.append({at: sum(tokens) / len(tokens) for at, tokens in above.items()})
    for n in range(layout.num_extra):
        scales[-1]["extra", n] = x[0, len(place) + n]
    for layer in encoder.layers:
        scales = block(layer, scales, window, pool)
    extra = [scales[-1]["extra", n] for n in range(layout.num_extra)]
    return torch.stack([*(scales[0][at] for at in place), *extra])[None]


@pytest.mark.parametrize(
    ("layout", "window", "pool", "depth"),
    [
        (TokenLayout(3, 2, 2, num_extra=1), 2, 2, 2),
        (TokenLayout(2, 3, 2, exists=(True, False, False, True, False, True), num_extra=2), 2, 2, 1),
        (TokenLayout(1, 4, 2), 3, 3, 2),
        (TokenLayout(2, 2, 2, num_extra=1), 4, 2, 1),
    ],
)
def test_follows_the_equations(layout: TokenLayout, window: int, pool: int, depth: int):
    encoder = randomise(make(depth, window=window, pool=pool))
    agree(
        encoder,
        lambda x: literal(encoder, x, layout, window, pool),
        lambda x: encoder(x, layout),
        tokens_for(layout, DIM),
    )


def test_one_block_reaches_every_corner():
    encoder, layout = randomise(make(1)), TokenLayout(3, 5, 4)
    x = tokens_for(layout, DIM)
    (grad,) = torch.autograd.grad(encoder(x, layout)[0, 0].sum(), x)
    assert (grad.abs().sum(-1) > 0).all()


def test_groups_of_windows_change_nothing(monkeypatch: pytest.MonkeyPatch):
    layout = TokenLayout(3, 5, 4, exists=(True,) * 8 + (False,) * 3 + (True,) * 4, num_extra=1)
    encoder, x = randomise(make()), tokens_for(layout, DIM)
    with torch.no_grad():
        want = encoder(x, layout)
        monkeypatch.setattr(base, "PIECE_TOKENS", 20)
        torch.testing.assert_close(encoder(x, layout), want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("layout", LAYOUTS, ids=IDS)
@pytest.mark.parametrize("window", [2, 16])
def test_contract(layout: TokenLayout, window: int):
    check_contract(lambda: make(window=window), layout)


def test_a_part_is_cut_on_the_grid_of_the_scene():
    whole, part = TokenLayout(1, 5, 1), TokenLayout(1, 4, 1, origin=(0, 1))
    encoder, x = randomise(make(window=2)), tokens_for(whole, DIM)
    without = TokenLayout(1, 5, 1, exists=(False, *[True] * 4))
    torch.testing.assert_close(encoder(x[:, 1:], part), encoder(x[:, 1:], without), rtol=1e-9, atol=1e-9)
    elsewhere = encoder(x[:, 1:], TokenLayout(1, 4, 1))
    assert not torch.allclose(elsewhere, encoder(x[:, 1:], part))


def test_only_extra_tokens():
    layout = TokenLayout(1, 4, 2, exists=(False,) * 4, num_extra=1)
    assert make()(torch.zeros(2, 1, DIM), layout).shape == (2, 1, DIM)


def test_cost_is_linear_times_a_logarithm():
    encoder = MSA(16, 1, head_dim=16, window=8, pool=4)
    # Sides of 32 and 128 tokens have two scales and three, the coarsest a full window.
    assert elements(encoder, 16, 8) <= 16 * 3 / 2 * elements(encoder, 4, 8)


def test_sizes_are_checked():
    with pytest.raises(ModelError, match="window 0 must be at least 1"):
        make(window=0)
    with pytest.raises(ModelError, match="pool 1 at least 2"):
        make(pool=1)
