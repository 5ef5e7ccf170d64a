"""Writes a model as one file that other runtimes run, ``.pt2`` or ``.onnx``, and checks it before it gets its name."""

import importlib.util
import io
import logging
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from xt.errors import ConfigError, ModelError, OutputError
from xt.files import locked, replacing
from xt.inference.exported import INPUT, ExportedModel, facts
from xt.inference.outputs import check_outputs
from xt.models.context.base import ContextEncoder
from xt.models.decoders.base import Decoder
from xt.models.metadata import ModelMetadata
from xt.models.region.base import RegionEncoder
from xt.models.xt import XT
from xt_kernels import dispatch

Format = Literal["pt2", "onnx"]
TOLERANCE = 1e-4
"""Largest difference between the file and the model, over the largest value, at least 1; or share of other classes."""
LIMIT = 2**31
"""Bytes of one ONNX file."""
PARTS = {RegionEncoder: "region encoder", ContextEncoder: "context encoder", Decoder: "decoder"}


@dataclass(frozen=True)
class Export:
    """A file that was written.

    Attributes:
        path: The file.
        input: Shape of ``image``; -1 is any number.
        outputs: Name → shape.
        difference: Largest one found between file and model, over the largest value of the output, at least 1.
        num_bytes: Of the file.
    """

    path: Path
    input: tuple[int, ...]
    outputs: dict[str, tuple[int, ...]]
    difference: float
    num_bytes: int


def export_model(
    model: XT,
    metadata: ModelMetadata,
    path: Path,
    format: Format | None = None,
    size: tuple[int, int] | None = None,
    batch: int | None = 1,
    overwrite: bool = False,
) -> Export:
    """Write a model as one graph (:class:`~xt.inference.exported.ExportedModel`).

    Args:
        model: On the CPU, in evaluation mode.
        metadata: Of the model.
        path: File to write.
        format: That of the file's suffix by default.
        size: Height and width of images; the size of the training images by default.
        batch: Images that the file takes at a time; None for any number.
        overwrite: Replace the file.

    Raises:
        ConfigError: If an option is wrong, or a package is missing.
        ModelError: If the model cannot be exported; names the part.
        OutputError: If the file exists or cannot be written, or gives other values than the model.
    """
    format = _format(path, format)
    size = size or (metadata.image_size, metadata.image_size)
    if min(*size, 1 if batch is None else batch) < 1:
        raise ConfigError(f"size {size[0]}x{size[1]} and batch {batch} must be at least 1")
    weights = sum(each.numel() * each.element_size() for each in model.state_dict().values())
    if format == "onnx" and weights >= LIMIT:
        raise ConfigError(f"{path}: an ONNX file ends at 2 GB, and the weights have {weights / 1e9:.1f} GB; write .pt2")
    exported = ExportedModel(model, metadata, size)
    # Any number of images is traced with another one than it is checked with.
    first, image = (exported.example(count) for count in ((2, 3) if batch is None else (batch, batch)))
    check_outputs([path], overwrite, weights)
    with locked(path):
        check_outputs([path], overwrite, weights)  # somebody may have put one there meanwhile
        with torch.no_grad():
            want = exported(image)
        with torch.no_grad(), _quiet():
            program = _traced(exported, first, batch is None)
            _check_graph(program, format)
            with replacing(path) as partial:
                found = _written(format, program, partial, facts(model, metadata), image, list(want))
                difference = _compare(path, found, want)
                num_bytes = partial.stat().st_size

    def shape(tensor: Tensor) -> tuple[int, ...]:
        return (-1 if batch is None else batch, *tensor.shape[1:])

    return Export(path, shape(image), {name: shape(each) for name, each in want.items()}, difference, num_bytes)


def _format(path: Path, asked: Format | None) -> Format:
    suffix = path.suffix.lower().removeprefix(".")
    known = get_args(Format)
    if suffix not in known or (asked and asked != suffix):
        raise ConfigError(f"{path}: name it .{asked}" if asked else f"{path}: name it .pt2 or .onnx")
    found: Format = "pt2" if suffix == "pt2" else "onnx"
    lacking = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if found == "onnx" and lacking:
        raise ConfigError(f"{path}: {lacking[0]} is not installed; pip install 'xt[onnx]'")
    return found


def _traced(exported: ExportedModel, image: Tensor, any_batch: bool) -> ExportedProgram:
    shapes = {INPUT: {0: Dim("batch")}} if any_batch else None
    with dispatch.using(dispatch.PORTABLE):
        try:
            exported(image)  # draws what is drawn once, which the graph then holds as it is
            return torch.export.export(exported, (image,), dynamic_shapes=shapes, strict=False)
        except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
            more = "; it may be for a number of images: --batch 1" if any_batch else ""
            raise ModelError(f"{_part_of_error(error)} cannot be exported: {_line(error)}{more}") from error


def _check_graph(program: ExportedProgram, format: Format) -> None:
    """Refuse what no file can hold.

    Raises:
        ModelError: If a part draws random numbers, or has an operator that ONNX has not.
    """
    for node in program.graph.nodes:
        if not isinstance(node.target, torch._ops.OpOverload):
            continue
        name = str(node.target)
        if _draws(node):
            raise ModelError(f"{_part_of_node(node)} cannot be exported: it draws random numbers ({name})")
        if format == "onnx" and node.target.namespace not in ("aten", "prims"):
            raise ModelError(
                f"{_part_of_node(node)} cannot be exported as ONNX, which has no operator {name}; write .pt2"
            )


def _draws(node: torch.fx.Node) -> bool:
    """Whether an operator draws random numbers, and is not told that it is not in training."""
    assert isinstance(node.target, torch._ops.OpOverload)
    if torch.Tag.nondeterministic_seeded not in node.target.tags:
        return False
    names = [each.name for each in node.target._schema.arguments]
    given = dict(zip(names, node.args, strict=False)) | node.kwargs
    # Dropout, and attention, which may drop out.
    return given.get("train", True) is not False and ("dropout_p" not in names or bool(given.get("dropout_p")))


def _write_pt2(
    program: ExportedProgram, path: Path, told: dict[str, str], image: Tensor, names: list[str]
) -> dict[str, Tensor]:
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # paths of this machine
    torch.export.save(program, path, extra_files=told)
    found: dict[str, Tensor] = torch.export.load(path).module()(image)
    return found


def _write_onnx(
    program: ExportedProgram, path: Path, told: dict[str, str], image: Tensor, names: list[str]
) -> dict[str, Tensor]:
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    converted: Any = torch.onnx.export(program, dynamo=True, verbose=False, input_names=[INPUT], output_names=names)
    for graph in (converted.model.graph, *converted.model.functions.values()):
        for node in graph.all_nodes():
            node.metadata_props.clear()  # paths of this machine
    converted.model.metadata_props.update(told)
    converted.save(path, external_data=False)
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        values = session.run(names, {INPUT: image.numpy()})
    except (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.NotImplemented,
        state.RuntimeException,
    ) as error:
        raise RuntimeError(f"ONNX Runtime: {error}") from error
    return {name: torch.from_numpy(value) for name, value in zip(names, values, strict=True)}


def _written(format: Format, program: ExportedProgram, path: Path, *given: Any) -> dict[str, Tensor]:
    """Write a file and return what it gives of an image."""
    try:
        return _WRITERS[format](program, path, *given)
    except (RuntimeError, ValueError) as error:  # of converters, which do not say for which part
        other = {"pt2": ".onnx", "onnx": ".pt2"}[format]
        raise ModelError(f"the model cannot be written as .{format}: {_line(error)}; try {other}") from error


_WRITERS: dict[Format, Callable[..., dict[str, Tensor]]] = {"pt2": _write_pt2, "onnx": _write_onnx}


def _compare(path: Path, found: dict[str, Tensor], want: dict[str, Tensor]) -> float:
    """Return the largest difference.

    Raises:
        OutputError: If it is more than :data:`TOLERANCE`.
    """
    worst = 0.0
    for name, right in want.items():
        value = found[name]
        if value.shape != right.shape or value.dtype != right.dtype:
            raise OutputError(f"{path} is not written: {name} would be {value.dtype} {tuple(value.shape)}")
        if right.is_floating_point():
            numbers = right.isfinite()
            scale = max(1.0, float(right[numbers].abs().max())) if numbers.any() else 1.0
            unequal = torch.where(numbers, (value - right).abs() / scale, (value.isnan() != right.isnan()).float())
            difference = float(unequal.nan_to_num(torch.inf, torch.inf).max())
        else:
            difference = float((value != right).float().mean())
        if difference > TOLERANCE:
            raise OutputError(
                f"{path} is not written: its {name} would differ from the model's by {difference:.2g} of the largest "
                f"value, more than {TOLERANCE:g}"
            )
        worst = max(worst, difference)
    return worst


def _part_of_error(error: BaseException) -> str:
    """Name the part of the model in which an error, or what caused it, came up."""
    found, seen = "the model", error
    while seen is not None:
        for frame, _ in traceback.walk_tb(seen.__traceback__):
            owner = frame.f_locals.get("self")
            for kind, words in PARTS.items():
                if isinstance(owner, kind):
                    found = f"{words} {type(owner).__name__}"
        seen = seen.__cause__  # type: ignore[assignment]
    return found


def _part_of_node(node: torch.fx.Node) -> str:
    """Name the part of the model that a node of its graph comes from."""
    stack = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
    types = [kind for _, kind in node.meta.get("nn_module_stack", {}).values()]
    for place, words in (
        ("model.region_encoder", "region encoder"), ("model.context.encoder", "context encoder"),
        ("model.decoder", "decoder"),
    ):  # fmt: skip
        for path, kind in zip(stack, types, strict=True):
            if path.endswith(place):
                return f"{words} {str(kind).rpartition('.')[2]}"
    return "the model"


def _line(error: BaseException) -> str:
    """The first line of what caused an error first."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what converters say to their developers to themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
