"""xT: a region encoder, a context encoder over the tokens of all regions, a decoder and heads (arXiv 2403.01915).

Different from the release: any height and width, regions streamed with exact gradients, regions without a valid
pixel left out, and dense maps decoded tile by tile.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xt.errors import ModelError
from xt.geometry.grid import RegionGrid, TokenLayout, Window
from xt.models import streaming
from xt.models.context.base import ContextEncoder
from xt.models.context_block import ContextBlock
from xt.models.decoders.base import Decoder, DenseDecoder, PooledDecoder
from xt.models.region.base import RegionEncoder
from xt.models.tokenization import crop_padded, cut, existing, stitch, to_map

Maps = dict[str, Tensor]


class XT(nn.Module):
    """The whole model.

    Args:
        region_encoder: Encodes regions.
        context: Mixes tokens; its ``dim`` may be any multiple of 4.
        decoder: Dense or pooled; its input sizes must be those of the region encoder or the context.
        heads: Name → channels.
        region_batch: Regions encoded at a time.
        decode_size: Side of the tiles that are decoded at a time, in pixels; rounded up to the coarsest stride.
        streaming: Encode in chunks with recomputation; False lets autograd keep every activation.

    Raises:
        ModelError: If parts do not fit together.
    """

    def __init__(
        self,
        region_encoder: RegionEncoder,
        context: ContextEncoder,
        decoder: Decoder,
        heads: dict[str, int],
        region_batch: int = 4,
        decode_size: int = 512,
        streaming: bool = True,
    ) -> None:
        super().__init__()
        if region_batch < 1 or decode_size < 1:
            raise ModelError(f"region_batch {region_batch} and decode_size {decode_size} must be at least 1")
        if not isinstance(decoder, DenseDecoder | PooledDecoder):
            raise ModelError(f"{type(decoder).__name__} is neither a DenseDecoder nor a PooledDecoder")
        dense = isinstance(decoder, DenseDecoder)
        coarsest = region_encoder.strides[-1]
        self.region_encoder = region_encoder
        uses_class_token = isinstance(decoder, PooledDecoder) and decoder.uses_class_token
        self.context = ContextBlock(region_encoder.channels[-1], context, uses_class_token, project_back=dense)
        self.decoder = decoder
        width = decoder.out_channels
        self.heads = nn.ModuleDict(
            {name: nn.Conv2d(width, n, 1) if dense else nn.Linear(width, n) for name, n in heads.items()}
        )
        self.region_batch = region_batch
        self.decode_size = -(-decode_size // coarsest) * coarsest
        self.streaming = streaming

    @property
    def in_chans(self) -> int:
        """Channels of the image."""
        return self.region_encoder.in_chans

    @property
    def region_size(self) -> int:
        """Side of a region in pixels."""
        return self.region_encoder.region_size

    @property
    def dense(self) -> bool:
        """Whether the model gives maps rather than one vector per image."""
        return isinstance(self.decoder, DenseDecoder)

    def forward(self, image: Tensor, valid: Tensor | None = None) -> Maps:
        """Run the model.

        Args:
            image: ``(B, C, H, W)`` normalised, invalid pixels 0; any H and W.
            valid: ``(B, 1, H, W)`` bool. Regions without a valid pixel are neither encoded nor in the sequence.

        Returns:
            Head name → raw maps ``(B, n, H, W)`` float32 for a dense decoder, ``(B, n)`` for a pooled one.

        Raises:
            ModelError: If the image has another number of channels than the model, or sharded parameters are trained.
        """
        grid, flags = self._grid(image, valid)
        pyramid = self._encode(image, grid, flags)
        if isinstance(self.decoder, PooledDecoder):
            tokens = self._per_layout(pyramid[-1], grid, flags, self._pool)
            return {name: head(tokens) for name, head in self.heads.items()}
        assert isinstance(self.decoder, DenseDecoder)
        pyramid = list(self.decoder.prepare(self._mix(pyramid, grid, flags)))
        if torch.is_grad_enabled():
            whole = Window(0, 0, image.shape[-2], image.shape[-1])
            outer = Window(0, 0, grid.padded_height, grid.padded_width)
            return self._decode(whole, outer, [crop_padded(image, outer), *pyramid])
        maps = {name: image.new_empty(len(image), n, *image.shape[-2:]) for name, n in self._head_sizes().items()}
        strides = (1, *self.region_encoder.strides)
        for inner, outer in self._tiles(grid):
            parts = self._decode(inner, outer, streaming.cut_all([image, *pyramid], strides, outer))
            for name, part in parts.items():
                maps[name][(..., *inner.slices)] = part
        return maps

    def statistics(
        self,
        image: Tensor,
        targets: Maps,
        fn: Callable[[Maps, Maps], Tensor],
        valid: Tensor | None = None,
    ) -> Tensor:
        """Sum ``fn`` over tiles of the decoded maps without holding more than one tile's.

        Args:
            image: ``(B, C, H, W)``.
            targets: Name → ``(B, …, H, W)``, cut to each tile.
            fn: Given the maps and targets of a tile, returns sums ``(K,)``.
            valid: As in :meth:`forward`.

        Returns:
            ``(K,)`` float32, with the exact gradient to every parameter.
        """
        return self.reduce(image, self.features(image, valid), targets, fn)

    def features(self, image: Tensor, valid: Tensor | None = None) -> list[Tensor]:
        """Encode all regions and mix their tokens.

        Args:
            image: ``(B, C, H, W)``.
            valid: As in :meth:`forward`.

        Returns:
            Maps ``(B, channels[i], padded H / strides[i], padded W / strides[i])``, finest first; the last is mixed.
        """
        grid, flags = self._grid(image, valid)
        return self._mix(self._encode(image, grid, flags), grid, flags)

    def mix(self, last: Tensor, grid: RegionGrid, exists: Sequence[tuple[bool, ...]] | None = None) -> Tensor:
        """Add to the last-stage map what the context encoder says.

        Args:
            last: ``(B, channels, padded H / stride, padded W / stride)``.
            grid: Regions of the image.
            exists: One flag per region for each image; None if all do.
        """

        def mixed(features: Tensor, layout: TokenLayout) -> Tensor:
            if not layout.num_existing:
                return torch.zeros_like(features)
            return to_map(self.context(features, layout), layout)

        flags = None if exists is None or all(all(each) for each in exists) else list(exists)
        return last + self._per_layout(last, grid, flags, mixed).to(last.dtype)

    def reduce(
        self, image: Tensor, pyramid: Sequence[Tensor], targets: Maps, fn: Callable[[Maps, Maps], Tensor]
    ) -> Tensor:
        """Do what :meth:`statistics` does, from the maps that :meth:`features` gave."""
        decoder = self.decoder
        if not isinstance(decoder, DenseDecoder):
            raise ModelError("statistics over tiles needs a dense decoder; a pooled one gives one vector per image")
        grid = RegionGrid(image.shape[-2], image.shape[-1], self.region_size)
        tensors = [image, *decoder.prepare(pyramid)]

        def tile(inner: Window, parts: Sequence[Tensor]) -> Tensor:
            maps = self._decode(inner, self._outer(inner, grid), parts)
            return fn(maps, {name: target[(..., *inner.slices)] for name, target in targets.items()})

        strides = (1, *self.region_encoder.strides)
        return streaming.reduce_tiles(tile, self._tiles(grid), tensors, strides, [self.decoder, self.heads])

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay must leave alone; biases and norms, of one axis, are not among them."""
        named: dict[str, RegionEncoder | ContextEncoder] = {
            "region_encoder": self.region_encoder,
            "context.encoder": self.context.encoder,
        }
        found = {f"{path}.{name}" for path, part in named.items() for name in part.no_weight_decay()}
        return found | ({"context.class_token"} if self.context.class_token is not None else set())

    def spec(self) -> dict[str, Any]:
        """Names and numbers from which :func:`xt.models.factory.build_from_spec` builds the same model."""
        context, decoder = self.context.encoder.spec(), self.decoder.spec()
        context["init_args"].pop("dim")
        decoder["init_args"].pop("inputs")
        return {
            "region_encoder": self.region_encoder.spec(),
            "context": context,
            "context_dim": self.context.encoder.dim,
            "decoder": decoder,
            "heads": self._head_sizes(),
            "region_batch": self.region_batch,
            "decode_size": self.decode_size,
            "streaming": self.streaming,
        }

    def _head_sizes(self) -> dict[str, int]:
        return {name: head.get_parameter("weight").shape[0] for name, head in self.heads.items()}

    def _grid(self, image: Tensor, valid: Tensor | None) -> tuple[RegionGrid, list[tuple[bool, ...]] | None]:
        if image.ndim != 4 or image.shape[1] != self.in_chans:
            raise ModelError(f"the model takes images (B, {self.in_chans}, H, W), got {tuple(image.shape)}")
        if torch.is_grad_enabled():
            streaming.refuse_sharded(self)
        grid = RegionGrid(image.shape[-2], image.shape[-1], self.region_size)
        if valid is None:
            return grid, None
        flags = existing(valid, grid)
        return grid, None if all(all(each) for each in flags) else flags

    def _encode(self, image: Tensor, grid: RegionGrid, flags: list[tuple[bool, ...]] | None) -> list[Tensor]:
        if self.streaming:
            return streaming.encode(self.region_encoder, image, grid, flags, self.region_batch)
        maps = self.region_encoder(cut(image, grid))
        if flags is not None:
            keep = torch.tensor([flag for each in flags for flag in each], device=image.device)
            maps = [each * keep[:, None, None, None].to(each) for each in maps]
        return [stitch(each, grid) for each in maps]

    def _mix(self, pyramid: list[Tensor], grid: RegionGrid, flags: list[tuple[bool, ...]] | None) -> list[Tensor]:
        return [*pyramid[:-1], self.mix(pyramid[-1], grid, flags)]

    def _pool(self, features: Tensor, layout: TokenLayout) -> Tensor:
        if not layout.num_existing:
            raise ModelError("an image without a valid pixel has no class; leave it out")
        pooled: Tensor = self.decoder(self.context(features, layout))
        return pooled

    def _per_layout(
        self,
        features: Tensor,
        grid: RegionGrid,
        flags: list[tuple[bool, ...]] | None,
        fn: Callable[[Tensor, TokenLayout], Tensor],
    ) -> Tensor:
        stride = self.region_encoder.strides[-1]
        if flags is None:
            return fn(features, grid.layout(stride))
        # Sequences of different length cannot share a batch.
        return torch.cat([fn(features[i : i + 1], grid.layout(stride, each)) for i, each in enumerate(flags)])

    def _tiles(self, grid: RegionGrid) -> list[tuple[Window, Window]]:
        tiles = RegionGrid(grid.height, grid.width, self.decode_size)
        inner = [tiles.clipped(index) for index in range(tiles.num_regions)]
        return [(window, self._outer(window, grid)) for window in inner]

    def _outer(self, inner: Window, grid: RegionGrid) -> Window:
        assert isinstance(self.decoder, DenseDecoder)
        coarsest = self.region_encoder.strides[-1]
        height, width = (-(-size // coarsest) * coarsest for size in (inner.height, inner.width))
        aligned = Window(inner.row, inner.col, height, width)
        return aligned.grow(self.decoder.halo).clip(grid.padded_height, grid.padded_width)

    def _decode(self, inner: Window, outer: Window, tensors: Sequence[Tensor]) -> Maps:
        features = self.decoder(tensors[0], tensors[1:])
        top, left = inner.row - outer.row, inner.col - outer.col
        maps = {}
        for name, head in self.heads.items():
            full = F.interpolate(
                head(features).float(), size=(outer.height, outer.width), mode="bilinear", align_corners=False
            )
            maps[name] = full[..., top : top + inner.height, left : left + inner.width]
        return maps
