"""Operations by name, and the gate: no figures of what is wrong."""

import functools
import importlib
from collections.abc import Mapping

import torch
from torch import Tensor

from xt.analysis.bench.measure import Run
from xt.analysis.bench.peers import Inputs, Op, Peer
from xt.analysis.bench.settings import Settings
from xt.errors import EXIT_BUG, ConfigError, XTError, nearest

OPS = ("selective_scan", "hyper_attention", "window_attention")
LIMITS = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 5e-3}
"""Relative error allowed, of the output and of each gradient."""


class WrongResultError(XTError):
    """An operation whose results are not those of its reference: a bug, so that its speed is of no interest."""

    exit_code = EXIT_BUG


def load(name: str) -> Op:
    """Return an operation.

    Raises:
        ConfigError: If none has that name; with the nearest one.
    """
    if name not in OPS:
        raise ConfigError(f"no operation is named {name!r}{nearest(name, OPS)}")
    op: Op = importlib.import_module(f"xt.analysis.bench.{name}").OP
    return op


def chosen(name: str, settings: Settings, wanted: list[str] | None = None) -> dict[str, Peer]:
    """Peers that are installed and take the dtype, ours first; of these the wanted ones.

    Raises:
        ConfigError: If a wanted one is not there; with the nearest one.
    """
    found = load(name).peers(settings.device)
    if settings.dtype != "float32":
        found = {each: peer for each, peer in found.items() if not peer.single}
    for each in wanted or ():
        if each not in found:
            where = f"{settings.dtype} on {settings.device}"
            raise ConfigError(f"--peers {each}: {name} has no such peer in {where}{nearest(each, found)}")
    return found if wanted is None else {each: found[each] for each in found if each in wanted}


def prepare(name: str, side: str, tokens: int, settings: Settings) -> Run:
    """Make a peer ready to run on inputs as a model has them."""
    op = load(name)
    return Run(op.peers(settings.device)[side].run, _drawn(name, tokens, settings), learned=op.learned)


def check(name: str, peers: Mapping[str, Peer], settings: Settings) -> dict[str, float]:
    """Compare the peers that an operation has with its reference in fp64, forward and all gradients, on small inputs.

    On a CPU the package's own are compared in fp64 too.

    Returns:
        Peer → largest relative error in the dtype of the settings.

    Raises:
        WrongResultError: If one is too large.
    """
    op, dtype = load(name), getattr(torch, settings.dtype)
    found: dict[str, float] = {}
    for each, peer in peers.items():
        if peer.oracle is None:
            continue
        dtypes = {dtype, torch.float64} if peer.ours and settings.device == "cpu" else {dtype}
        for one in dtypes:
            inputs = op.small(one, settings.device)
            exact = tuple(x.double() if x.is_floating_point() else x for x in inputs)
            got = _results(Run(peer.checked or peer.run, inputs, learned=op.learned), peer.backward)
            want = _results(Run(peer.oracle, exact, learned=op.learned), peer.backward)
            for index, (a, b) in enumerate(zip(got, want, strict=True)):
                error = float((a.double() - b).norm() / b.norm())
                if not error <= LIMITS[one]:  # NaN too
                    what = f"gradient of input {index}" if index else "output"
                    raise WrongResultError(
                        f"{name}: the {what} of {each!r} in {str(one)[6:]} is {error:.1g} off the reference in fp64, "
                        f"more than {LIMITS[one]:g}; no figures: run the tests in tests/kernels and mend it first"
                    )
                if one == dtype:
                    found[each] = max(found.get(each, 0.0), error)
    return found


def _results(run: Run, backward: bool) -> list[Tensor]:
    with torch.no_grad():
        shape = run.call(*run.inputs).shape if backward else ()
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return run(backward, grad)


@functools.lru_cache(maxsize=1)
def _drawn(name: str, tokens: int, settings: Settings) -> Inputs:
    return load(name).draw(tokens, getattr(torch, settings.dtype), settings.device)
