"""Builds models: from a config, and from the names and numbers in a saved model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from xt import plugins
from xt.errors import ModelError
from xt.models.context.base import ContextEncoder
from xt.models.decoders.base import DenseDecoder, PooledDecoder
from xt.models.region.base import RegionEncoder
from xt.models.xt import XT

Decoder = DenseDecoder | PooledDecoder
SPEC_KEYS = (
    "region_encoder",
    "context",
    "context_dim",
    "decoder",
    "heads",
    "region_batch",
    "decode_size",
    "streaming",
)


@dataclass
class ModelConfig:
    """The parts of a model, as a config names them.

    Attributes:
        region_encoder: ``{class_path, init_args}`` of a region encoder.
        context: ``{class_path, init_args}`` of a context encoder, without ``dim``.
        decoder: ``{class_path, init_args}`` of a decoder, without what the region encoder decides.
        context_dim: Channels of a token.
        region_batch: Regions encoded at a time.
        decode_size: Side of the tiles decoded at a time, in pixels.
        streaming: Encode in chunks with recomputation.
    """

    region_encoder: dict[str, Any]
    context: dict[str, Any]
    decoder: dict[str, Any]
    context_dim: int = 768
    region_batch: int = 4
    decode_size: int = 512
    streaming: bool = True

    def build(self, heads: dict[str, int]) -> XT:
        """Build the model with the heads that a task needs (name → channels)."""
        region_encoder = plugins.build("region_encoders", self.region_encoder)
        context = plugins.build("context_encoders", self.context, dim=self.context_dim)
        decoder = _build_decoder(self.decoder, region_encoder, context)
        return XT(region_encoder, context, decoder, heads, self.region_batch, self.decode_size, self.streaming)


def build_from_spec(spec: dict[str, Any]) -> XT:
    """Build a model from :meth:`XT.spec`. Only registered names are resolved; nothing else is imported.

    Raises:
        ModelError: If keys are missing or unknown.
        PluginError: If a name or argument is unknown.
    """
    if set(spec) != set(SPEC_KEYS):
        wrong = sorted(set(spec) ^ set(SPEC_KEYS))
        raise ModelError(
            f"model description has missing or unknown keys: {', '.join(wrong)}; export the model again"
        )
    config = {key: value for key, value in spec.items() if key != "heads"}
    return ModelConfig(**config).build(dict(spec["heads"]))


def _build_decoder(spec: dict[str, Any], region_encoder: RegionEncoder, context: ContextEncoder) -> Decoder:
    cls: Callable[..., Any] = plugins.resolve("decoders", spec.get("class_path", ""))
    if isinstance(cls, type) and issubclass(cls, DenseDecoder):
        given: dict[str, Any] = {
            "in_chans": region_encoder.in_chans,
            "channels": region_encoder.channels,
            "strides": region_encoder.strides,
        }
    else:
        given = {"dim": context.dim}
    decoder: Decoder = plugins.build("decoders", spec, **given)
    return decoder
