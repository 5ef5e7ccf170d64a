"""Pictures of the first validation images in the run folder: what is true, and what the model says of it now."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from xt.files import remove_partials, replacing
from xt.tasks.preview import Panel, draw
from xt.training.module import TrainingModule

SHOWN = 4
"""Images."""


class Samples(Callback):
    """Draws ``samples/NUMBER_NAME.png`` at each validation, over those of the one before.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "samples"
        self._panels: dict[str, list[Panel]] = {}

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Forget a validation that did not end."""
        self._panels = {}

    @torch.no_grad()
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep small pictures of the first images that the first process sees."""
        assert isinstance(module, TrainingModule)
        if not trainer.is_global_zero or trainer.state.fn != "fit" or not isinstance(outputs, Mapping):
            return
        for i, name in enumerate(batch["name"][: SHOWN - len(self._panels)]):
            panels = module.task.preview(batch, i, {head: values[i] for head, values in outputs.items()})
            if panels:
                self._panels[f"{len(self._panels)}_{_file_name(name)}.png"] = panels

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Draw them; the scores, and with them the thresholds, are known."""
        if trainer.sanity_checking or not self._panels:
            return
        for name, panels in self._panels.items():
            remove_partials(self.folder / name)
            with replacing(self.folder / name) as partial:
                draw(panels).save(partial, format="PNG")
        self._panels = {}


def _file_name(image: str) -> str:
    """Name of an image as that of a file, without its suffix."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", re.sub(r"\.(tiff?|png|jpe?g)$", "", image)).strip("_")[-80:]
