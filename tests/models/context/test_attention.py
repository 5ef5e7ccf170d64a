import logging

import pytest
import torch
import torch.nn.functional as F
from literal import agree, attention_block, exact, randomise
from torch import Tensor

from xt.geometry.grid import TokenLayout
from xt.models.context import blocks, hyper
from xt.models.context.base import ContextEncoder
from xt.models.context.blocks import AttentionBlock
from xt.models.context.full_attention import FullAttention
from xt.models.context.hyper import Hyper
from xt_kernels.hyper_attention import hyper_attention

LAYOUT = TokenLayout(2, 3, 2, num_extra=1)
SMALL = {"head_dim": 4, "mlp_ratio": 1.5}


def tokens(length: int = LAYOUT.num_tokens) -> Tensor:
    g = torch.Generator().manual_seed(length)
    return torch.randn(1, length, 8, generator=g, dtype=torch.float64).requires_grad_()


def literal(encoder: ContextEncoder, x: Tensor, attends: list) -> Tensor:
    out = x[0]
    for layer, attend in zip(encoder.layers, attends, strict=True):
        out = attention_block(layer, out, None, 4, attend)
    return out[None]


@pytest.mark.parametrize("training", [True, False])
def test_full_attention_follows_the_equations(training: bool):
    encoder = randomise(FullAttention(8, 3, **SMALL)).train(training)
    agree(encoder, lambda x: literal(encoder, x, [exact] * 3), lambda x: encoder(x, LAYOUT), tokens())


def hashed(seed: int, causal: bool, min_seq_len: int):
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        one = [each[None] for each in (q, k, v)]
        return hyper_attention(
            *one, causal=causal, block_size=5, sample_size=3, num_projections=2, min_seq_len=min_seq_len, seed=seed,
            taper=True, backend="reference",
        )[0]  # fmt: skip

    return attend


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("min_seq_len", [6, 25])
def test_hyper_follows_the_equations_with_a_seed_of_its_own_in_each_layer(causal: bool, min_seq_len: int):
    options = {"causal": causal, "block_size": 5, "sample_size": 3, "num_projections": 2, "min_seq_len": min_seq_len}
    encoder = randomise(Hyper(8, 3, **SMALL, **options, seed=7))
    attends = [hashed(7 + 1000 * layer, causal, min_seq_len) for layer in range(3)]
    agree(encoder, lambda x: literal(encoder, x, attends), lambda x: encoder(x, LAYOUT), tokens())
    same = literal(encoder, tokens(), [hashed(7, causal, min_seq_len)] * 3)
    assert torch.allclose(encoder(tokens(), LAYOUT), same) == (min_seq_len == 25)


def test_hyper_says_once_whether_it_is_exact(caplog: pytest.LogCaptureFixture):
    encoder = Hyper(8, 1, **SMALL, block_size=5, min_seq_len=LAYOUT.num_tokens)
    longer = TokenLayout(3, 3, 2)
    hyper._tell.cache_clear()
    with caplog.at_level(logging.INFO):
        for layout in (LAYOUT, longer) * 2:
            encoder(torch.zeros(1, layout.num_tokens, 8), layout)
    told = [record.getMessage() for record in caplog.records if "Hyper" in record.getMessage()]
    assert told == [
        "Hyper: attention is exact; it is up to min_seq_len, 25 tokens",
        "Hyper: attention is an estimate from blocks and samples beyond min_seq_len, 25 tokens",
    ]


def test_hyper_leaves_exact_attention_without_a_jump():
    layout = TokenLayout(2, 3, 2, num_extra=2)  # one token more than min_seq_len
    options = SMALL | {"block_size": 5, "sample_size": 3, "min_seq_len": LAYOUT.num_tokens}
    encoders = [Hyper(8, 1, **options, taper=taper) for taper in (True, False)]
    full = randomise(FullAttention(8, 1, **SMALL))
    x = tokens(layout.num_tokens).detach()
    errors = []
    for encoder in encoders:
        encoder.load_state_dict(full.state_dict())
        errors.append(float((encoder.double()(x, layout) - full(x, layout)).detach().norm()))
    assert errors[0] < 0.3 * errors[1]


def test_block_reads_the_memory_by_the_same_projections():
    block = randomise(AttentionBlock(8, 4, 1.5))
    memory = 2 * tokens(7).detach()

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.stack([exact(*heads) for heads in zip(q, k, v, strict=True)])

    agree(
        block,
        lambda x: attention_block(block, x[0], memory[0], 4, exact)[None],
        lambda x: block(x, memory, attend),
        tokens(),
    )


def test_defaults_are_those_of_the_release():
    hyper = Hyper(256)
    assert len(hyper.layers) == 2
    assert hyper.layers[0].attn.head_dim == 128
    assert hyper.layers[0].mlp.gate_proj.weight.shape == (1024, 256)
    assert hyper.spec()["init_args"] == {
        "dim": 256, "depth": 2, "head_dim": 128, "mlp_ratio": 4.0, "causal": False, "block_size": 256,
        "sample_size": 256, "num_projections": 7, "min_seq_len": 4096, "seed": 0, "taper": True,
    }  # fmt: skip
    assert hyper.no_weight_decay() == set()
    assert hyper.losses() == {}


@pytest.mark.parametrize("training", [True, False])
def test_the_mlp_works_piece_by_piece_to_the_same_result(training: bool, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    block = AttentionBlock(16, 8, 4.0).double().train(training)
    x, memory = torch.randn(2, 50, 16, dtype=torch.float64), torch.randn(2, 7, 16, dtype=torch.float64)
    seen: list[int] = []
    block.mlp.down_proj.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].numel()))

    def results() -> list[Tensor]:
        leaf = x.clone().requires_grad_()
        y = block(leaf, memory, F.scaled_dot_product_attention)
        return [y, *torch.autograd.grad(y.square().sum(), [leaf, *block.parameters()])]

    want = results()
    assert max(seen) == 2 * 50 * 64
    seen.clear()
    monkeypatch.setitem(blocks.INNER, "cpu", 2 * 64 * 12)
    for a, b in zip(results(), want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert max(seen) == 2 * 64 * 12
    assert sum(seen) == (2 if training else 1) * 2 * 50 * 64  # forward, and once more in backward
