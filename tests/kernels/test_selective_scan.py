import pytest
import torch
from torch import Tensor

from xt_kernels.selective_scan import selective_scan, selective_scan_channels_last


def inputs(length: int, dtype: torch.dtype = torch.float64, groups: int | None = None, seed: int = 0) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    batch, dim, states = 2, 6, 4

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    b_shape = (batch, states, length) if groups is None else (batch, groups, states, length)
    tensors = [
        draw(batch, dim, length),
        draw(batch, dim, length),
        -draw(dim, states).exp(),
        draw(*b_shape),
        draw(*b_shape),
        draw(dim),
        draw(batch, dim, length),
        draw(dim),
    ]
    return [t.to(dtype).requires_grad_() for t in tensors]


def run(tensors: list[Tensor], backend: str) -> tuple[Tensor, Tensor]:
    u, delta, A, B, C, D, z, bias = tensors
    return selective_scan(u, delta, A, B, C, D, z, bias, True, return_last_state=True, backend=backend)


@pytest.mark.parametrize("length", [1, 15, 16, 17, 63, 500, 1025])
@pytest.mark.parametrize("groups", [None, 1, 3])
def test_chunked_equals_reference_with_all_gradients(length: int, groups: int | None):
    results = []
    for backend in ("reference", "chunked"):
        tensors = inputs(length, groups=groups)
        y, state = run(tensors, backend)
        (y.square().sum() + state.sum()).backward()
        results.append([y.detach(), state.detach(), *(t.grad for t in tensors)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_lower_precision_stays_near_fp64(dtype: torch.dtype, tolerance: float):
    low = [t.detach() for t in inputs(700, dtype)]
    want, _ = run([t.double() for t in low], "reference")
    got, state = run(low, "chunked")
    assert got.dtype == dtype
    assert state.dtype == torch.float32
    assert (got.double() - want).norm() / want.norm() <= tolerance


@pytest.mark.parametrize("scale", [5.0, 50.0, 1000.0])
def test_large_steps_give_no_nan(scale: float):
    tensors = inputs(300, torch.float32)
    tensors[1] = (tensors[1].detach().abs() * scale).requires_grad_()
    y, _ = run(tensors, "chunked")
    y.sum().backward()
    want, _ = run(tensors, "reference")
    torch.testing.assert_close(y, want, rtol=1e-4, atol=1e-4)
    assert all(t.grad.isfinite().all() for t in tensors)


def test_state_carries_over_a_cut():
    u, delta, A, B, C, *_ = inputs(400)
    whole = selective_scan(u, delta, A, B, C, delta_softplus=True)
    first, state = selective_scan(
        u[..., :133], delta[..., :133], A, B[..., :133], C[..., :133], delta_softplus=True, return_last_state=True
    )
    second = selective_scan(
        u[..., 133:], delta[..., 133:], A, B[..., 133:], C[..., 133:], delta_softplus=True, initial_state=state
    )
    torch.testing.assert_close(torch.cat([first, second], -1), whole)


def test_channels_last_is_the_same_op_and_takes_views():
    u, delta, A, B, C, D, z, bias = inputs(77)
    last = [x.transpose(1, 2) for x in (u, delta, B, C, z)]
    got = selective_scan_channels_last(last[0], last[1], A, last[2], last[3], D, last[4], bias, True)
    torch.testing.assert_close(got.transpose(1, 2), run([u, delta, A, B, C, D, z, bias], "chunked")[0])


def test_gradcheck():
    tensors = [t[:1, ..., :9] if t.ndim == 3 else t for t in inputs(9)]
    leaves = [t.detach().requires_grad_() for t in tensors]
    assert torch.autograd.gradcheck(lambda *ts: run(list(ts), "chunked"), leaves, fast_mode=True)


def test_memory_is_recomputed_not_kept():
    kept: list[int] = []
    tensors = inputs(4096, torch.float32)

    def pack(t: Tensor) -> Tensor:
        kept.append(t.numel())
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        run(tensors, "chunked")
    # B·L·D·N numbers would be 4 times as many as B·L·D; what is kept are a few of the latter.
    assert max(kept) <= 2 * 6 * 4096


CASES = [
    ("u", lambda t: t[0], "u is .*must be"),
    ("u", lambda t: t[..., :0], "u is .*no size of 0"),
    ("delta", lambda t: t[:, :, :3], r"delta is \(2, 6, 3\); with u \(2, 6, 4\) it must be \(2, 6, 4\)"),
    ("delta", lambda t: t[:1], "delta is"),
    ("A", lambda t: t[0], r"A is \(4,\)"),
    ("A", lambda t: t[:5], r"A is \(5, 4\); .* must be \(6, 4\)"),
    ("A", lambda t: t.sum(), "0 states"),
    ("A", lambda t: t[:, :3], r"B is \(2, 4, 4\); .* must be \(2, 3, 4\)"),
    ("B", lambda t: t[:, :3], "B is"),
    ("B", lambda t: t[..., :3], "B is"),
    ("B", lambda t: t[0], "B is"),
    ("B", lambda t: t[:, None].expand(2, 4, 4, 4), "4 groups .* do not fit 6 channels"),
    ("C", lambda t: t[:, :3], "C is"),
    ("C", lambda t: t[:, None], "C is"),
    ("D", lambda t: t[:5], r"D is \(5,\)"),
    ("D", lambda t: t[:1], r"D is \(1,\)"),
    ("z", lambda t: t[:, :1], "z is"),
    ("delta_bias", lambda t: t[None], "delta_bias is"),
    ("initial_state", lambda t: t[:1], r"initial_state is \(1, 6, 4\)"),
    ("delta", lambda t: t.long(), "delta is torch.int64"),
    ("u", lambda t: t.to(torch.complex64), "u is torch.complex64"),
    ("C", lambda t: t.to("meta"), "C is torch.float64 on meta"),
]


@pytest.mark.parametrize(("name", "spoil", "message"), CASES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_wrong_sizes_and_dtypes_are_said_in_one_line(name: str, spoil, message: str, channels_last: bool):
    names = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
    tensors = {key: t.detach() for key, t in zip(names, inputs(4), strict=True)}
    tensors["initial_state"] = torch.zeros(2, 6, 4)
    tensors[name] = spoil(tensors[name])
    op = selective_scan
    if channels_last:
        # The same mistake in the other order of axes; sizes in the message differ.
        op, message = selective_scan_channels_last, "selective_scan: "
        for key in ("u", "delta", "B", "C", "z"):
            tensors[key] = tensors[key].movedim(-1, min(1, tensors[key].ndim - 1))
    with pytest.raises(ValueError, match=message) as caught:
        op(**tensors)
    assert "\n" not in str(caught.value)


def test_dtypes_may_differ():
    tensors = inputs(20, torch.float32)
    want, _ = run(tensors, "chunked")
    tensors[4] = tensors[4].detach().double()
    torch.testing.assert_close(run(tensors, "chunked")[0], want)
