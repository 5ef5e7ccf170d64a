"""A model as a folder: ``model.safetensors`` and ``config.json``, names and numbers only."""

import hashlib
import json
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from xt.errors import CheckpointError, OutputError, XTWarning
from xt.files import previous, replacing_folder
from xt.models import hub
from xt.models.factory import ModelConfig, build_from_spec, check_spec
from xt.models.metadata import ModelMetadata
from xt.models.mlm import stac_block
from xt.models.xt import XT

Weights = Mapping[str, torch.Tensor]
FORMAT = 1
WEIGHTS = "model.safetensors"
CONFIG = "config.json"
CARD = "README.md"
"""The model card, if there is one; what a person wrote there stays."""
BESIDE = "training.safetensors"
"""What was trained beside the model and serves training and evaluation alone."""
PARTS = ("region_encoder", "context", "decoder", "heads")
"""Of a model, by the names that ``init_parts`` takes."""


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_model(
    folder: Path,
    model: XT,
    metadata: ModelMetadata,
    beside: Mapping[str, torch.Tensor] | None = None,
    card: str | None = None,
) -> None:
    """Write a model folder; a kill at any moment leaves the old one or the new one.

    Args:
        folder: Is replaced if it is there.
        model: Its weights are written as they are.
        metadata: What inference needs beside the weights.
        beside: Weights that training and evaluation need beside the model's, by name.
        card: A model card, for a folder that has none.

    Raises:
        OutputError: If the folder cannot be written, or holds files that are not a model's.
    """
    states = {WEIGHTS: model.state_dict()} | ({BESIDE: dict(beside)} if beside else {})
    with replacing_folder(folder) as partial:
        try:
            for name, state in states.items():
                save_file({key: value.detach().cpu().contiguous() for key, value in state.items()}, partial / name)
        except SafetensorError as error:
            raise OutputError(f"{folder} cannot be written: {error}; the old model is kept") from error
        config = {
            "format": FORMAT,
            "sha256": file_sha256(partial / WEIGHTS),
            **({"training_sha256": file_sha256(partial / BESIDE)} if beside else {}),
            "model": model.spec(),
            "metadata": metadata.to_dict(),
            "stac": stac_block(model, metadata),
        }
        (partial / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        written = next((each / CARD for each in (folder, previous(folder)) if (each / CARD).is_file()), None)
        if written is not None:
            shutil.copyfile(written, partial / CARD)
        elif card is not None:
            (partial / CARD).write_text(card, encoding="utf-8")


def load_model(path: Path | str) -> tuple[XT, ModelMetadata]:
    """Read a model folder, or the model of a run folder.

    Args:
        path: Folder with ``config.json``, a run folder that has one under ``model/``, or ``hf://ORG/NAME`` (a model on
            the Hugging Face Hub, ``@REVISION`` after it if not the newest).

    Returns:
        The model in evaluation mode on the CPU, and its metadata, which the model has as ``metadata`` too.

    Raises:
        CheckpointError: If it is missing, corrupt, or its weights do not fit its description.
    """
    folder = find_model(Path(path))
    config = _read_config(folder)
    state = _read_weights(folder / WEIGHTS, config["sha256"])
    model = build_from_spec(config["model"])
    load_weights(model, state, str(folder / WEIGHTS))
    model.metadata = _metadata(folder, config)
    return model.eval(), model.metadata


def load_beside(path: Path | str) -> dict[str, torch.Tensor] | None:
    """Read what was trained beside a model, by name; None if nothing was.

    Raises:
        CheckpointError: If it is missing or corrupt.
    """
    folder = find_model(Path(path))
    digest = _read_config(folder).get("training_sha256")
    return None if digest is None else _read_weights(folder / BESIDE, digest)


def _read_weights(path: Path, digest: str) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise CheckpointError(f"{path.parent} has no {path.name}; export the model again")
    if file_sha256(path) != digest:
        raise CheckpointError(f"{path} is damaged: its SHA-256 is not the one in {CONFIG}; copy or download it again")
    return load_file(path)


def read_metadata(path: Path | str) -> ModelMetadata:
    """Read what a model is for, without its weights.

    Raises:
        CheckpointError: As :func:`load_model`.
    """
    folder = find_model(Path(path))
    return _metadata(folder, _read_config(folder))


def read_description(path: Path | str) -> tuple[ModelMetadata, dict[str, Any]]:
    """Read what a model is for and what it is built of (:meth:`XT.spec`), without its weights.

    Raises:
        CheckpointError: As :func:`load_model`.
        ModelError: If a part is missing or a key is unknown.
    """
    folder = find_model(Path(path))
    config = _read_config(folder)
    check_spec(config["model"])
    return _metadata(folder, config), config["model"]


def find_model(path: Path) -> Path:
    """Return the model folder that a path means; a model on the hub is downloaded, once for each revision.

    Raises:
        CheckpointError: If there is none.
    """
    if (found := hub.address(str(path))) is not None:
        return hub.download(*found, [CONFIG, WEIGHTS])
    for folder in (path, path / "model"):
        # A kill between the two renames leaves the old folder under its other name.
        for candidate in (folder, previous(folder)):
            if (candidate / CONFIG).is_file():
                return candidate
    missing = "is a file" if path.exists() else "does not exist"
    what = "has no model/ folder yet: has training saved one?" if path.is_dir() else missing
    raise CheckpointError(f"model {path} {what}; give a run folder of xt train, a model folder or hf://ORG/NAME")


def encoder_sha256(model: XT, metadata: ModelMetadata) -> str:
    """Return the SHA-256 of a model's region encoder and of how its input is made: what tokens depend on."""
    fed = [
        model.region_encoder.spec(), metadata.bands, metadata.mean, metadata.std, metadata.nodata, metadata.coarse,
    ]  # fmt: skip
    return _sha256(fed, model.region_encoder)


def model_sha256(model: XT, metadata: ModelMetadata) -> str:
    """Return the SHA-256 of a whole model and of all that is saved beside its weights: what a prediction depends on."""
    # How the work is cut is no part of it.
    spec = {key: value for key, value in model.spec().items() if key not in ModelConfig.unbound}
    return _sha256([spec, metadata.to_dict()], model)


def _sha256(facts: Any, module: torch.nn.Module) -> str:
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def load_weights(model: torch.nn.Module, state: Weights, source: str) -> None:
    """Load weights strictly.

    Raises:
        CheckpointError: If keys or shapes differ, or weights are no finite numbers; up to five of each are listed.
    """
    own = model.state_dict()
    missing, unexpected = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in sorted(set(own) & set(state))
        if own[key].shape != state[key].shape
    ]
    weights = [name for name, value in model.named_parameters() if name in state and value.is_floating_point()]
    unfit = [name for name in weights if not (state[name].is_floating_point() and state[name].float().isfinite().all())]
    problems = {
        "missing": missing, "unexpected": unexpected, "of another shape": shapes, "without finite fractions": unfit,
    }  # fmt: skip
    if any(problems.values()):
        listed = "; ".join(f"{len(keys)} {what}: {', '.join(keys[:5])}" for what, keys in problems.items() if keys)
        raise CheckpointError(f"{source} does not fit the model: {listed}")
    model.load_state_dict(state)


def load_parts(
    model: XT,
    source: str,
    parts: Sequence[str],
    names: Sequence[str] = (),
    named_heads: Sequence[str] = (),
    bands: Sequence[str] = (),
) -> None:
    """Load weights of some parts of a saved model.

    Heads that have a channel for each class, or each target, take those of the names that both models have, and say
    which start anew.

    Args:
        model: Its parts must be those of the saved one.
        source: Model folder or run folder.
        parts: Of :data:`PARTS`.
        names: Of the classes or targets of the model.
        named_heads: Heads that have a channel for each of them.
        bands: That the model is to read.

    Raises:
        CheckpointError: If the model is missing or damaged or a part does not fit; names the part.
    """
    saved, metadata = load_model(source)
    before = metadata.classes or tuple(metadata.settings.get("targets", ()))
    if "region_encoder" in parts and sorted(bands) == sorted(metadata.bands) and tuple(bands) != metadata.bands:
        text = f"{source} was trained on the bands {', '.join(metadata.bands)}, now they are {', '.join(bands)}"
        warnings.warn(f"{text}; give them in its order", XTWarning, stacklevel=2)
    for part in parts:
        state = getattr(saved, part).state_dict()
        if part == "heads" and before and tuple(names) not in ((), before):
            state = _by_name(model.heads.state_dict(), state, names, before, named_heads)
            known = [name for name in names if name in before]
            new = [name for name in names if name not in before]
            what = "classes" if metadata.classes else "targets"
            text = f"{source}: heads of the {what} {', '.join(known) or '(none)'} are taken"
            warnings.warn(f"{text}; {', '.join(new)} start anew" if new else text, XTWarning, stacklevel=2)
        try:
            load_weights(getattr(model, part), state, f"{source}: {part}")
        except CheckpointError as error:
            raise CheckpointError(f"{error}; leave {part} out of model.init_parts, or choose the same") from error


def _by_name(
    own: Weights, saved: Weights, names: Sequence[str], before: Sequence[str], heads: Sequence[str]
) -> Weights:
    """Weights of saved heads, with their channels where those of the same names stand in ``own``."""
    found = dict(saved)
    for key in own.keys() & saved.keys():
        if key.split(".")[0] in heads and len(saved[key]) == len(before):
            found[key] = own[key].clone()
            for index, each in enumerate(names):
                if each in before:
                    found[key][index] = saved[key][before.index(each)]
    return found


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); export the model again") from error
    if not isinstance(config, dict) or {"format", "sha256", "model", "metadata"} - set(config):
        raise CheckpointError(f"{path} is not an xT model; give a folder that xt train wrote")
    if config["format"] != FORMAT:
        raise CheckpointError(f"{path} has format {config['format']}, this version reads {FORMAT}; update xt")
    return config


def _metadata(folder: Path, config: dict[str, Any]) -> ModelMetadata:
    try:
        return ModelMetadata.from_dict(config["metadata"])
    except CheckpointError as error:
        raise CheckpointError(f"{folder / CONFIG}: {error}") from error
