"""timm's models, faster: the same parameters, and but for rounding the same results."""

from timm.layers import Mlp
from timm.models.swin_transformer_v2 import SwinTransformerV2Block, WindowAttention
from torch import nn

from xt.models.linear import FusedMlp, Linear
from xt.models.region.swin_v2 import Attention, Block

FASTER: dict[type[nn.Module], type[nn.Module]] = {
    WindowAttention: Attention,
    SwinTransformerV2Block: Block,
    Mlp: FusedMlp,
    nn.Linear: Linear,
}


def accelerate(model: nn.Module) -> None:
    """Give the layers of a timm model faster methods; classes that are derived from them keep their own."""
    for module in model.modules():
        module.__class__ = FASTER.get(type(module), type(module))
        if isinstance(module, Attention):
            # Before 1.0.31 timm divides 0 by 0 where a window is one token high or wide.
            module.relative_coords_table.nan_to_num_()
