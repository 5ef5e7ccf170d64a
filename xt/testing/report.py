"""What the kit says: a fault, or a report of all that was checked."""

from dataclasses import dataclass


class ContractFault(AssertionError):
    """A class does not keep its contract: one line with the class, the fault, and what to do."""


class EncoderFault(ContractFault):
    """That of a context encoder or a region encoder."""


class DecoderFault(ContractFault):
    """That of a decoder."""


class DoesNotApplyError(Exception):
    """A check that says nothing of a class of this kind; the message is the reason."""


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: Its name.
        text: What was checked, or why it does not apply.
        applies: Whether it was checked.
    """

    check: str
    text: str
    applies: bool = True


@dataclass(frozen=True)
class Report:
    """All that was checked of a class without a fault; printed, a line for each check.

    Attributes:
        encoder: The class and the arguments that it was built with.
        findings: In the order of the checks.
    """

    encoder: str
    findings: tuple[Finding, ...]

    def __str__(self) -> str:
        """Lay out as text."""
        passed = sum(finding.applies for finding in self.findings)
        width = max((len(finding.check) for finding in self.findings), default=0)
        lines = [f"{self.encoder}: {passed} checks passed, {len(self.findings) - passed} not made"]
        for finding in self.findings:
            lines.append(f"  {finding.check:{width}}  {'ok' if finding.applies else '- '}  {finding.text}")
        return "\n".join(lines)
