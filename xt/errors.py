"""Errors for the user: one line that says what is wrong, where, and what to do.

Every class here is a ``ValueError``. The command line prints the message without a traceback (``-v`` shows it)
and exits with the class's ``exit_code``. Our own invariants use ``assert`` instead.
"""

import difflib
from collections.abc import Iterable

EXIT_OK = 0
EXIT_BUG = 1
EXIT_USAGE = 2
EXIT_SOME_FAILED = 3
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class XTError(ValueError):
    """Base of every error that is the user's to mend."""

    exit_code = EXIT_USAGE


class ConfigError(XTError):
    """A wrong option, key, type or value in a config or on the command line."""


class MemoryLimitError(ConfigError):
    """An image for which the memory that may be taken is too little."""


class PluginError(ConfigError):
    """A name that no built-in class and no plug-in answers to, or a plug-in that cannot be used."""


class BrokenPluginError(PluginError):
    """An installed plug-in that cannot be imported, or is no class."""


class GeometryError(XTError):
    """Sizes that do not fit together."""


class ModelError(XTError):
    """Parts of a model that do not fit together (channels, strides, region sizes)."""


class CheckpointError(XTError):
    """A checkpoint or model folder that is missing, corrupt, or of another model."""


class InputError(XTError):
    """An input file (raster, image, shard) that cannot be read as what it should be."""

    exit_code = EXIT_SOME_FAILED


class ReadError(InputError):
    """Pixels of an image that can be opened cannot be read, perhaps for now."""


class LabelError(XTError):
    """Label rows that are not valid."""


class OutputError(XTError):
    """An output that exists, cannot be written, or is held by another run."""


class TrainingError(XTError):
    """Training that must not go on (NaN loss, dead worker)."""

    exit_code = EXIT_SOME_FAILED


def memory_is_full(error: BaseException) -> str | None:
    """What to say of an error that means that memory is full, the GPU's or the machine's; None of any other."""
    reason = (str(error).splitlines() or ["no more is to be had"])[0]
    if type(error).__name__ == "OutOfMemoryError":  # PyTorch's, which is not imported for it
        return f"the GPU's memory is full ({reason})"
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in reason:
        return f"memory is full ({reason})"
    return None


class XTWarning(UserWarning):
    """Something that the user should know, though the work goes on. The command line prints it in one line."""


class Stopped(BaseException):
    """A signal asked to stop. No ``Exception``, so that nothing on the way up takes it for a failure.

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


def at_least(minimum: int, where: str, **values: float | None) -> None:
    """Check that values which are given are numbers not below a minimum.

    Args:
        minimum: Lowest value allowed.
        where: Path of the keys in the config, such as ``data.init_args``.
        **values: Key → value.

    Raises:
        ConfigError: If one is lower; names its key.
    """
    for key, value in values.items():
        if value is not None and not value >= minimum:
            raise ConfigError(f"{where}.{key} is {value}; it must be at least {minimum}")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known name, or the known names (up to 12) when none is near.

    Args:
        name: What the user wrote.
        known: The valid names.
    """
    names = sorted(known)
    matches = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if matches:
        return f"; did you mean {matches[0]!r}?"
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f"; known: {', '.join(names[:12])}{more}" if names else ""
