"""What travels with a model's weights: bands, statistics, classes, with the names of the STAC MLM extension."""

import math
from dataclasses import dataclass, field
from typing import Any

from xt.data.source import InputSpec
from xt.errors import CheckpointError


@dataclass(frozen=True)
class ModelMetadata:
    """Facts about a model that inference needs beside its weights.

    Attributes:
        task: What the model does; a task of STAC MLM where it has one.
        bands: Names of the bands in the order of the channels.
        mean: Per band, in the unit of the raster; the input is ``(value − mean) / std``, invalid pixels are 0.
        std: Per band, in the unit of the raster.
        nodata: Value that means "no data" in the training rasters, if any.
        classes: Class names (segmentation, classification), in the order of the channels.
        image_size: Side in pixels of the images the model was trained on.
        resolution: Metres per pixel on the ground, if known.
        thresholds: Decision threshold per head (detection), tuned on validation.
        name: A name for the model.
        coarse: Bands of scene folders that may be coarser or missing (:class:`~xt.data.source.InputSpec`); None for
            models saved before it was told.
        task_class: Short name of the class in ``xt.tasks`` that the model was trained for; empty for models saved
            before it was told.
        settings: What this class must know beside classes and thresholds.
        resize_type: ``"interpolation-cubic"`` if the model sees the middle square of an image, brought to
            ``image_size``; empty if it sees pixels as they are.
    """

    task: str
    bands: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    nodata: float | None = None
    classes: tuple[str, ...] = ()
    image_size: int = 512
    resolution: float | None = None
    thresholds: dict[str, float] = field(default_factory=dict)
    name: str = "xt"
    coarse: tuple[str, ...] | None = None
    task_class: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    resize_type: str = ""

    def __post_init__(self) -> None:
        """Check lengths and numbers."""
        if not len(self.bands) == len(self.mean) == len(self.std):
            raise CheckpointError(
                f"{len(self.bands)} bands, {len(self.mean)} means, {len(self.std)} stds: must be as many"
            )
        if not all(0 < value < math.inf for value in self.std) or not all(map(math.isfinite, self.mean)):
            raise CheckpointError(f"mean {list(self.mean)} and std {list(self.std)} must be finite, and std positive")

    @property
    def inputs(self) -> InputSpec:
        """What the model takes, for a :class:`~xt.data.source.Source`."""
        return InputSpec(self.bands, self.mean, self.std, self.nodata, self.coarse)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready fields named as in the STAC MLM extension (v1.4) where it has a name."""
        scaling = [
            {"type": "z-score", "mean": mean, "stddev": std} for mean, std in zip(self.mean, self.std, strict=True)
        ]
        resized = {"resize_type": self.resize_type} if self.resize_type else {}
        return {
            "mlm:name": self.name,
            "mlm:architecture": "xT",
            "mlm:framework": "pytorch",
            "mlm:tasks": [self.task],
            "mlm:input": [
                {
                    "name": "image",
                    "bands": [{"name": band} for band in self.bands],
                    "input": {
                        "shape": [-1, len(self.bands), self.image_size, self.image_size],
                        "dim_order": ["batch", "channel", "height", "width"],
                        "data_type": "float32",
                    },
                    "value_scaling": scaling,
                    **resized,
                }
            ],
            "mlm:output": [
                {
                    "name": self.task,
                    "tasks": [self.task],
                    "classification:classes": [
                        {"value": value, "name": name} for value, name in enumerate(self.classes)
                    ],
                }
            ],
            "nodata": self.nodata,
            "gsd": self.resolution,
            "thresholds": self.thresholds,
            "coarse_bands": None if self.coarse is None else list(self.coarse),
            "task_class": self.task_class,
            "task_settings": self.settings,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "ModelMetadata":
        """Read what :meth:`to_dict` wrote.

        Raises:
            CheckpointError: If a field is missing or has the wrong form.
        """
        try:
            (image,) = data["mlm:input"]
            (output,) = data["mlm:output"]
            scaling = image["value_scaling"]
            return cls(
                task=str(data["mlm:tasks"][0]),
                bands=tuple(str(band["name"]) for band in image["bands"]),
                mean=tuple(float(scale["mean"]) for scale in scaling),
                std=tuple(float(scale["stddev"]) for scale in scaling),
                nodata=None if data.get("nodata") is None else float(data["nodata"]),
                classes=tuple(str(item["name"]) for item in output["classification:classes"]),
                image_size=int(image["input"]["shape"][-1]),
                resolution=None if data.get("gsd") is None else float(data["gsd"]),
                thresholds={str(key): float(value) for key, value in data.get("thresholds", {}).items()},
                name=str(data.get("mlm:name", "xt")),
                coarse=None if data.get("coarse_bands") is None else tuple(map(str, data["coarse_bands"])),
                task_class=str(data.get("task_class", "")),
                settings=dict(data["task_settings"]) if "task_settings" in data else _old_settings(data),
                resize_type=str(image.get("resize_type") or ""),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise CheckpointError(
                f"model metadata is not valid ({type(error).__name__}: {error}); export the model again"
            ) from error


def _old_settings(data: dict[str, Any]) -> dict[str, Any]:
    """Of models that were saved before a task had settings; before there was a choice, the centre was linear."""
    if data["mlm:tasks"] != ["point-detection"]:
        return {}
    return {"center_activation": str(data.get("center_activation", "linear"))}
