"""Triton's HyperAttention beside fp64 of the plain one, under the same order."""

from dataclasses import dataclass

import torch
from torch import Tensor

from xt_kernels.hyper_attention import plain, triton_impl
from xt_kernels.hyper_attention.plan import Options

LIMITS = {torch.float32: 2e-5, torch.bfloat16: 1e-2, torch.float16: 1.5e-3}


@dataclass(frozen=True)
class Case:
    length: int
    keys: int = 0
    batch: int = 1
    dim: int = 16
    causal: bool = False
    block_size: int = 16
    sample_size: int = 12
    num_projections: int = 7
    min_seq_len: int = 24
    taper: bool = False
    dtype: torch.dtype = torch.float32
    joint: bool = False  # cut out of one projection, as models do

    def options(self) -> Options:
        sizes = (self.block_size, self.sample_size, self.num_projections, self.min_seq_len)
        return Options(self.causal, *sizes, self.dim**-0.5, 3, self.taper)

    def tensors(self, device: str) -> list[Tensor]:
        g = torch.Generator().manual_seed(self.length)
        shape, keys = (self.batch, self.length, 2, self.dim), self.keys or self.length
        if self.joint:
            whole = torch.randn(*shape[:2], 6 * self.dim, generator=g).to(device, self.dtype)
            return [x.view(shape).transpose(1, 2) for x in whole.chunk(3, -1)]
        shapes = [(self.batch, 2, n, self.dim) for n in (self.length, keys, keys)]
        return [torch.randn(shape, generator=g).to(device, self.dtype) for shape in shapes]


CASES = [
    Case(70, batch=2),
    Case(50, joint=True, dim=24, dtype=torch.bfloat16),
    Case(61, 30, sample_size=50),
    Case(30, 61, num_projections=9, dim=8),
    Case(65, block_size=64, dim=32, dtype=torch.float16),
    Case(90, causal=True, joint=True),
    Case(60, taper=True),
]


def poison(device: str) -> None:
    """Leave NaN in the memory that the next tensors get."""
    held = [torch.full((2**n,), torch.nan, device=device) for n in range(6, 20)]
    del held


def check(case: Case, device: str) -> None:
    options, tensors = case.options(), case.tensors(device)
    q, k, v = tensors
    grad = torch.randn(q.shape, generator=torch.Generator().manual_seed(0)).to(device, case.dtype)
    order = triton_impl.sort(q, k, options)
    # Sums of bf16 products may round to another sign on a GPU.
    assert (order != plain.sort(q, k, options)).double().mean() <= (0.0 if device == "cpu" else 0.2)
    poison(device)
    out, lse = triton_impl.attend(q, k, v, order, options)
    poison(device)
    grads = triton_impl.backward(grad, q, k, v, out, lse, order, options)
    exact = [x.double() for x in tensors]
    want, sums = plain.attend(*exact, order, options)
    wants = plain.backward(grad.double(), *exact, want, sums, order, options)
    torch.testing.assert_close(lse.double(), sums, rtol=1e-4, atol=1e-4)
    for name, a, b in zip("oqkv", (out, *grads), (want, *wants), strict=True):
        assert a.dtype == case.dtype
        assert (a.double() - b).norm() <= LIMITS[case.dtype] * b.norm(), name
    if device != "cpu":
        again = triton_impl.backward(grad, q, k, v, out, lse, order, options)
        assert all(map(torch.equal, grads, again))
