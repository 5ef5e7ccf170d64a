import os
import signal

import pytest

from xt.errors import Stopped
from xt.stopping import StopRequest


@pytest.mark.parametrize("rank", [None, "0", "1"])
def test_the_first_signal_is_a_request_that_the_first_process_tells_of(
    rank: str | None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest("window") as stop:
        stop.check()
        os.kill(os.getpid(), signal.SIGTERM)
        told = capfd.readouterr().err
        assert told == ("" if rank == "1" else "\nxt: stopping when this window is done; once more stops at once\n")
        with pytest.raises(Stopped) as ended:
            stop.check()
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
    assert ended.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) == before


def test_who_is_told_by_another_process_ends_as_by_sigterm_or_by_its_own_signal():
    stop = StopRequest()
    for number, code in ((None, 143), (signal.SIGINT, 130)):
        stop.received = number
        with pytest.raises(Stopped) as ended:
            stop.stop()
        assert ended.value.exit_code == code
