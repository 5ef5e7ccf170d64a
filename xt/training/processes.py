"""How many processes share a work, and how the other ones of a training ended."""

import signal
from pathlib import Path

import yaml
from lightning.pytorch import Trainer

DEVICES = "--trainer.devices"


def alone(config: Path) -> list[str]:
    """Overrides by which one process does the work, on the first of the devices that the config of a run names."""
    devices = ((yaml.safe_load(config.read_text(encoding="utf-8")) or {}).get("trainer") or {}).get("devices")
    if isinstance(devices, str) and "," in devices:  # numbers of GPUs
        devices = [each for each in devices.split(",") if each.strip()]
    one = f"[{devices[0]}]" if isinstance(devices, list) and devices else "1"
    return [f"{DEVICES}={one}", "--trainer.num_nodes=1", "--trainer.strategy=auto"]


def how_others_ended(trainer: Trainer) -> str:
    """Say which of the processes that this one has started have failed and how: ``process 1, by SIGKILL``."""
    started = getattr(getattr(trainer.strategy, "launcher", None), "procs", [])
    ended = [(rank, each.poll()) for rank, each in enumerate(started, start=1)]
    return ", ".join(f"process {rank}, {_how(code)}" for rank, code in ended if code)


def _how(code: int) -> str:
    return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
