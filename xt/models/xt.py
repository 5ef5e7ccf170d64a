"""xT: a region encoder, a context encoder over the tokens of all regions, a decoder and heads (arXiv 2403.01915).

Different from the release: any height and width, regions streamed with exact gradients, regions without a valid
pixel left out, and dense maps decoded tile by tile. The stages are public: ``encode``, ``mix``, ``decode``.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from xt.errors import ModelError
from xt.geometry.grid import RegionGrid, TokenLayout, Window
from xt.models import streaming
from xt.models.context.base import ContextEncoder, Memory
from xt.models.context_block import ContextBlock
from xt.models.contracts import check_part, check_sums
from xt.models.decoders.base import Decoder, DenseDecoder, PooledDecoder
from xt.models.pretrained import Pretrained
from xt.models.pyramid import FeaturePyramid
from xt.models.region.base import RegionEncoder
from xt.models.tiles import Outputs, Tile, cut_tiles, decode_tile, decode_tiles
from xt.models.tokenization import existing, sequences, to_map
from xt.models.work import Chunked, Given

Maps = dict[str, Tensor]


class XT(Pretrained, Chunked):
    """The whole model; :class:`~xt.models.pretrained.Pretrained` says how it is saved and loaded.

    Args:
        region_encoder: Encodes regions.
        context: Mixes tokens; its ``dim`` may be any multiple of 4.
        decoder: Dense or pooled; its input sizes must be those of the region encoder or the context.
        heads: Name → channels.
        region_batch: Regions encoded at a time; None for as many as the model's device needs to be busy.
        decode_size: Side of the tiles that are decoded at a time, in pixels, or None as before.
        streaming: Encode regions and decode tiles with recomputation; False lets autograd keep every activation.
        positions: Add the place in the image to each token before the context.

    Raises:
        ModelError: If parts do not fit together.
    """

    def __init__(
        self,
        region_encoder: RegionEncoder,
        context: ContextEncoder,
        decoder: Decoder,
        heads: dict[str, int],
        region_batch: int | None = None,
        decode_size: int | None = None,
        streaming: bool = True,
        positions: bool = True,
    ) -> None:
        super().__init__()
        for each in (region_encoder, context, decoder):
            check_part(each)
        dense = isinstance(decoder, DenseDecoder)
        self.region_encoder = region_encoder
        uses_class_token = isinstance(decoder, PooledDecoder) and decoder.uses_class_token
        self.context = ContextBlock(region_encoder.channels[-1], context, uses_class_token, dense, positions)
        self.decoder = decoder
        width = decoder.out_channels
        self.heads = nn.ModuleDict(
            {name: nn.Conv2d(width, n, 1) if dense else nn.Linear(width, n) for name, n in heads.items()}
        )
        self._given = Given(region_batch, decode_size)
        self.streaming = streaming

    @property
    def in_chans(self) -> int:
        """Channels of the image."""
        return self.region_encoder.in_chans

    @property
    def dense(self) -> bool:
        """Whether the model gives maps rather than one vector per image."""
        return isinstance(self.decoder, DenseDecoder)

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels per cell of each map of a pyramid: of the last stage's alone where a pooled decoder takes no map."""
        return tuple(self.region_encoder.strides[0 if self.dense else -1 :])

    @torch.compiler.disable  # type: ignore[untyped-decorator,unused-ignore]
    def forward(self, image: Tensor, valid: Tensor | None = None) -> Maps:
        """Run all stages: ``decode(mix(encode(image, valid)))``.

        Args:
            image: ``(B, C, H, W)`` normalised, invalid pixels 0; any H and W.
            valid: ``(B, 1, H, W)`` bool. Regions without a valid pixel are neither encoded nor in the sequence.

        Returns:
            Head name → raw maps ``(B, n, H, W)`` float32 for a dense decoder, ``(B, n)`` for a pooled one.

        Raises:
            ModelError: If image or ``valid`` is of another size, or sharded parameters are trained.
        """
        return self.decode(self.mix(self.encode(image, valid)))

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the region encoder, as :func:`torch.compile` does; loops over regions and tiles stay as they are."""
        self.region_encoder.compile(*args, **kwargs)

    def statistics(
        self, image: Tensor, targets: Maps, fn: Callable[[Maps, Maps], Tensor], valid: Tensor | None = None
    ) -> Tensor:
        """Run all stages and sum ``fn`` over tiles: ``reduce(mix(encode(image, valid)), targets, fn)``."""
        return self.reduce(self.mix(self.encode(image, valid)), targets, fn)

    def encode(self, image: Tensor, valid: Tensor | None = None, origin: tuple[int, int] = (0, 0)) -> FeaturePyramid:
        """Encode all regions, ``region_batch`` at a time.

        Args:
            image: As in :meth:`forward`.
            valid: As in :meth:`forward`.
            origin: Row and column of the image's first pixel in the whole scene; multiples of the coarsest stride.

        Raises:
            ModelError: As :meth:`forward`.
            GeometryError: If the coarsest stride does not divide the origin.
        """
        if image.ndim != 4 or image.shape[1] != self.in_chans:
            raise ModelError(f"the model takes images (B, {self.in_chans}, H, W), got {tuple(image.shape)}")
        streaming.refuse_sharded(self)
        encoder = self.region_encoder
        grid = RegionGrid(image.shape[-2], image.shape[-1], self.region_size, origin)
        grid.layout(encoder.strides[-1])  # refuses an origin between tokens before any work
        exists = None if valid is None else tuple(existing(valid, grid, len(image)))
        given = (encoder, image, grid, exists, len(encoder.strides) - len(self.strides))
        maps = streaming.encode(*given, self.region_batch) if self.streaming else streaming.encode_at_once(*given)
        return FeaturePyramid(image, tuple(maps), self.strides, grid, exists)

    def mix(self, pyramid: FeaturePyramid) -> FeaturePyramid:
        """Mix the tokens of all regions.

        Returns:
            The pyramid with what the context says added to its last map; with a pooled decoder, with the mixed
            ``tokens`` beside the maps.

        Raises:
            ModelError: If the decoder has prepared the pyramid, or a pooled one gets an image without a valid pixel.
        """
        if pyramid.prepared:
            raise ModelError("the decoder has prepared this pyramid; mix comes before prepare")
        *finer, last = pyramid.maps
        if self.dense:
            return replace(pyramid, maps=(*finer, self.mix_features(last, pyramid.grid, pyramid.exists)))
        groups = sequences(last, pyramid.grid.layout(pyramid.strides[-1]), pyramid.exists)
        if not all(layout.num_existing for _, layout in groups):
            raise ModelError("an image without a valid pixel has no class; leave it out")
        return replace(pyramid, tokens=tuple(self.context(*each) for each in groups))

    def mix_features(
        self, features: Tensor, grid: RegionGrid, exists: Sequence[tuple[bool, ...]] | None = None
    ) -> Tensor:
        """Add to a last-stage map what the context encoder says: :meth:`mix` where there is no image.

        Args:
            features: ``(B, channels[-1], padded H / stride, padded W / stride)``.
            grid: Regions of the image.
            exists: One flag per region for each image; None if all do.

        Raises:
            ModelError: If the decoder is pooled.
        """
        self._dense_decoder("mix_features")
        return features + self.said(features, grid, exists)

    def said(self, features: Tensor, grid: RegionGrid, exists: Sequence[tuple[bool, ...]] | None = None) -> Tensor:
        """What the context encoder says, and :meth:`mix_features` adds, with arguments as there; 0 without a region."""
        self._dense_decoder("said")
        found = [
            to_map(self.context(each, layout), layout).to(each.dtype) if layout.num_existing else torch.zeros_like(each)
            for each, layout in sequences(features, grid.layout(self.region_encoder.strides[-1]), exists)
        ]
        return found[0] if len(found) == 1 else torch.cat(found)

    def mix_segment(self, features: Tensor, layout: TokenLayout, memory: Memory | None = None) -> tuple[Tensor, Memory]:
        """Do what :meth:`mix_features` does, one segment of a scene after the other (:class:`RecurrentContextEncoder`).

        Args:
            features: ``(B, channels[-1], h, w)`` of the segment.
            layout: Of the segment alone, with its ``origin`` in the scene.
            memory: What the segment before returned; None for the first.

        Returns:
            The mixed features of the same shape, and the memory for the next segment.

        Raises:
            ModelError: If the decoder is pooled or the context encoder is not recurrent.
        """
        self._dense_decoder("mix_segment")
        said, memory = self.context.step(features, layout, memory)
        return features + to_map(said, layout).to(features.dtype), memory

    def prepare(self, pyramid: FeaturePyramid) -> FeaturePyramid:
        """Let the decoder do what needs the whole image; :meth:`decode` and :meth:`reduce` do it unless it is done.

        Call it before decoding one pyramid window by window, so that it is done once.
        """
        if pyramid.prepared or not isinstance(self.decoder, DenseDecoder):
            return pyramid
        return replace(pyramid, maps=tuple(self.decoder.prepare(pyramid.maps)), prepared=True)

    def decode(self, pyramid: FeaturePyramid, window: Window | None = None) -> Maps:
        """Decode a mixed pyramid, tile by tile.

        Args:
            pyramid: Of :meth:`mix` or :meth:`prepare`.
            window: Pixels to decode, inside the image; what they get is that part of the whole. None decodes all.

        Returns:
            As :meth:`forward`, of the window's size.

        Raises:
            ModelError: If the window is not inside the image, or a pooled decoder gets a window or an unmixed pyramid.
        """
        if isinstance(self.decoder, PooledDecoder):
            if window is not None or not pyramid.tokens:
                raise ModelError("a pooled decoder takes the tokens of a mixed pyramid, and no window")
            pooled = torch.cat([self.decoder(tokens) for tokens in pyramid.tokens])
            return {name: head(pooled) for name, head in self.heads.items()}
        grid = pyramid.grid
        window = window or grid.whole
        if window.clip(grid.height, grid.width) != window or not (window.height and window.width):
            raise ModelError(f"{window} has no pixel or is not inside the image of {grid.height} × {grid.width} px")
        found = self._tiles(pyramid, lambda tile, maps: tuple(maps.values()), window)
        return dict(zip(self.heads, found, strict=True))

    def reduce(self, pyramid: FeaturePyramid, targets: Maps, fn: Callable[[Maps, Maps], Tensor]) -> Tensor:
        """Sum ``fn`` over the tiles that :meth:`decode` places, without holding the maps of more than one.

        Args:
            pyramid: Of :meth:`mix` or :meth:`prepare`.
            targets: Name → ``(B, …, H, W)``, cut to each tile.
            fn: Given the maps and targets of a tile, returns sums ``(K,)``.

        Returns:
            ``(K,)`` float32, with the exact gradient to every parameter.

        Raises:
            ModelError: If the decoder is pooled.
        """

        def of_tile(tile: Tile, maps: Maps) -> Outputs:
            sums = fn(maps, {name: target[(..., *tile.inner.slices)] for name, target in targets.items()})
            return (check_sums(sums),)

        return self._tiles(pyramid, of_tile)[0]

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
            "heads": {name: head.get_parameter("weight").shape[0] for name, head in self.heads.items()},
            "region_batch": self._given.region_batch,
            "decode_size": self._given.decode_size,
            "streaming": self.streaming,
            "positions": self.context.positions,
        }

    def _dense_decoder(self, stage: str) -> DenseDecoder:
        if not isinstance(self.decoder, DenseDecoder):
            raise ModelError(f"{stage} needs a dense decoder; a pooled one gives one vector per image")
        return self.decoder

    def _tiles(
        self, pyramid: FeaturePyramid, fn: Callable[[Tile, Maps], Outputs], window: Window | None = None
    ) -> Outputs:
        """What ``fn`` makes of each tile, placed in ``window``, or added up over the image."""
        decoder = self._dense_decoder("decoding tile by tile")
        streaming.refuse_sharded(self)
        pyramid = self.prepare(pyramid)
        return decode_tiles(
            lambda tile, tensors: fn(tile, decode_tile(decoder, self.heads, tile, tensors)),
            cut_tiles(window or pyramid.grid.whole, pyramid.grid, self.decode_size, pyramid.strides[-1], decoder.halo),
            [pyramid.image, *pyramid.maps],
            (1, *pyramid.strides),
            [decoder, self.heads],
            window,
            self.streaming,
        )
