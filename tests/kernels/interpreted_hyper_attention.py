"""Run by test_hyper_attention_triton.py in a process of its own, with TRITON_INTERPRET=1."""

import pytest
from hyper_cases import CASES, Case, check


@pytest.mark.parametrize("case", CASES)
def test_forward_and_gradients(case: Case):
    check(case, "cpu")
