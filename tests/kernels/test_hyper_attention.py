import pytest
import torch
from torch import Tensor

from xt_kernels.hyper_attention import hyper_attention, plain
from xt_kernels.hyper_attention.reference import attention


def qkv(length: int, keys: int | None = None, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    g = torch.Generator().manual_seed(length)
    sizes = (length, keys or length, keys or length)
    return [torch.randn(2, 3, n, 16, generator=g, dtype=dtype).requires_grad_() for n in sizes]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [1, 63, 500])
def test_exact_below_min_seq_len(length: int, causal: bool):
    q, k, v = qkv(length)
    torch.testing.assert_close(hyper_attention(q, k, v, causal=causal), attention(q, k, v, 0.25, causal))


def brute_force(q: Tensor, k: Tensor, v: Tensor, block: int, samples: int, seed: int) -> Tensor:
    """Row by row, from the definition."""
    length, keys = q.shape[2], k.shape[2]
    blocks = -(-max(length, keys) // block)
    q_size, k_size = -(-length // blocks), -(-keys // blocks)
    g = torch.Generator().manual_seed(seed)
    projections = torch.randn(q.shape[-1], 7, generator=g).to(q)
    chosen = torch.randint(keys, (min(samples, keys),), generator=g)
    out = torch.zeros_like(q)

    def ranks(x: Tensor) -> list[int]:
        codes = []
        for row in x:
            rank, bit = 0, 0
            for sign in (row @ projections > 0).tolist():
                bit ^= int(sign)
                rank = 2 * rank + bit
            codes.append(rank)
        return sorted(range(len(codes)), key=lambda i: codes[i])

    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            q_order, k_order = ranks(q[b, h]), ranks(k[b, h])
            for place, row in enumerate(q_order):
                mine = k_order[place // q_size * k_size :][:k_size]
                others = [int(j) for j in chosen if int(j) not in set(mine)]
                index = torch.tensor([*mine, *others])
                logits = 0.25 * k[b, h, index] @ q[b, h, row]
                logits[len(mine) :] += torch.tensor(keys / len(chosen), dtype=q.dtype).log()
                out[b, h, row] = logits.softmax(0) @ v[b, h, index]
    return out


@pytest.mark.parametrize(("length", "keys"), [(64, 64), (61, 61), (100, 37), (37, 100)])
def test_estimate_follows_the_definition(length: int, keys: int):
    q, k, v = (t.detach() for t in qkv(length, keys))
    got = hyper_attention(q, k, v, block_size=16, sample_size=8, min_seq_len=8, seed=5)
    torch.testing.assert_close(got, brute_force(q, k, v, 16, 8, 5), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [64, 101])
def test_gradients_through_the_log_sum_exp(length: int, causal: bool):
    tensors = [t[:1, :1].detach().requires_grad_() for t in qkv(length)]

    def run(*ts: Tensor) -> Tensor:
        return hyper_attention(*ts, causal=causal, block_size=16, sample_size=8, min_seq_len=24)

    assert torch.autograd.gradcheck(run, tensors, fast_mode=True)


def test_causal_does_not_see_ahead():
    q, k, v = (t.detach() for t in qkv(200))
    changed = v.clone()
    changed[:, :, 150:] += 1
    options = {"causal": True, "block_size": 16, "sample_size": 16, "min_seq_len": 32}
    a, b = hyper_attention(q, k, v, **options), hyper_attention(q, k, changed, **options)
    assert torch.equal(a[:, :, :150], b[:, :, :150])
    assert not torch.equal(a[:, :, 150:], b[:, :, 150:])


def test_merge_equals_attention_over_both():
    q, k, v = qkv(50)
    parts = [plain.exact(q, k[:, :, s], v[:, :, s], 0.25, False) for s in (slice(0, 20), slice(20, None))]
    out, _ = plain.merge(*parts[0], *parts[1])
    torch.testing.assert_close(out, attention(q, k, v, 0.25, False))


def test_more_samples_come_closer_and_same_seed_is_same_output():
    q, k, v = (t.detach() for t in qkv(2048, dtype=torch.float32))
    want = attention(q, k, v, 0.25, False)

    def error(samples: int) -> float:
        got = hyper_attention(q, k, v, block_size=64, sample_size=samples, min_seq_len=1, seed=1)
        return float((got - want).norm() / want.norm())

    assert error(1024) < 0.6 * error(64)
    assert error(64) == error(64)


def test_bf16_and_non_contiguous():
    q, k, v = (t.detach().transpose(1, 2).contiguous().transpose(1, 2) for t in qkv(300, dtype=torch.float32))
    options = {"block_size": 32, "sample_size": 32, "min_seq_len": 16}
    want = hyper_attention(q, k, v, **options)
    got = hyper_attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), **options)
    assert got.dtype == torch.bfloat16
    # A query near a hash boundary may change its block in bf16.
    assert (got.float() - want).norm() / want.norm() < 0.3
    torch.testing.assert_close(want, hyper_attention(*(t.contiguous() for t in (q, k, v)), **options))


def test_errors():
    q, k, v = qkv(4)
    with pytest.raises(ValueError, match="no backend 'triton'"):
        hyper_attention(q, k, v, backend="triton")
    with pytest.raises(ValueError, match="do not fit"):
        hyper_attention(q, k[:, :, :3], v[:, :, :3], causal=True)
