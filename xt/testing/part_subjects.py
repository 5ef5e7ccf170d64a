"""Classes of region encoders and decoders under test: what they are given, and what must come back."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from xt.models.decoders.base import DecoderInputs, DenseDecoder, PooledDecoder
from xt.models.region.base import RegionEncoder
from xt.testing.report import ContractFault, DecoderFault
from xt.testing.subject import Subject, told

DECODED = DecoderInputs(in_chans=2, channels=(8, 16, 32), strides=(4, 8, 16), dim=32)
"""What decoders are given unless told otherwise."""


class PartSubject(Subject):
    """A class of modules that take tensors with the batch first and give such.

    Attributes:
        items: What is in a batch, for messages.
        takes: What must work, for messages.
        gives: What forward returns, for messages.
    """

    items: ClassVar[str]
    takes: ClassVar[str]
    gives: ClassVar[str]

    @abstractmethod
    def inputs(self, batch: int = 2, seed: int = 0) -> list[Tensor]:
        """Make ordinary inputs; with one seed the same at each call."""

    @abstractmethod
    def shapes(self, module: Any, inputs: Sequence[Tensor]) -> list[tuple[int, ...]]:
        """Return the shapes that must come back."""

    def call_on(self, module: Any, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Call the module as a model does."""
        return [module(*inputs)]

    def run(self, module: Any, inputs: Sequence[Tensor], on: str, advice: str | None = None) -> list[Tensor]:
        """Call the module and check the shapes of what it gives.

        Args:
            module: Built from the class.
            inputs: As of :meth:`inputs`.
            on: What they are, for messages.
            advice: What to do if it fails; :attr:`takes` by default.
        """
        with self.named(f"fails on {on}", advice or f"{self.takes} must work"):
            found = self.call_on(module, inputs)
        parts = found if isinstance(found, list | tuple) else [found]
        if parts is not found or not all(isinstance(each, Tensor) for each in parts):
            wrong = next((each for each in parts if not isinstance(each, Tensor)), found)
            raise self.fault(f"gives {told(wrong)} on {on}; forward returns {self.gives}")
        shapes = self.shapes(module, inputs)
        got = [tuple(each.shape) for each in found]
        if got != shapes:
            raise self.fault(
                f"gives {_listed(got)} where {_listed(shapes)} belongs, on {on}; forward returns {self.gives}"
            )
        for each in found:
            self.finite(each, on)
        return list(found)

    def answer(self, inputs: Sequence[Tensor], on: str, advice: str | None = None) -> list[Tensor]:
        """Return what a new module in evaluation mode gives, without gradients."""
        with torch.no_grad():
            return self.run(self.build(), inputs, on, advice)


@dataclass(frozen=True)
class RegionSubject(PartSubject):
    """A class of region encoders.

    Attributes:
        in_chans: Channels of a region.
    """

    in_chans: int = 2
    contracts: ClassVar[tuple[type, ...]] = (RegionEncoder,)
    kind: ClassVar[str] = "region_encoders"
    call: ClassVar[str] = "check_region_encoder(cls, in_chans=…, …)"
    items: ClassVar[str] = "regions"
    takes: ClassVar[str] = "any number of regions"
    gives: ClassVar[str] = "a list of maps (N, channels[i], R / strides[i], R / strides[i])"

    @property
    def given(self) -> Mapping[str, Any]:
        """What the model supplies."""
        return {"in_chans": self.in_chans}

    @cached_property
    def side(self) -> int:
        """Side of a region in pixels."""
        size: int = self.build().region_size
        return size

    def inputs(self, batch: int = 2, seed: int = 0) -> list[Tensor]:
        """Make regions ``(N, C, R, R)``."""
        size = batch, self.in_chans, self.side, self.side
        return [torch.randn(size, generator=torch.Generator().manual_seed(seed))]

    def call_on(self, module: Any, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Call it; it returns a list of its own."""
        found: Sequence[Tensor] = module(*inputs)
        return found

    def shapes(self, module: Any, inputs: Sequence[Tensor]) -> list[tuple[int, ...]]:
        """Those of its maps."""
        number, side = len(inputs[0]), module.region_size
        pairs = zip(module.channels, module.strides, strict=True)
        return [(number, channels, side // stride, side // stride) for channels, stride in pairs]


@dataclass(frozen=True)
class DecoderSubject(PartSubject):
    """A class of decoders.

    Attributes:
        sizes: What it decodes.
    """

    sizes: DecoderInputs = DECODED
    contracts: ClassVar[tuple[type, ...]] = (DenseDecoder, PooledDecoder)
    faults: ClassVar[type[ContractFault]] = DecoderFault
    kind: ClassVar[str] = "decoders"
    call: ClassVar[str] = "check_decoder(cls, inputs=DecoderInputs(…), …)"
    items: ClassVar[str] = "images"

    @property
    def given(self) -> Mapping[str, Any]:
        """What the model supplies."""
        return {"inputs": self.sizes}


class DenseSubject(DecoderSubject):
    """A class of dense decoders; inputs are the image and the pyramid."""

    takes: ClassVar[str] = "any height and width that the coarsest stride divides"
    gives: ClassVar[str] = "one map (B, out_channels, H / stride, W / stride)"

    @property
    def coarsest(self) -> int:
        """Pixels per cell of the coarsest map."""
        return self.sizes.strides[-1]

    def inputs(self, batch: int = 2, seed: int = 0, rows: int = 4, cols: int = 6) -> list[Tensor]:
        """Make an image and a pyramid of so many cells of the coarsest map."""
        generator = torch.Generator().manual_seed(seed)
        height, width = rows * self.coarsest, cols * self.coarsest
        pairs = zip((self.sizes.in_chans, *self.sizes.channels), (1, *self.sizes.strides), strict=True)
        return [torch.randn(batch, n, height // s, width // s, generator=generator) for n, s in pairs]

    def call_on(self, module: Any, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Prepare and decode."""
        return [module(inputs[0], self.prepared(module, inputs[1:]))]

    def prepared(self, module: Any, pyramid: Sequence[Tensor]) -> Sequence[Tensor]:
        """Prepare a pyramid, and check that its maps are as large as they were."""
        with self.named("fails in prepare()", f"{self.takes} must work"):
            found: Sequence[Tensor] = module.prepare(pyramid)
            sizes = [[tuple(each.shape[-2:]) for each in maps] for maps in (found, pyramid)]
        if sizes[0] != sizes[1]:
            raise self.fault(
                f"prepares maps of {_listed(sizes[0])} from {_listed(sizes[1])}; prepare() returns as many maps, each "
                "as high and wide as it came"
            )
        return found

    def shapes(self, module: Any, inputs: Sequence[Tensor]) -> list[tuple[int, ...]]:
        """That of the map."""
        batch, _, height, width = inputs[0].shape
        return [(batch, module.out_channels, height // module.stride, width // module.stride)]


class PooledSubject(DecoderSubject):
    """A class of pooled decoders; the input is tokens."""

    takes: ClassVar[str] = "any number of tokens, one included,"
    gives: ClassVar[str] = "one vector (B, out_channels)"

    def inputs(self, batch: int = 2, seed: int = 0, length: int = 12) -> list[Tensor]:
        """Make tokens ``(B, L, dim)``."""
        return [torch.randn(batch, length, self.sizes.dim, generator=torch.Generator().manual_seed(seed))]

    def shapes(self, module: Any, inputs: Sequence[Tensor]) -> list[tuple[int, ...]]:
        """That of the vector."""
        return [(len(inputs[0]), module.out_channels)]


def _listed(shapes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join(map(str, shapes)) or "nothing"
