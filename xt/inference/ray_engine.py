"""The shares of an image as tasks on a Ray cluster whose nodes see one folder.

Ray runs a task again when its node or process dies, so at least once; the journal of the share makes it exactly once.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from xt.errors import ConfigError, XTError
from xt.inference.options import PredictOptions, Summary
from xt.inference.session import TrainedModel, load
from xt.inference.shares import merge, predict_share
from xt.stopping import StopRequest

SHARES_PER_SLOT = 2
"""So that a node which is late, or lost, does not hold up the others for half of the work."""


def predict_on_ray(
    model: Path,
    image: Path,
    out: Path,
    options: PredictOptions,
    address: str | None = None,
    device: str | None = None,
    plugins: Sequence[str] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
    stop: StopRequest | None = None,
) -> Summary:
    """Predict one image on all nodes of a cluster; a share takes a GPU, or a node where there is none.

    Args:
        model: Run or model folder, which all nodes see, as they see the image and the folder of ``out``.
        image: As in :func:`~xt.inference.predict.predict_image`.
        out: As in :func:`~xt.inference.predict.predict_image`.
        options: As in :func:`~xt.inference.predict.predict_image`, without a share.
        address: Of the cluster, as Ray takes it; None for the one that ``RAY_ADDRESS`` names, or else this machine.
        device: As in :func:`~xt.inference.session.load`, on each node.
        plugins: Modules to import on each node.
        progress: Called with shares done and shares in all.
        stop: Asked every second.

    Raises:
        ConfigError: If Ray is not installed or the cluster cannot be reached, or for what shares cannot do.
        XTError: As the shares and their merge raise it; what other shares have done is kept.
    """
    ray = _connected(address)
    try:
        needs, slots = _slots(ray.nodes(), device)
        shares = SHARES_PER_SLOT * slots
        remote = ray.remote(_share).options(max_retries=-1, scheduling_strategy="SPREAD", **needs)
        of = (os.getcwd(), model, tuple(plugins), device, image, out)
        pending = [remote.remote(*of, replace(options, share=(each, shares))) for each in range(1, shares + 1)]
        progress(0, shares)
        while pending:
            done, pending = ray.wait(pending, timeout=1)
            if stop is not None:
                stop.check()
            ray.get(done)
            if done:
                progress(shares - len(pending), shares)
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, XTError) else error) from None
    finally:
        ray.shutdown()  # ends what still runs; a share keeps what it has committed
    return merge(out, options.overwrite)


def _connected(address: str | None) -> Any:
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--engine ray needs Ray; install it: pip install 'xt[ray]'") from error
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error", include_dashboard=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(f"--address {address}: {(str(error).splitlines() or [type(error).__name__])[0]}") from error
    return ray


def _slots(nodes: Sequence[Any], device: str | None) -> tuple[dict[str, float], int]:
    """What a share takes of a node, and how many fit into the cluster."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = [node for node in alive if node.get("GPU", 0) >= 1]
    if gpus and device != "cpu":
        return {"num_gpus": 1, "num_cpus": min(node.get("CPU", 0) // node["GPU"] for node in gpus)}, sum(
            int(node["GPU"]) for node in gpus
        )
    cpus = min(node["CPU"] for node in alive if node.get("CPU", 0) >= 1)
    return {"num_cpus": cpus}, sum(int(node.get("CPU", 0) // cpus) for node in alive)


def _share(
    folder: str,
    model: Path,
    plugins: tuple[str, ...],
    device: str | None,
    image: Path,
    out: Path,
    options: PredictOptions,
) -> Summary:
    os.chdir(folder)  # relative names mean what they mean to who asked
    trained = _loaded(model, device, plugins)
    return predict_share(trained.network, trained.metadata, image, out, options)


@lru_cache(maxsize=1)
def _loaded(model: Path, device: str | None, plugins: tuple[str, ...]) -> TrainedModel:
    return load(model, device, plugins)
