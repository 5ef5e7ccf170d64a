"""Parts that keep no promise are named in one line where they are built and used."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from xt.errors import ModelError
from xt.geometry.grid import TokenLayout
from xt.losses.base import check_losses
from xt.models.context.base import Memory, RecurrentContextEncoder
from xt.models.decoders.base import Decoder, DecoderInputs, DenseDecoder
from xt.models.factory import ModelConfig
from xt.models.region.base import RegionEncoder
from xt.models.xt import XT

NONE: Mapping[str, Any] = {}


class Cells(RegionEncoder):
    """Maps of 3 and 5 channels at strides 4 and 8; ``faults`` change what it says of them, ``give`` what it gives."""

    give = staticmethod(lambda maps: maps)

    def __init__(self, in_chans: int, faults: Mapping[str, Any] = NONE) -> None:
        super().__init__()
        self.in_chans, self.region_size, self.channels, self.strides = in_chans, 32, (3, 5), (4, 8)
        self.fine, self.coarse = nn.Conv2d(in_chans, 3, 4, 4), nn.Conv2d(in_chans, 5, 8, 8)
        _spoil(self, faults)

    def forward(self, regions: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.give([self.fine(regions), self.coarse(regions)])
        return maps


class Same(RecurrentContextEncoder):
    """Gives tokens back."""

    give = staticmethod(lambda tokens: tokens)

    def __init__(self, dim: int, faults: Mapping[str, Any] = NONE) -> None:
        super().__init__()
        self.dim = dim
        _spoil(self, faults)

    def forward(self, tokens: Tensor, layout: TokenLayout) -> Tensor:
        mixed: Tensor = self.give(tokens)
        return mixed

    def step(self, tokens: Tensor, layout: TokenLayout, memory: Memory | None) -> tuple[Tensor, Memory]:
        return self.give(tokens), []


class Finest(DenseDecoder):
    """The finest map."""

    give = staticmethod(lambda features: features)

    def __init__(self, inputs: DecoderInputs, faults: Mapping[str, Any] = NONE) -> None:
        super().__init__()
        self.out_channels, self.stride, self.halo = inputs.channels[0], inputs.strides[0], inputs.strides[-1]
        _spoil(self, faults)

    def forward(self, image: Tensor, pyramid: Sequence[Tensor]) -> Tensor:
        features: Tensor = self.give(pyramid[0])
        return features


class Neither(Decoder):
    """No kind of decoder."""

    def __init__(self, inputs: DecoderInputs, faults: Mapping[str, Any] = NONE) -> None:
        super().__init__()
        self.out_channels = 3


class ByParts(Finest):
    """Gives the part that is asked for."""

    takes_window = True

    def forward(self, image: Tensor, pyramid: Sequence[Tensor], window: Any = None) -> Tensor:  # type: ignore[override]
        features: Tensor = self.give(pyramid[0][(..., *window.slices)])
        return features


def _spoil(part: nn.Module, faults: Mapping[str, Any]) -> None:
    for name, value in faults.items():
        if value is None:
            delattr(part, name)
        else:
            setattr(part, name, value)


def build(encoder: Any = Cells, context: Any = Same, decoder: Any = Finest, **more: Any) -> XT:
    return ModelConfig(encoder, context, decoder, context_dim=8, **more).build(2, {"a": 1})


@pytest.mark.parametrize(
    ("kind", "part", "faults", "told"),
    [
        *(("encoder", Cells, {name: None}, f"Cells has no {name}, which") for name in ("in_chans", "channels", "strides")),
        ("encoder", Cells, {"region_size": 32.0}, "Cells: region_size is 32.0; it must be a whole number"),
        ("encoder", Cells, {"strides": (4,)}, r"Cells: channels \[3, 5\] and strides \[4\] must be a number for each"),
        ("encoder", Cells, {"channels": (), "strides": ()}, r"Cells: channels \[\] and strides \[\]"),
        ("encoder", Cells, {"channels": (3, 5.0)}, r"Cells: channels \[3, 5\.0\]"),
        ("context", Same, {"dim": None}, "Same has no dim"),
        *(("decoder", Finest, {name: None}, f"Finest has no {name}, which") for name in ("out_channels", "stride", "halo")),
        ("decoder", Finest, {"halo": 4.0}, "Finest: halo is 4.0; it must be a whole number"),
        ("decoder", Neither, {}, "Neither is neither a DenseDecoder nor a PooledDecoder"),
    ],
)  # fmt: skip
def test_what_a_constructor_has_not_set_is_named(kind: str, part: Any, faults: dict[str, Any], told: str):
    with pytest.raises(ModelError, match=f"^{told}"):
        build(**{kind: lambda given: part(given, faults)})


def test_whole_numbers_of_numpy_are_such():
    model = build(decoder=lambda given: Finest(given, {"halo": np.int64(8)}))
    assert model(torch.randn(1, 2, 40, 40))["a"].shape == (1, 1, 40, 40)


MAPS = r" by its channels \(3, 5\) and strides \(4, 8\)$"


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize(
    ("kind", "part", "faults", "told"),
    [
        ("encoder", Cells, {"give": lambda maps: maps[0]}, "Cells gives a Tensor, and must give a list of 2 maps" + MAPS),
        ("encoder", Cells, {"give": lambda maps: None}, "Cells gives a NoneType, and"),
        ("encoder", Cells, {"give": lambda maps: maps[:1]}, "Cells gives 1 maps, and"),
        ("encoder", Cells, {"give": lambda maps: [maps[0], maps[1].double()]},
         r"Cells: a map is float64 \(6, 5, 4, 4\), and must be float32 \(6, 5, 4, 4\)" + MAPS),
        ("encoder", Cells, {"give": lambda maps: [maps[0], maps[1].long()]}, r"Cells: a map is int64"),
        ("encoder", Cells, {"give": lambda maps: [maps[0][:1], maps[1]]}, r"Cells: a map is float32 \(1, 3, 8, 8\)"),
        ("encoder", Cells, {"channels": (5, 3)}, r"Cells: a map is float32 \(6, 3, 8, 8\), and must be .* \(6, 5, 8, 8\)"),
        ("encoder", Cells, {"strides": (4, 16)}, r"Cells: a map is float32 \(6, 5, 4, 4\), and must be .* \(6, 5, 2, 2\)"),
        ("context", Same, {"give": lambda tokens: tokens[:, 1:]},
         r"Same: what it gives is float32 \(1, 95, 8\), and must be float32 \(1, 96, 8\) as the tokens that it gets$"),
        ("context", Same, {"give": lambda tokens: tokens.double()}, "Same: what it gives is float64"),
        ("context", Same, {"give": lambda tokens: [tokens]}, "Same: what it gives is a list"),
        ("decoder", Finest, {"stride": 8},
         r"Finest: its map is float32 \(1, 3, 16, 24\), and must be float32 \(1, 3, 8, 12\) by its out_channels and stride 8$"),
        ("decoder", Finest, {"out_channels": 4}, r"Finest: its map is float32 \(1, 3, 16, 24\), and must be .* \(1, 4, 16, 24\)"),
        ("decoder", ByParts, {"give": lambda features: features[..., 1:]}, r"ByParts: its map is float32 \(1, 3, 16, 23\)"),
    ],
)  # fmt: skip
def test_what_a_part_gives_is_compared_with_what_it_says(
    kind: str, part: Any, faults: dict[str, Any], told: str, streaming: bool
):
    model = build(**{kind: lambda given: part(given, faults)}, streaming=streaming)
    with pytest.raises(ModelError, match=f"^{told}"):
        model(torch.randn(1, 2, 64, 96))


def test_segments_are_looked_at_too():
    model = build(context=lambda dim: Same(dim, {"give": lambda tokens: tokens[..., :4]}))
    with pytest.raises(ModelError, match=r"^Same: what it gives is float32 \(1, 16, 4\), and must be"):
        model.mix_segment(torch.randn(1, 5, 4, 4), TokenLayout(1, 1, 4))


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_keeps_its_promise_passes_in_any_precision(dtype: torch.dtype, streaming: bool):
    model, image = build(decoder=ByParts, streaming=streaming).to(dtype), torch.randn(1, 2, 70, 90, dtype=dtype)
    assert model(image)["a"].shape == (1, 1, 70, 90)
    if dtype == torch.float32:
        with torch.autocast("cpu", torch.bfloat16):
            assert model(image)["a"].shape == (1, 1, 70, 90)


@pytest.mark.parametrize(
    ("sums", "told"), [(lambda maps: {"a": maps["a"].sum()}, "a dict"), (lambda maps: maps["a"].sum(), r"float32 \(\)")]
)
def test_statistics_of_a_loss_are_a_row_of_sums(sums: Any, told: str):
    image = torch.randn(1, 2, 32, 32)
    with pytest.raises(ModelError, match=f"the statistics of a loss are {told}; they must be a tensor"):
        build().statistics(image, {}, lambda maps, _: sums(maps))


@pytest.mark.parametrize(
    ("losses", "told"),
    [
        (torch.zeros(()), "are a Tensor"),
        ({"bce": torch.zeros(())}, r"have no 'loss' \(bce\)"),
        ({"loss": torch.zeros(2)}, "have a 'loss' that is no scalar tensor"),
        ({"loss": torch.zeros(()), "dice": 0.5}, "have a 'dice' that is no scalar tensor"),
    ],
)
def test_losses_are_numbers_by_name(losses: Any, told: str):
    with pytest.raises(
        ModelError, match=f"^Same: its losses {told}; give a dict of scalar tensors, 'loss' and its parts"
    ):
        check_losses(Same(8), losses)
    right = {"loss": torch.zeros(()), "dice": torch.zeros(())}
    assert check_losses(Same(8), right) is right
