"""A mixture of experts: a router gives each token to a few gated MLPs (Jamba, arXiv 2403.19887)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xt.errors import ModelError
from xt.models.context.blocks import GatedMLP


class MixtureOfExperts(nn.Module):
    """``Σ p_e · expert_e(x)`` over the ``top_k`` most probable experts of a token.

    The softmax is over all experts, and is not normalised again over those taken.

    Args:
        dim: Channels of a token.
        ratio: Inner width of an expert over ``dim``.
        num_experts: Experts.
        top_k: Experts of a token.

    Raises:
        ModelError: If a token is to take more experts than there are, or none.
    """

    def __init__(self, dim: int, ratio: float, num_experts: int, top_k: int) -> None:
        super().__init__()
        if not 1 <= top_k <= num_experts:
            raise ModelError(f"top_k {top_k} must be 1 to num_experts, {num_experts}")
        self.top_k = top_k
        self.router = nn.Linear(dim, num_experts, bias=False)
        self.experts = nn.ModuleList(GatedMLP(dim, ratio, F.silu) for _ in range(num_experts))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``(B, L, D)``.

        Returns:
            ``(B, L, D)`` and how unevenly experts are used: experts × Σ (share of tokens that take it · its mean
            probability), ``top_k`` when all are used alike.
        """
        tokens = x.flatten(0, 1)
        wide = torch.promote_types(x.dtype, torch.float32)
        chances = self.router(tokens).to(wide).softmax(-1)
        weights, taken = chances.topk(self.top_k, dim=-1)
        out = torch.zeros_like(tokens)
        for index, expert in enumerate(self.experts):
            # An expert that no token takes is run on none, so that its gradient is 0 rather than missing.
            rows, slots = (taken == index).nonzero(as_tuple=True)
            said = expert(tokens[rows]) * weights[rows, slots, None].to(x.dtype)
            out = out.index_add(0, rows, said.to(out.dtype))
        share = F.one_hot(taken, len(self.experts)).sum(1).to(wide).mean(0)
        return out.view_as(x), len(self.experts) * (share * chances.mean(0)).sum()
