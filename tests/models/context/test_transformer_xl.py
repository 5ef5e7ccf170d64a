from itertools import chain

import pytest
import torch
from literal import agree, exact, randomise, tokens_of_regions, transformer_xl
from torch import Tensor

from xt.errors import ModelError
from xt.geometry.grid import TokenLayout
from xt.models.context.base import Memory
from xt.models.context.transformer_xl import TransformerXL
from xt_kernels.hyper_attention import hyper_attention

EXISTS = (True, False, True, True, True, True, False, True, True, True, True, False)
LAYOUTS = [
    TokenLayout(1, 1, 2),
    TokenLayout(3, 3, 2),
    TokenLayout(2, 3, 2, num_extra=2),
    TokenLayout(3, 4, 2, EXISTS, num_extra=1),
]


def make(chunk_regions: int = 2, depth: int = 3, **options: int) -> TransformerXL:
    return randomise(TransformerXL(8, depth, chunk_regions, 4, 1.5, **options))


def tokens(layout: TokenLayout, batch: int = 1) -> Tensor:
    g = torch.Generator().manual_seed(layout.num_tokens)
    return torch.randn(batch, layout.num_tokens, 8, generator=g, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("chunk_regions", [1, 2, 4])
def test_forward_follows_the_equations(layout: TokenLayout, chunk_regions: int):
    encoder = make(chunk_regions).train()
    agree(
        encoder,
        lambda x: transformer_xl(encoder.layers, x[0], layout, chunk_regions, 4, exact)[None],
        lambda x: encoder(x, layout),
        tokens(layout),
    )


def test_attention_is_hashed_with_one_seed():
    encoder = make(block_size=5, sample_size=3, num_projections=2, min_seq_len=6, seed=7)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        one = [each[None] for each in (q, k, v)]
        options = {"block_size": 5, "sample_size": 3, "num_projections": 2, "min_seq_len": 6, "seed": 7}
        return hyper_attention(*one, **options, backend="reference")[0]

    layout = LAYOUTS[3]
    agree(
        encoder,
        lambda x: transformer_xl(encoder.layers, x[0], layout, 2, 4, attend)[None],
        lambda x: encoder(x, layout),
        tokens(layout),
    )


def steps(encoder: TransformerXL, x: Tensor, layout: TokenLayout, segments: list[TokenLayout]) -> tuple[Tensor, Memory]:
    """Mix an image segment by segment; each takes its regions' tokens in raster order of its own map."""
    regions = tokens_of_regions(layout)
    extra = list(range(layout.num_tokens - layout.num_extra, layout.num_tokens))
    memory, first, out = None, 0, torch.zeros_like(x)
    for segment in segments:
        here = regions[first : first + segment.num_existing]
        first += segment.num_existing
        # The place of a token on the map of the whole image tells its place in the segment: both are raster orders.
        indices = sorted(chain(*here)) + extra[: segment.num_extra]
        mixed, memory = encoder.step(x[:, indices], segment, memory)
        out = out.index_copy(1, torch.tensor(indices, dtype=torch.long), mixed)
    assert first == len(regions)
    return out, memory


def only(rows: int, cols: int, regions: set[int], num_extra: int = 0) -> TokenLayout:
    return TokenLayout(rows, cols, 2, tuple(i in regions for i in range(rows * cols)), num_extra)


@pytest.mark.parametrize(
    ("layout", "segments"),
    [
        (TokenLayout(3, 2, 2), [TokenLayout(1, 2, 2)] * 3),
        (TokenLayout(3, 4, 2, num_extra=1), [TokenLayout(2, 4, 2), TokenLayout(1, 4, 2, num_extra=1)]),
        (TokenLayout(2, 4, 2), [TokenLayout(1, 2, 2)] * 4),
        (TokenLayout(3, 3, 2), [TokenLayout(2, 3, 2), TokenLayout(1, 3, 2)]),
        # Runs that start or stop inside a row take whole rows, with regions that are not theirs left out.
        (TokenLayout(3, 3, 2), [only(2, 3, {0, 1, 2, 3}), only(2, 3, {1, 2, 3, 4}), TokenLayout(1, 1, 2)]),
        (only(2, 3, {0, 2, 3, 4, 5}, 1), [only(1, 3, {0, 2}), TokenLayout(1, 3, 2, num_extra=1)]),
        (only(3, 2, {0, 1, 4, 5}), [TokenLayout(1, 2, 2), only(1, 2, set()), TokenLayout(1, 2, 2)]),
        (only(3, 2, {2, 3, 4}), [only(1, 2, set()), TokenLayout(1, 2, 2), only(1, 2, {0})]),
    ],
)
def test_steps_over_segments_equal_forward(layout: TokenLayout, segments: list[TokenLayout]):
    encoder, x = make().train(), tokens(layout, batch=2)
    assert encoder.segment_regions == 2
    assert all(segment.num_existing % encoder.segment_regions == 0 for segment in segments[:-1])
    out, memory = steps(encoder, x, layout, segments)
    want = encoder(x, layout)
    torch.testing.assert_close(out, want, rtol=1e-9, atol=1e-9)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    inputs = [x, *encoder.parameters()]
    for a, b in zip(*(torch.autograd.grad((weight * each).sum(), inputs) for each in (out, want)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)
    assert len(memory) == 3
    assert not any(each.requires_grad for each in memory)


def test_a_cut_inside_a_chunk_works_and_is_another_answer():
    layout = TokenLayout(1, 4, 2)
    encoder, x = make(), tokens(layout)
    out, _ = steps(encoder, x, layout, [TokenLayout(1, 1, 2), TokenLayout(1, 3, 2)])
    assert out.isfinite().all()
    assert not torch.allclose(out, encoder(x, layout))


def test_memory_is_of_one_chunk_whatever_the_segment():
    encoder = make()
    for layout in (TokenLayout(1, 2, 2), TokenLayout(4, 4, 2)):
        _, memory = encoder.step(tokens(layout), layout, None)
        assert [tuple(each.shape) for each in memory] == [(1, 8, 8)] * 3


def test_chunks_need_a_region():
    with pytest.raises(ModelError, match="chunk_regions is 0; it must be at least 1"):
        TransformerXL(8, chunk_regions=0, head_dim=4)


def test_backward_makes_no_gradient_of_the_whole_image_for_each_chunk():
    layout = TokenLayout(9, 1, 2)
    encoder, x = make(1, 1), tokens(layout)
    seen, edges = set(), [encoder(x, layout).grad_fn]
    while edges:
        node = edges.pop()
        seen.add(node)
        edges += [each for each, _ in node.next_functions if each is not None and each not in seen]
    # A slice's gradient is as long as what it is cut from; weights are not.
    cuts = [node._saved_self_sym_sizes for node in seen if node.name() == "SliceBackward0"]
    assert all(layout.num_tokens not in sizes for sizes in cuts), cuts
