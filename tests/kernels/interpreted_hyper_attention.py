"""Run by test_hyper_attention_triton.py in a process of its own, with TRITON_INTERPRET=1."""

import pytest
from hyper_cases import CASES, Case, check

from xt_kernels.hyper_attention import triton_impl


@pytest.mark.parametrize("case", CASES)
def test_forward_and_gradients(case: Case, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(triton_impl, "_RUN", 25)  # several runs of queries, not whole tiles
    check(case, "cpu")
