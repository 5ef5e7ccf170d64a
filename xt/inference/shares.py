"""A scene whose work is shared among processes or machines that see the same folder, and what joins their shares.

A share decodes its own pixels, to the bit as a single run would, and leaves them in its job folder. Regions at its
border are encoded by its neighbour too.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import astuple
from pathlib import Path
from typing import Any

from xt.data.address import is_virtual, shown
from xt.errors import ConfigError, InputError, OutputError
from xt.files import locked
from xt.geometry.grid import Window
from xt.inference.creation import check_cog
from xt.inference.journal import entries, is_publishing, job, job_folder, remove_job, shares_of
from xt.inference.options import PredictOptions, Summary
from xt.inference.outcome import Counts, Outcome
from xt.inference.outputs import check_outputs, made_otherwise, output_files, read_report, refuse_inputs
from xt.inference.parts import PartWriter
from xt.inference.predict import bytes_needed, open_source, plan_of, work_on
from xt.inference.publish import publish
from xt.inference.report import facts_of
from xt.inference.stopwatch import Stopwatch
from xt.models.metadata import ModelMetadata
from xt.models.xt import XT
from xt.stopping import StopRequest
from xt.tasks.base import Task
from xt.tasks.registry import task_of


def predict_share(
    model: XT,
    metadata: ModelMetadata,
    path: Path,
    out: Path,
    options: PredictOptions,
    progress: Callable[[int, int], None] = lambda done, total: None,
    stop: StopRequest | None = None,
) -> Summary:
    """Do the share ``options.share`` of an image's work; :func:`merge` joins all shares.

    Takes and raises what :func:`~xt.inference.predict.predict_image` does. A share that was cut off goes on where its
    last commit was; one that is complete stays as it is.

    Raises:
        ConfigError: Also for ``context="full"``, which mixes the whole scene in one process.
    """
    if options.context == "full":
        raise ConfigError("--context full mixes a scene in one process; share images, or take --context windows")
    task = task_of(metadata).eval()
    source = open_source(path, metadata, options)
    check_cog(options.creation, task.product)
    plan = plan_of(model, metadata, source, options)
    files = output_files(out, task)
    refuse_inputs(files, [path, *options.limits])
    folder = job_folder(out, options.share)
    with locked(folder):
        facts = facts_of(model, metadata, source, plan, options)
        made = made_otherwise(out, path, facts | {"creation": options.creation})
        check_outputs(files, options.overwrite, bytes_needed(source, task) // options.share[1], made)
        with job(folder, facts, options.restart, keep=True) as journal:
            counts = work_on(model, task, source, plan, journal, options, progress, stop).counts
            journal.commit((journal.last or {}) | {"complete": _request(path, metadata, options)})
    return Summary(shown(path), str(out), counts.own, counts.empty, counts.bad)


def merge(out: Path, overwrite: bool = False) -> Summary:
    """Join the shares of a result and remove them.

    Args:
        out: The GeoTIFF for which :func:`predict_share` was called.
        overwrite: Replace files.

    Raises:
        InputError: If the image cannot be read or has changed since.
        OutputError: If a share is missing, at work, not complete, damaged or of another prediction (names it), or a
            file exists or cannot be written.
    """
    shares = shares_of(out)
    with ExitStack() as stack:
        for folder in shares.values():
            stack.enter_context(locked(folder))
        facts, complete = _complete(out, shares)
        path, metadata, options = _asked(complete[0]["complete"], overwrite)
        task = task_of(metadata).eval()
        files = output_files(out, task)
        for each in reversed(files):
            stack.enter_context(locked(each))
        summary = None if overwrite else _done_before(out, facts, options)
        if summary is None:
            source = open_source(path, metadata, options)
            if [list(state) for _, state in source.fingerprint] != [state for _, *state in facts["input"]]:
                raise InputError(f"{path}: has changed since its shares were predicted; predict them again")
            check_outputs(files, overwrite or is_publishing(out), bytes_needed(source, task) // 2)
            outcome = _joined(task, shares, complete)
            with job(job_folder(out), facts) as journal:
                summary = publish(task, source, outcome, files, options, facts, journal)
        for folder in shares.values():
            remove_job(folder)
    return summary


def merged_before(out: Path) -> Summary | None:
    """Return what was said of a result that is complete, and of which no share has been begun since; else None."""
    report = read_report(out) if out.parent.is_dir() and not shares_of(out) else None
    return None if report is None else Summary(**report["result"])


def _request(path: Path, metadata: ModelMetadata, options: PredictOptions) -> dict[str, Any]:
    """What :func:`merge` must know beside the facts, to be asked for nothing again."""
    return {
        "image": [str(path), str(path.absolute())],
        "metadata": metadata.to_dict(),
        "tile": options.tile,
        "bands": options.bands,
        "nodata": options.nodata,
        "aoi": None if options.aoi is None else str(options.aoi.absolute()),
        "mask": None if options.mask is None else str(options.mask.absolute()),
        "window": None if options.crop is None else astuple(options.crop),
        "complex_abs": options.complex_abs,
        "creation": options.creation,
    }


def _asked(request: Mapping[str, Any], overwrite: bool) -> tuple[Path, ModelMetadata, PredictOptions]:
    aoi, mask = (None if request[name] is None else Path(request[name]) for name in ("aoi", "mask"))
    options = PredictOptions(
        tile=request.get("tile"),
        bands=None if request["bands"] is None else tuple(request["bands"]),
        nodata=request["nodata"],
        aoi=aoi,
        mask=mask,
        crop=None if request["window"] is None else Window(*request["window"]),
        complex_abs=request["complex_abs"],
        creation=request["creation"],
        overwrite=overwrite,
    )
    given, absolute = map(Path, request["image"])
    return (
        given if is_virtual(given) or given.exists() else absolute,
        ModelMetadata.from_dict(request["metadata"]),
        options,
    )


def _complete(out: Path, shares: Mapping[tuple[int, int], Path]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the facts that all shares have in common, and the last commit of each."""
    sizes = {of for _, of in shares}
    if not sizes:
        raise OutputError(f"{out}: no share of it is here; predict them with --shard 1/N to N/N")
    if len(sizes) > 1:
        names = ", ".join(folder.name for folder in shares.values())
        raise OutputError(f"{out}: shares of different numbers ({names}); remove the folders that are not to be joined")
    (of,) = sizes
    facts, last = None, []
    for number in range(1, of + 1):
        found = entries(shares[number, of]) if (number, of) in shares else []
        if not found or "complete" not in found[-1]:
            raise OutputError(f"{out}: share {number}/{of} is not complete; run --shard {number}/{of} again")
        own = found[0] | {"creation": found[-1]["complete"]["creation"]}
        facts = facts or own
        different = [key for key in facts if facts[key] != own.get(key)]
        if different:
            raise OutputError(
                f"{out}: share {number}/{of} was made with another {different[0]}; make it again with --restart"
            )
        last.append(found[-1])
    assert facts is not None
    return {key: value for key, value in facts.items() if key != "creation"}, last


def _joined(task: Task, shares: Mapping[tuple[int, int], Path], complete: list[dict[str, Any]]) -> Outcome:
    outcome = Outcome([], Counts(), {}, Stopwatch())
    answers: dict[int, list[float] | None] = {}
    for folder, last in zip((shares[key] for key in sorted(shares)), complete, strict=True):
        with PartWriter(folder / "parts", task.product) as writer:
            if not writer.restore(last.get("parts", [])):
                raise OutputError(f"{folder}: parts are damaged; remove the folder and make the share again")
            outcome.parts.extend(writer.parts)
        for name, value in last.get("counts", {}).items():
            setattr(outcome.counts, name, getattr(outcome.counts, name) + value)
        answers |= {index: answer for index, answer in last.get("answers", [])}
        outcome.seconds.update(last.get("seconds", {}))
    outcome.answers = answers
    return outcome


def _done_before(out: Path, facts: Mapping[str, Any], options: PredictOptions) -> Summary | None:
    """What was said of the result, if a kill came between the last of its names and the removal of its shares."""
    report = read_report(out)
    wanted = {**facts, "creation": options.creation}
    if report is None or wanted != {key: report.get(key) for key in wanted}:
        return None
    return Summary(**report["result"])
