"""What a measurement is of; names and numbers only, so that a process of its own can take it over."""

from dataclasses import dataclass

from xt.errors import ConfigError

FORWARD, BOTH = MODES = ("forward", "both")
"""Without gradients, as in prediction; forward and backward, as in training."""
CONTEXTS = "contexts"
_UNITS = {"k": 2**10, "m": 2**20}


@dataclass(frozen=True)
class Settings:
    """What all measurements of a run share.

    Attributes:
        device: ``"cpu"`` or ``"cuda"``.
        dtype: Name of a dtype of torch, such as ``"float32"``.
        threads: Threads of PyTorch.
        dim: Channels of a token, for context encoders.
        plugins: Modules that register context encoders.
    """

    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 1
    dim: int = 128
    plugins: tuple[str, ...] = ()

    @property
    def clock(self) -> str:
        """Which figure counts: time of the processor, which other work disturbs little, where one thread has it all."""
        return "cpu_seconds" if self.device == "cpu" and self.threads == 1 else "seconds"


@dataclass(frozen=True)
class Case:
    """One measurement.

    Attributes:
        kind: ``"contexts"``, or the name of an operation.
        side: Name of a context encoder or of a peer.
        tokens: Length of the sequence.
    """

    kind: str
    side: str
    tokens: int


def parse_tokens(text: str, option: str = "--tokens") -> tuple[int, ...]:
    """Read ``"4k,16k,1M"``, ascending; k is 1024 and M 1024².

    Args:
        text: As it was given.
        option: By which it was given.

    Raises:
        ConfigError: If it is no such list.
    """
    found = set()
    for each in text.lower().split(","):
        digits, unit = (each[:-1], _UNITS[each[-1]]) if each[-1:] in _UNITS else (each, 1)
        if not digits.isdecimal() or not int(digits):
            raise ConfigError(f"{option} {text}: {each!r} is no number of tokens; write such as 4k,16k,1M")
        found.add(int(digits) * unit)
    return tuple(sorted(found))
