"""SwinV2 starts with the norms after its residual branches at 0, where attention does nothing and gets no gradient."""

import re

import timm
import torch
from torch import Tensor

from xt.models.region.timm_features import TimmFeatures

SIZES = {"embed_dim": 16, "depths": (2, 1, 2, 1), "num_heads": (1, 2, 2, 4), "window_size": 8}


def make(norms: bool) -> TimmFeatures:
    torch.manual_seed(0)
    encoder = TimmFeatures(2, "swinv2_t", 128, model_args=SIZES).eval()
    if norms:
        with torch.no_grad():
            for name, p in encoder.named_parameters():
                if p.ndim == 1:
                    p.copy_(0.5 * torch.randn(p.shape) + (0.0 if name.endswith("bias") else 1.0))
    return encoder


def gradients(encoder: TimmFeatures, regions: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(1)
    sum((each * torch.randn(each.shape)).sum() for each in encoder(regions)).backward()
    return {name: p.grad for name, p in encoder.named_parameters()}


def test_every_parameter_learns_once_norms_are_not_zero():
    regions = torch.randn(2, 2, 128, 128)
    start = gradients(make(norms=False), regions)
    assert not any(start[name].any() for name in start if ".attn." in name)
    later = gradients(make(norms=True), regions)
    assert [name for name, grad in later.items() if grad is None or not grad.any()] == []
    assert all(grad.isfinite().all() for grad in later.values())


def test_maps_are_those_of_the_whole_classifier_with_the_same_weights():
    encoder = make(norms=True)
    whole = timm.create_model(
        "swinv2_tiny_window16_256", in_chans=2, img_size=128, num_classes=0, global_pool="", **SIZES
    ).eval()
    state = {re.sub(r"layers_(\d)", r"layers.\1", name): p for name, p in encoder.model.state_dict().items()}
    state["norm.weight"], state["norm.bias"] = whole.norm.weight, whole.norm.bias
    whole.load_state_dict(state)
    regions = torch.randn(2, 2, 128, 128)
    with torch.no_grad():
        maps, want = encoder(regions), whole.forward_intermediates(regions, intermediates_only=True)
    assert encoder.strides == (4, 8, 16, 32)
    assert encoder.channels == (16, 32, 64, 128)
    for a, b in zip(maps, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_regions_of_a_batch_are_independent_and_attention_reaches_past_a_window():
    encoder = make(norms=True)
    regions = torch.randn(3, 2, 128, 128)
    with torch.no_grad():
        before = encoder(regions)
        torch.testing.assert_close([each[1:2] for each in before], encoder(regions[1:2]), rtol=1e-4, atol=1e-4)
        regions[0, :, :4, :4] += 1
        after = encoder(regions)
    changed = (after[0] - before[0]).abs().amax(1) > 1e-6
    assert not changed[1:].any()
    # The second block's windows of 8 × 8 tokens are shifted by 4, so the first token is seen up to 11.
    assert changed[0, :8, :8].all()
    assert changed[0, 11, 11]
    assert not changed[0, 13:, 13:].any()
