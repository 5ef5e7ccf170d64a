"""The released code's own answer on a small checkpoint: an independent reference for the whole classifier."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from xt.models.context.hyper import Hyper
from xt.models.decoders.base import DecoderInputs
from xt.models.decoders.pooled import ClassToken
from xt.models.region.timm_features import TimmFeatures
from xt.models.xt import XT

RENAMES = {
    "encoder.": "region_encoder.",
    "decoder.input_proj.": "context.input_proj.",
    "decoder.cls_token": "context.class_token",
    "decoder.layers.": "context.encoder.layers.",
    "decoder.cls.0.": "decoder.norm.",
    "decoder.cls.1.": "heads.label.",
}


def renamed(key: str) -> str:
    for old, new in RENAMES.items():
        if key.startswith(old):
            return new + key.removeprefix(old)
    raise AssertionError(key)


@pytest.mark.parametrize("streaming", [True, False])
def test_logits_equal_those_of_the_release(shared_data: Path, streaming: bool):
    path = shared_data / "golden/upstream_xt/xt_hyper_512_256.safetensors"
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        assert file.metadata()["context"] == "hyper"
    sizes = {"embed_dim": 32, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 4, 8), "window_size": 16}
    encoder = TimmFeatures(3, "swinv2_t", 256, model_args=sizes)
    model = XT(
        encoder,
        Hyper(256, depth=2, causal=True),
        ClassToken(DecoderInputs(3, encoder.channels, encoder.strides, 256)),
        {"label": 11},
        streaming=streaming,
    ).eval()
    state = {renamed(k.removeprefix("state_dict.")): v for k, v in tensors.items() if k.startswith("state_dict.")}
    model.load_state_dict(state)
    with torch.no_grad():
        logits = model(tensors["input"])["label"]
    torch.testing.assert_close(logits, tensors["logits"], atol=2e-5, rtol=2e-5)
