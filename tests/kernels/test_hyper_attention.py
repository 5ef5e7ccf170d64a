import pytest
import torch
from torch import Tensor

from xt_kernels.hyper_attention import hyper_attention, plan, softmax
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


@pytest.mark.parametrize(
    ("length", "keys", "causal"),
    [
        *((64, 64, False), (61, 61, False), (100, 37, False), (37, 100, False), (16, 16, False), (16, 9, False)),
        *((16, 16, True), (17, 17, True), (64, 64, True), (101, 101, True)),
    ],
)
def test_estimate_and_its_gradients_follow_the_definition(length: int, keys: int, causal: bool):
    # Blocks are much smaller than what is exact, so that each level of the halves estimates.
    options = {"causal": causal, "block_size": 4, "sample_size": 3, "min_seq_len": 16, "seed": 5, "scale": 0.3}
    results = []
    for backend in ("reference", "plain"):
        tensors = qkv(length, keys)
        out = hyper_attention(*tensors, **options, backend=backend)
        results.append([out.detach(), *torch.autograd.grad(out.square().sum(), tensors)])
    for got, want in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "option", [{"seed": 6}, {"num_projections": 3}, {"block_size": 8}, {"sample_size": 5}, {"taper": True}]
)
def test_options_count_in_both(option: dict):
    q, k, v = (t.detach() for t in qkv(61))
    options = {"block_size": 16, "sample_size": 8, "min_seq_len": 30, "seed": 5}
    before = hyper_attention(q, k, v, **options)
    got, want = (hyper_attention(q, k, v, **(options | option), backend=b) for b in ("plain", "reference"))
    torch.testing.assert_close(got, want)
    assert not torch.allclose(got, before)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [64, 101])
def test_gradients_through_the_log_sum_exp(length: int, causal: bool):
    tensors = [t[:1, :1].detach().requires_grad_() for t in qkv(length)]

    def run(*ts: Tensor) -> Tensor:
        return hyper_attention(*ts, causal=causal, block_size=16, sample_size=8, min_seq_len=24)

    assert torch.autograd.gradcheck(run, tensors, fast_mode=True)


CAUSAL = {"causal": True, "block_size": 16, "sample_size": 16, "min_seq_len": 32}


@pytest.mark.parametrize("which", [1, 2])
def test_causal_sees_no_later_key_or_value(which: int):
    tensors = [t.detach() for t in qkv(200)]
    before = hyper_attention(*tensors, **CAUSAL)
    tensors[which] = tensors[which].clone()
    tensors[which][:, :, 150:] *= -2
    after = hyper_attention(*tensors, **CAUSAL)
    assert torch.equal(before[:, :, :150], after[:, :, :150])
    assert not torch.equal(before[:, :, 150:], after[:, :, 150:])


def test_later_queries_move_the_blocks_of_earlier_ones():
    """Causal is not strictly causal beyond min_seq_len, as in the released code; the docstring says so."""
    q, k, v = (t.detach() for t in qkv(200))
    later = q.clone()
    later[:, :, 150:] *= -2
    before, after = hyper_attention(q, k, v, **CAUSAL), hyper_attention(later, k, v, **CAUSAL)
    assert torch.equal(before[:, :, :100], after[:, :, :100])
    assert not torch.equal(before[:, :, 100:150], after[:, :, 100:150])
    exact = CAUSAL | {"min_seq_len": 200}
    before, after = hyper_attention(q, k, v, **exact), hyper_attention(later, k, v, **exact)
    torch.testing.assert_close(before[:, :, :150], after[:, :, :150])


@pytest.mark.parametrize("causal", [False, True])
def test_without_the_kernels_of_the_cpu_it_is_the_same(causal: bool, monkeypatch: pytest.MonkeyPatch):
    options = {"causal": causal, "block_size": 8, "sample_size": 6, "min_seq_len": 16}

    def run() -> list[Tensor]:
        tensors = qkv(75)
        out = hyper_attention(*tensors, **options)
        return [out.detach(), *torch.autograd.grad(out.square().sum(), tensors)]

    with_kernels = run()
    monkeypatch.setattr(softmax, "_ON_CPU", "meta")
    for got, want in zip(run(), with_kernels, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("causal", [False, True])
def test_as_many_samples_as_keys_are_exact(causal: bool):
    q, k, v = qkv(75)
    got = hyper_attention(q, k, v, causal=causal, block_size=8, sample_size=75, min_seq_len=16)
    torch.testing.assert_close(got, attention(q, k, v, 0.25, causal))


def test_taper_leaves_exact_attention_without_a_jump():
    def error(length: int, **options: int) -> float:
        q, k, v = (t.detach() for t in qkv(length, dtype=torch.float32))
        want = attention(q, k, v, 0.25, False)
        got = hyper_attention(q, k, v, block_size=32, sample_size=32, min_seq_len=256, **options)
        return float((got - want).norm() / want.norm())

    assert error(256) < 1e-5 < 0.5 < error(257)
    tapered = [error(length, taper=True) for length in (257, 266, 300, 512)]
    assert tapered == sorted(tapered)
    assert tapered[0] < 0.15
    assert tapered[1] < 0.4
    # At 2048 keys 32 samples are the more.
    assert error(2048, taper=True) == error(2048)


def test_samples_are_spread_and_each_key_is_as_likely_by_its_weight():
    counts = torch.zeros(100)
    for seed in range(3000):
        index, weights = plan.sampled(plan.Part(0, 100, 0, 100, seed, 1, 30), torch.float32, torch.device("cpu"))
        assert (index.diff() > 0).all()
        counts[index] += weights.exp()
    torch.testing.assert_close(counts / 3000, torch.ones(100), rtol=0, atol=0.15)


SMALL = {"block_size": 8, "sample_size": 6, "min_seq_len": 16}


@pytest.mark.parametrize("causal", [False, True])
def test_is_an_operator_of_torch(causal: bool):
    packed = plan.Options(causal, 8, 6, 7, 16, 0.25, 0, False).packed()
    tensors = [t[:1].detach().requires_grad_() for t in qkv(41, 41 if causal else 30)]
    torch.library.opcheck(torch.ops.xt.hyper_attention.default, (*tensors, 0.25, packed, "plain"))


def test_compile_and_export_see_through():
    class Module(torch.nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return hyper_attention(q, 2 * k, v, **SMALL) + 1

    tensors = qkv(41)
    want = Module()(*tensors)
    got = torch.compile(Module(), fullgraph=True, backend="aot_eager")(*tensors)
    assert torch.equal(got, want)
    for a, b in zip(*(torch.autograd.grad(each.square().sum(), tensors) for each in (got, want)), strict=True):
        torch.testing.assert_close(a, b)
    exported = torch.export.export(Module(), tuple(t.detach() for t in tensors))
    torch.testing.assert_close(exported.module()(*tensors), want)
    assert "torch.ops.xt.hyper_attention" in exported.graph_module.code


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
    rounded = (t.bfloat16().float() for t in (q, k, v))
    assert torch.equal(got, hyper_attention(*rounded, **options).bfloat16())
    # A query near a hash boundary may change its block in bf16.
    assert (got.float() - want).norm() / want.norm() < 0.3
    torch.testing.assert_close(want, hyper_attention(*(t.contiguous() for t in (q, k, v)), **options))


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (lambda q, k, v: (q, k[:, :, :3], v[:, :, :3]), {"causal": True}, "with a causal mask"),
        (lambda q, k, v: (q, k, v[:, :, :3]), {}, "do not fit"),
        (lambda q, k, v: (q[:, :1], k, v), {}, "do not fit"),
        (lambda q, k, v: (q[..., :8], k, v), {}, "do not fit"),
        (lambda q, k, v: (q[0], k[0], v[0]), {}, r"must be \(B, H, L, D\)"),
        (lambda q, k, v: (q, k[:, :, :0], v[:, :, :0]), {}, "no size of 0"),
        (lambda q, k, v: (q, k, v.float()), {}, "v is torch.float32 .* as q: torch.float64"),
        (lambda q, k, v: (q, k.to("meta"), v), {}, "k is torch.float64 on meta"),
        (lambda q, k, v: (q.long(), k.long(), v.long()), {}, "q is torch.int64"),
        (lambda q, k, v: (q, k, v), {"block_size": 0}, "block_size is 0; it must be a whole number and at least 1"),
        (lambda q, k, v: (q, k, v), {"block_size": 3.5}, r"block_size is 3\.5"),
        (lambda q, k, v: (q, k, v), {"min_seq_len": 0}, "min_seq_len is 0"),
        (lambda q, k, v: (q, k, v), {"sample_size": -1}, "sample_size is -1"),
        (lambda q, k, v: (q, k, v), {"num_projections": 0}, "num_projections is 0"),
        (lambda q, k, v: (q, k, v), {"backend": "cuda"}, "no backend 'cuda'"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(spoil, options: dict, message: str):
    with pytest.raises(ValueError, match=message) as caught:
        hyper_attention(*spoil(*(t.detach() for t in qkv(4))), **options)
    assert "\n" not in str(caught.value)
