"""Models and their parts behind ``torch.compile``: the same values and gradients."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from parts import small_model
from torch import Tensor

from xt import plugins
from xt.geometry.grid import TokenLayout
from xt.models.xt import XT


def results(model: XT, call: Callable[[Tensor], dict[str, Tensor]]) -> list[Tensor]:
    model.zero_grad()
    out = call(torch.randn(1, 2, 128, 192, generator=torch.Generator().manual_seed(1)))["a"]
    out.square().mean().backward()
    return [out.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("how", ["function", "method"])
def test_a_compiled_model_gives_the_same(how: str):
    graphs: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(sum(node.op == "call_function" for node in graph.graph.nodes))
        return graph.forward

    model = small_model()
    plain = results(model, model)
    if how == "method":
        model.compile(backend=backend)
        compiled = results(model, model)
    else:
        compiled = results(model, torch.compile(model, backend=backend))
    for each, want in zip(compiled, plain, strict=True):
        torch.testing.assert_close(each, want, rtol=1e-4, atol=1e-6)
    assert (len(graphs) > 0) == (how == "method")  # loops over regions and tiles would be unrolled, for minutes


@pytest.mark.parametrize("name", ["SS2D", pytest.param("TransformerXL", marks=pytest.mark.slow)])
def test_indices_break_no_compiled_context(name: str):
    torch.manual_seed(0)
    options = {"head_dim": 8} if name == "TransformerXL" else {}
    encoder = plugins.resolve("context_encoders", name)(dim=16, **options).eval()
    layout = TokenLayout(2, 3, 2, exists=(True, True, False, True, True, True))
    tokens = torch.randn(1, layout.num_tokens, 16)
    with torch.no_grad():
        compiled = torch.compile(encoder, backend="eager")(tokens, layout)
        torch.testing.assert_close(compiled, encoder(tokens, layout), rtol=1e-4, atol=1e-6)
