"""Any timm backbone that gives feature maps, as a region encoder."""

import inspect
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
from timm.layers import Format, LayerNorm2d
from torch import Tensor, nn

from xt.errors import ModelError, nearest
from xt.models.region import hiera
from xt.models.region.base import RegionEncoder
from xt.models.region.faster import accelerate
from xt.models.region.simple_pyramid import SimplePyramid
from xt.models.region.weights import for_timm
from xt.models.state_files import first_line, read_state

PRESETS = {
    "swinv2_t": "swinv2_tiny_window16_256.ms_in1k",
    "swinv2_s": "swinv2_small_window16_256.ms_in1k",
    "swinv2_b": "swinv2_base_window16_256.ms_in1k",
    "swinv2_l": "swinv2_large_window12to16_192to256.ms_in22k_ft_in1k",
}
"""The region encoders of the paper, by short name."""
UNDECAYED = re.compile(
    r"\b(cpb_mlp|logit_scale|relative_position_bias_table|pos_embed(_win)?|(cls|reg|dist)_token|rel_pos)\b"
)
"""Parameters that timm's models name in their own ``no_weight_decay``, which ``features_only`` hides."""


class TimmFeatures(RegionEncoder):
    """A timm backbone with ``features_only``; of maps with equal stride the deepest is taken.

    Strides must ascend, so a plain ViT gives one map, that of its last block before the last norm; its class and
    register tokens stay inside. ``pyramid`` makes the finer maps of it that a dense decoder such as UPerNet lives on.

    Layers of batch normalisation stay in evaluation mode, because regions must not influence each other.

    Args:
        in_chans: Channels of the image.
        name: A timm model name, or a preset: ``swinv2_t``, ``swinv2_s``, ``swinv2_b``, ``swinv2_l``.
        region_size: Side of a region in pixels; a multiple of the coarsest stride.
        pretrained: Take weights from the hub.
        weights: Take weights from a local file (``.safetensors``, ``.onnx``, or a ``torch.save`` of tensors only), by
            timm's names or by order and shape (:func:`~xt.models.region.weights.for_timm`).
        model_args: Further arguments of the timm model, such as ``{"drop_path_rate": 0.1}``.
        norm: LayerNorm on each map, as detectors add to backbones that end without one. The maps of a ConvNeXt from
            scratch are so small that positions of unit size drown them.
        compile: Compile the backbone with ``torch.compile``, which needs a C++ compiler on a CPU.
        pyramid: Strides of maps made of the deepest one, such as ``[4, 8, 16]`` for a ViT of stride 16
            (:class:`~xt.models.region.simple_pyramid.SimplePyramid`). They are all that is given then.

    Raises:
        ModelError: If the name or an argument is unknown, sizes do not fit, or weights cannot be had or do not fit.
        CheckpointError: If the file of weights cannot be read, or a tensor of it has no place.
    """

    def __init__(
        self,
        in_chans: int,
        name: str,
        region_size: int = 256,
        pretrained: bool = False,
        weights: str | None = None,
        model_args: dict[str, Any] | None = None,
        norm: bool = False,
        compile: bool = False,
        pyramid: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if region_size < 1 or in_chans < 1:
            raise ModelError(f"{name}: region_size {region_size} and in_chans {in_chans} must be at least 1")
        if pretrained and weights:
            raise ModelError(f"{name}: give pretrained: true (the hub) or weights: FILE, not both")
        overlay = None
        if weights:
            state = read_state(Path(weights))
            if timm.is_model(PRESETS.get(name, name)):
                with _naming_arguments(name):
                    state = for_timm(state, PRESETS.get(name, name), in_chans, model_args or {}, weights)
            overlay = {"state_dict": state, "first_conv": None}
        options = {
            "in_chans": in_chans,
            "features_only": True,
            "pretrained": pretrained or overlay is not None,
            "pretrained_cfg_overlay": overlay,
            **(model_args or {}),
        }
        self.model = _create(PRESETS.get(name, name), region_size, options)
        if not options["pretrained"]:
            _give_the_stem_a_bias(self.model)
        accelerate(self.model)
        if compile:
            self.model.compile()
        self._nhwc = getattr(self.model, "output_fmt", Format.NCHW) == Format.NHWC
        info: Any = self.model.feature_info
        reduction: list[int] = info.reduction()
        channels: list[int] = info.channels()
        self._kept = [i for i, r in enumerate(reduction) if r not in reduction[i + 1 :]]
        self.in_chans = in_chans
        self.region_size = region_size
        self.channels = tuple(channels[i] for i in self._kept)
        self.strides = tuple(reduction[i] for i in self._kept)
        self.pyramid = None
        if pyramid is not None:
            self.pyramid = SimplePyramid(self.channels[-1], self.strides[-1], pyramid)
            self._kept = self._kept[-1:]
            self.channels, self.strides = self.pyramid.channels, tuple(pyramid)
        self.norms = nn.ModuleList(LayerNorm2d(num) for num in self.channels) if norm else None
        coarsest = max(reduction[self._kept[-1]], self.strides[-1])
        if region_size % coarsest:
            raise ModelError(
                f"region_size {region_size} does not divide by {coarsest}, the coarsest stride of {name}; "
                f"take {round(region_size / coarsest) * coarsest or coarsest}"
            )
        self.train(self.training)

    def forward(self, regions: Tensor) -> list[Tensor]:
        """Encode ``(N, C, R, R)`` into maps ``(N, channels[i], R / strides[i], R / strides[i])``."""
        maps = self.model(regions)
        kept = [maps[i] for i in self._kept]
        kept = [each.permute(0, 3, 1, 2) for each in kept] if self._nhwc else kept
        kept = kept if self.pyramid is None else self.pyramid(kept[-1])
        return kept if self.norms is None else [norm(each) for norm, each in zip(self.norms, kept, strict=True)]

    def train(self, mode: bool = True) -> "TimmFeatures":
        """Set training mode, except for batch normalisation."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def no_weight_decay(self) -> set[str]:
        """Tables and scales of positions and attention, as in timm."""
        return {name for name, _ in self.named_parameters() if UNDECAYED.search(name)}

    def spec(self) -> dict[str, Any]:
        """Names and numbers without the source of the weights, which a saved model brings, and what serves speed."""
        spec = super().spec()
        spec["init_args"] |= {"pretrained": False, "weights": None, "compile": False}
        return spec


def _give_the_stem_a_bias(model: nn.Module) -> None:
    # The layer norm behind a stem without bias keeps the direction of its output only: calm sea and a dark film, both
    # the same direction, look alike, and where the image is 0 (no data) its gradient is a million times too large.
    stem = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if stem is None or stem.bias is None or stem.bias.is_meta or stem.bias.any():
        return
    fan_in = stem.weight[0].numel()
    nn.init.normal_(stem.bias, std=float(stem.weight.detach().std()) * fan_in**0.5)


def _create(name: str, region_size: int, options: dict[str, Any]) -> nn.Module:
    if not timm.is_model(name):
        raise ModelError(f"timm has no model named {name!r}{nearest(name, [*PRESETS, *timm.list_models()])}")
    try:
        given = hiera.with_positions(name, region_size, options)
        with _naming_arguments(name):
            try:
                model: nn.Module = timm.create_model(name, img_size=region_size, **given)
            except TypeError as error:
                if "img_size" not in str(error):
                    raise
                model = timm.create_model(name, **given)
    except (OSError, RuntimeError) as error:
        if not options["pretrained"]:
            raise
        if options["pretrained_cfg_overlay"]:
            reason = " ".join(str(error).split()).rpartition("state_dict for ")[2][:200]
            raise ModelError(f"weights do not fit {reason or name}; check the file, in_chans and model_args") from error
        raise ModelError(
            f"pretrained weights of {name} cannot be had from the hub ({first_line(error)}); "
            "give weights: FILE for a local file, or pretrained: false to train from scratch"
        ) from error
    except AssertionError as error:
        raise ModelError(
            f"{name} does not take regions of {region_size} px ({first_line(error)}); choose another region_size"
        ) from error
    return model


@contextmanager
def _naming_arguments(name: str) -> Iterator[None]:
    """Say which argument a timm model does not take."""
    try:
        yield
    except TypeError as error:
        found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if found is None:
            raise
        nearby = _nearest_argument(PRESETS.get(name, name), found[1])
        raise ModelError(f"{name} takes no argument {found[1]!r}{nearby}") from error


def _nearest_argument(name: str, argument: str) -> str:
    base = name.split(".")[0]
    module = inspect.getmodule(timm.model_entrypoint(base))
    classes = [cls for _, cls in inspect.getmembers(module, inspect.isclass) if issubclass(cls, nn.Module)]
    signatures = [inspect.signature(cls).parameters for cls in classes]
    return nearest(argument, {key for keys in signatures if "num_classes" in keys for key in keys})
