"""Builds models: from a config, and from the names and numbers in a saved model."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from torch.nn import ModuleDict

from xt import plugins
from xt.errors import ModelError, nearest
from xt.models.context.base import ContextEncoder
from xt.models.contracts import check_part
from xt.models.decoders.base import Decoder, DecoderInputs
from xt.models.region.base import RegionEncoder
from xt.models.xt import XT

PARTS = ("region_encoder", "context", "decoder", "heads")
"""What a model's description must have; all other keys are numbers of :class:`ModelConfig`, with its defaults."""


@dataclass
class ModelConfig:
    """The parts of a model, as a config names them.

    Attributes:
        region_encoder: Encodes regions; ``in_chans`` is supplied.
        context: Mixes all regions; ``dim`` is supplied.
        decoder: Decodes; ``inputs`` is supplied.
        context_dim: Channels of a token.
        region_batch: Regions encoded at a time; None for as many as the device needs to be busy.
        decode_size: Side of the tiles decoded at a time, in pixels, or None as before.
        streaming: Encode in chunks with recomputation; False keeps every activation.
        positions: Add the place in the image to each token before the context.
        unbound: Keys that say how the work is done, not what is computed; a run may go on with others.
    """

    unbound = ("region_batch", "decode_size", "streaming", "region_encoder.init_args.compile")

    region_encoder: Callable[[int], RegionEncoder]
    context: Callable[[int], ContextEncoder]
    decoder: Callable[[DecoderInputs], Decoder]
    context_dim: int = 768
    region_batch: int | None = None
    decode_size: int | None = None
    streaming: bool = True
    positions: bool = True

    def build(self, in_chans: int, heads: dict[str, int]) -> XT:
        """Build the model for images of ``in_chans`` bands, with the heads that a task needs (name → channels).

        Raises:
            ModelError: If a head cannot have its name, or the parts do not fit together.
        """
        for name in heads:
            if not name or "." in name or hasattr(ModuleDict, name):
                raise ModelError(f"a head cannot be called {name!r}, which PyTorch keeps for itself; rename it")
        encoder = self.region_encoder(in_chans)
        check_part(encoder)
        inputs = DecoderInputs(encoder.in_chans, encoder.channels, encoder.strides, self.context_dim)
        context, decoder = self.context(self.context_dim), self.decoder(inputs)
        return XT(encoder, context, decoder, heads, self.region_batch, self.decode_size, self.streaming, self.positions)


def build_from_spec(spec: dict[str, Any]) -> XT:
    """Build a model from :meth:`XT.spec`. Only registered names are resolved; nothing else is imported.

    Raises:
        ModelError: If a part is missing or a key is unknown. Other keys that an older version did not write take their
            defaults.
        PluginError: If a name or argument is unknown.
    """
    check_spec(spec)
    in_chans = spec["region_encoder"].get("init_args", {}).get("in_chans")
    if in_chans is None:
        raise ModelError("model description has no in_chans of its region encoder; export the model again")
    config = ModelConfig(
        region_encoder=partial(_build, "region_encoders", spec["region_encoder"], "in_chans"),
        context=partial(_build, "context_encoders", spec["context"], "dim"),
        decoder=partial(_build, "decoders", spec["decoder"], "inputs"),
        **{key: value for key, value in spec.items() if key not in PARTS},
    )
    return config.build(in_chans, dict(spec["heads"]))


def check_spec(spec: dict[str, Any]) -> None:
    """Refuse a model's description with a part missing or a key too many.

    Raises:
        ModelError: If it is refused.
    """
    known = {*PARTS, *(field.name for field in fields(ModelConfig))}
    for key in spec:
        if key not in known:
            raise ModelError(f"model description has an unknown key {key!r}{nearest(key, known)}; update xt")
    missing = [key for key in PARTS if key not in spec]
    if missing:
        raise ModelError(f"model description has no {', '.join(missing)}; export the model again")


def _build(kind: str, spec: dict[str, Any], argument: str, value: Any) -> Any:
    return plugins.build(kind, spec, **{argument: value})
