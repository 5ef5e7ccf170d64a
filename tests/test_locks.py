import os
import socket
from pathlib import Path

import pytest

from xt.errors import OutputError
from xt.locks import locked


def test_second_holder_is_told_who_the_first_is(tmp_path: Path):
    with locked(tmp_path / "o.tif"):
        with pytest.raises(OutputError, match=f"by process {os.getpid()}"), locked(tmp_path / "o.tif"):
            pass
        assert len(list(tmp_path.iterdir())) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("holder", ["999999999 {host}", ""])
def test_stale_lock_is_taken_over(tmp_path: Path, holder: str):
    (tmp_path / ".run.lock").write_text(holder.format(host=socket.gethostname()))
    with locked(tmp_path / "run"):
        pass
    assert not list(tmp_path.iterdir())


def test_lock_of_another_host_is_respected(tmp_path: Path):
    (tmp_path / ".run.lock").write_text("1 elsewhere")
    with pytest.raises(OutputError, match="process 1 on elsewhere"), locked(tmp_path / "run"):
        pass
