import pytest
import torch
from literal import agree, gelu, layer_norm, mamba_mixer, randomise
from parts import MeanContext
from torch import Tensor, nn

from xt import plugins
from xt.errors import ModelError
from xt.models.decoders.base import Decoder, DecoderInputs
from xt.models.factory import build_from_spec
from xt.models.region.samba import Samba
from xt.models.xt import XT

SMALL = {"dims": (4, 6, 8), "depths": (2, 1, 1), "mlp_ratio": 2, "d_state": 3}


def make(region_size: int = 32, in_chans: int = 2, **options: object) -> Samba:
    torch.manual_seed(0)
    return Samba(in_chans, region_size, **SMALL | options)


def convolve(conv: nn.Conv2d, x: Tensor, stride: int) -> Tensor:
    """Taps over zeros outside, cell by cell; depthwise if each channel has its own taps."""
    height, width = x.shape[1:]
    rows = []
    for r in range(0, height, stride):
        for c in range(0, width, stride):
            total = conv.bias
            for i in range(3):
                for j in range(3):
                    at = r + i - 1, c + j - 1
                    if 0 <= at[0] < height and 0 <= at[1] < width:
                        taps = conv.weight[:, :, i, j]
                        total = total + (taps[:, 0] * x[:, *at] if conv.groups > 1 else taps @ x[:, *at])
            rows.append(total)
    return torch.stack(rows, 1).reshape(-1, height // stride, width // stride)


def norm_of_cells(norm: nn.Module, x: Tensor) -> Tensor:
    centred = x - x.mean(0)
    normed = centred / torch.sqrt(centred.square().mean(0) + norm.eps)
    return normed * norm.weight[:, None, None] + norm.bias[:, None, None]


def block(each: nn.Module, tokens: Tensor, side: int) -> Tensor:
    tokens = tokens + mamba_mixer(each.mixer, layer_norm(each.norm, tokens))
    inner = layer_norm(each.mlp_norm, tokens) @ each.up_proj.weight.T + each.up_proj.bias
    grid = convolve(each.conv2d, inner.T.reshape(-1, side, side), 1)
    return tokens + gelu(grid.flatten(1).T) @ each.down_proj.weight.T + each.down_proj.bias


def literal(encoder: Samba, region: Tensor) -> list[Tensor]:
    found, x = [], region
    for index, stage in enumerate(encoder.stages):
        x = norm_of_cells(stage.down[1], convolve(stage.down[0], x, 2))
        if index == 0:
            x = norm_of_cells(stage.down[4], convolve(stage.down[3], gelu(x), 2))
        side = x.shape[-1]
        tokens = x.flatten(1).T
        for each in stage.blocks:
            tokens = block(each, tokens, side)
        x = layer_norm(stage.norm, tokens).T.reshape(-1, side, side)
        found.append(x)
    return found


def test_maps_and_gradients_follow_the_equations():
    encoder = randomise(make())
    regions = torch.randn(1, 2, 32, 32, dtype=torch.float64).requires_grad_()
    agree(
        encoder,
        lambda x: torch.cat([each.flatten() for each in literal(encoder, x[0])]),
        lambda x: torch.cat([each.flatten() for each in encoder(x)]),
        regions,
    )


def test_regions_of_a_batch_are_independent():
    encoder = make().train()
    regions = torch.randn(3, 2, 32, 32)
    for several, alone in zip(encoder(regions), encoder(regions[1:2]), strict=True):
        torch.testing.assert_close(several[1:2], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("size", "in_chans"), [(256, 3), (96, 13)])
def test_the_pyramid_of_the_paper(size: int, in_chans: int):
    with torch.device("meta"):
        encoder = Samba(in_chans, size)
        maps = encoder(torch.empty(2, in_chans, size, size))
    assert encoder.strides == (4, 8, 16, 32)
    assert encoder.channels == (64, 128, 320, 448)
    assert [len(stage.blocks) for stage in encoder.stages] == [3, 4, 6, 3]
    for each, channels, stride in zip(maps, encoder.channels, encoder.strides, strict=True):
        assert each.shape == (2, channels, size // stride, size // stride)


@pytest.mark.parametrize("decoder", ["UPerNet", "UNet"])
def test_a_model_trains_with_either_decoder(decoder: str):
    encoder = make()
    options = {"channels": 8} if decoder == "UPerNet" else {"filters": (8, 8, 8, 8)}
    inputs = DecoderInputs(2, encoder.channels, encoder.strides, 16)
    built: Decoder = plugins.build("decoders", {"class_path": decoder, "init_args": options}, inputs=inputs)
    model = XT(encoder, MeanContext(16), built, {"a": 1}, 2, 32)
    x = torch.randn(1, 2, 40, 70, generator=torch.Generator().manual_seed(1))
    target = (x[:, :1] > 0).float()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    losses = []
    for _ in range(8):
        loss = nn.functional.binary_cross_entropy_with_logits(model(x)["a"], target)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.01


def test_a_saved_model_names_it():
    encoder = make()
    inputs = DecoderInputs(2, encoder.channels, encoder.strides, 16)
    decoder = plugins.build("decoders", {"class_path": "UPerNet", "init_args": {"channels": 8}}, inputs=inputs)
    context = plugins.build("context_encoders", {"class_path": "Identity"}, dim=16)
    model = XT(encoder, context, decoder, {"a": 1}).eval()
    again = build_from_spec(model.spec()).eval()
    again.load_state_dict(model.state_dict())
    x = torch.randn(1, 2, 40, 30)
    assert torch.equal(again(x)["a"], model(x)["a"])


def test_weight_decay_leaves_the_recurrences_alone():
    encoder = make()
    named = encoder.no_weight_decay()
    assert named == {name for name, _ in encoder.named_parameters() if name.endswith((".A_log", ".D"))}
    assert len(named) == 2 * 4


def test_bf16_and_no_data():
    encoder = make().bfloat16()
    assert all(
        each.dtype == torch.bfloat16 and each.isfinite().all() for each in encoder(torch.zeros(1, 2, 32, 32).bfloat16())
    )

    def gradient(image: Tensor) -> float:
        encoder = make()
        torch.manual_seed(1)
        loss = sum((each * torch.randn(each.shape)).mean() for each in encoder(image))
        return float(torch.stack([g.norm() for g in torch.autograd.grad(loss, list(encoder.parameters()))]).norm())

    assert gradient(torch.zeros(1, 2, 32, 32)) < 20 * gradient(torch.randn(1, 2, 32, 32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"region_size": 40}, "region_size 40 does not divide by 16, .* take 32"),
        ({"region_size": 0}, "take 16"),
        ({"depths": (1,)}, r"dims \[4, 6, 8\] need as many depths, got \[1\]"),
        ({"dims": (3, 4, 5)}, "even number first"),
    ],
)
def test_what_cannot_work_is_refused_with_the_numbers(options: dict, message: str):
    with pytest.raises(ModelError, match=message):
        make(**options)
