"""The class under test: how it is built, and how its faults are told."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from xt.errors import PluginError
from xt.testing.report import ContractFault, EncoderFault

RELATIVE = 1e-4
"""Difference of two fp32 answers, over the largest value, that counts as none."""
SEEN = 1e-6
"""Change of an answer, over the largest value, from which on what was changed counts as seen."""


@dataclass(frozen=True)
class Subject(ABC):
    """A class with the arguments it is tested with.

    Attributes:
        cls: The class.
        init_args: Its arguments beside those that a model supplies.
        contracts: What it must be a subclass of, one of these.
        kind: Of plug-ins, where its name is.
        call: How the kit is called, for messages.
        faults: What is raised.
    """

    cls: type[Any]
    init_args: Mapping[str, Any] = field(default_factory=dict)
    contracts: ClassVar[tuple[type, ...]]
    kind: ClassVar[str]
    call: ClassVar[str]
    faults: ClassVar[type[ContractFault]] = EncoderFault

    @property
    @abstractmethod
    def given(self) -> Mapping[str, Any]:
        """Arguments that a model supplies."""

    def __str__(self) -> str:
        """Write it as it is built."""
        arguments = ", ".join(f"{key}={value!r}" for key, value in {**self.given, **self.init_args}.items())
        return f"{self.cls.__name__}({arguments})"

    def fault(self, text: str) -> ContractFault:
        """Return a fault of the class, to be raised."""
        return self.faults(f"{self.cls.__name__} {text}")

    @contextmanager
    def named(self, what: str, advice: str) -> Iterator[None]:
        """Raise as a fault whatever the code of the class raises.

        Args:
            what: Completes "MyContext …", such as "fails on 7 tokens".
            advice: What to do.
        """
        try:
            yield
        except ContractFault:
            raise
        # Code from elsewhere may raise anything, and each is a fault of it that must be named.
        except Exception as error:
            said = next(iter(str(error).splitlines()), "")
            raise self.fault(f"{what}: {type(error).__name__}: {said}; {advice}") from error

    def build(self) -> Any:
        """Build in evaluation mode, with parameters moved a little: those that start at 0 would hide what others do."""
        torch.manual_seed(0)
        by_name = f" (a model gives {', '.join(self.given)} by name)" if self.given else ""
        with self.named("cannot be built", f"give the kit arguments that fit: {self.call}{by_name}"):
            try:
                module = self.cls(**self.given, **self.init_args)
            except PluginError as error:  # says all
                raise self.fault(f"cannot be built: {error}") from error
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in module.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.1 * noise.to(parameter) / math.sqrt(math.prod(parameter.shape[1:])))
        return module.eval()

    def finite(self, out: Tensor, where: str) -> None:
        """Raise a fault if an answer is not finite."""
        if not out.isfinite().all():
            raise self.fault(f"gives values that are not finite on {where}; look for a division by 0 or an overflow")


def told(value: object) -> str:
    """Write of what kind a value is that should be another."""
    return "nothing" if value is None else f"a {type(value).__name__}"


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two fp32 answers agree."""
    return bool((one - other).abs().max() <= RELATIVE * other.abs().max())


def seen(one: Tensor, other: Tensor) -> bool:
    """Whether a change of the tokens shows: two answers differ."""
    return bool((one - other).abs().max() > SEEN * other.abs().max())
