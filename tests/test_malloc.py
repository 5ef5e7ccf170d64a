import os
import subprocess
import sys
from pathlib import Path

import pytest

from xt.malloc import HUGE_PAGES

ASK = """
import re
from pathlib import Path
from xt.cli.main import main
main(["--version"])
import torch
tensor = torch.ones(16 << 20)
address = tensor.data_ptr() + (32 << 20)
maps = re.split(r"^([0-9a-f]+)-([0-9a-f]+) ", Path("/proc/self/smaps").read_text(), flags=re.M)
for start, end, rest in zip(maps[1::3], maps[2::3], maps[3::3]):
    if int(start, 16) <= address < int(end, 16):
        print("huge" if " hg" in rest.split("VmFlags:")[1] else "small")
"""
THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")
pytestmark = pytest.mark.skipif(not THP.exists(), reason="this kernel has no transparent huge pages")


def pages(**variables: str) -> str:
    """What pages are asked for under a large tensor of a process that runs ``xt``."""
    env = {name: value for name, value in os.environ.items() if name != HUGE_PAGES} | variables
    return subprocess.run([sys.executable, "-c", ASK], env=env, capture_output=True, text=True).stdout.split()[-1]


def test_large_tensors_ask_for_huge_pages():
    assert pages() == "huge"


def test_who_sets_the_variable_decides():
    assert pages(**{HUGE_PAGES: "0"}) == "small"
