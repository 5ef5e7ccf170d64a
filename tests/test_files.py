import errno
import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from xt import files
from xt.errors import OutputError
from xt.files import locked, previous, remove_partials, replacing, replacing_all, replacing_folder


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def fail(partial: Path, error: BaseException) -> None:
    partial.write_text("new")
    partial.with_name(partial.name + "-journal").write_text("what SQLite leaves")
    raise error


def write(partials: list[Path]) -> None:
    for partial in partials:
        partial.write_text("new")


@pytest.fixture
def umask():
    """Set the umask for one test."""
    old = os.umask(0o022)
    yield os.umask
    os.umask(old)


class TestReplacing:
    def test_name_appears_only_when_the_file_is_complete(self, tmp_path: Path):
        with replacing(tmp_path / "a" / "q.tif") as partial:
            partial.write_text("new")
            assert (partial.parent, partial.suffix) == (tmp_path / "a", ".tif")
            assert names(tmp_path / "a") == [partial.name]
        assert names(tmp_path / "a") == ["q.tif"]

    def test_two_writers_never_share_a_partial(self, tmp_path: Path):
        with (
            replacing(tmp_path / "q.tif") as a,
            replacing(tmp_path / "q.tiff") as b,
            replacing(tmp_path / "q.tif") as c,
        ):
            assert len({a.stem, b.stem, c.stem}) == 3
            for each in (a, b, c):
                each.write_text(each.suffix)

    def test_content_is_on_the_disk_before_the_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        calls: list[str] = []
        for name in ("fsync", "replace"):
            plain = getattr(os, name)
            monkeypatch.setattr(files.os, name, lambda *a, n=name, f=plain: (calls.append(n), f(*a)))
        with replacing(tmp_path / "q.tif") as partial:
            partial.write_text("new")
        with replacing_folder(tmp_path / "m") as partial:
            (partial / "w").write_text("new")
        assert calls == ["fsync", "replace"] * 2

    @pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
    def test_mode_is_that_of_the_umask(self, tmp_path: Path, umask, mask: int, mode: int):
        umask(mask)
        with replacing(tmp_path / "q.tif") as partial:
            os.close(os.open(partial, os.O_CREAT, 0o600))
        assert stat.S_IMODE((tmp_path / "q.tif").stat().st_mode) == mode
        with replacing_folder(tmp_path / "m") as partial:
            os.close(os.open(partial / "w", os.O_CREAT, 0o600))
        assert stat.S_IMODE((tmp_path / "m").stat().st_mode) == 0o777 & ~mask
        assert stat.S_IMODE((tmp_path / "m/w").stat().st_mode) == mode

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left"), ValueError("x")])
    def test_failure_leaves_the_old_and_nothing_else(self, tmp_path: Path, error: BaseException):
        path = tmp_path / "q.gpkg"
        path.write_text("old")
        want = OutputError if isinstance(error, OSError) else type(error)
        with pytest.raises(want), replacing(path) as partial:
            fail(partial, error)
        assert path.read_text() == "old"
        assert names(tmp_path) == ["q.gpkg"]

    def test_error_is_one_line_with_path_reason_and_what_to_do(self, tmp_path: Path):
        with pytest.raises(OutputError) as caught, replacing(tmp_path / "q.tif"):
            raise OSError(errno.ENOSPC, "No space left on device")
        assert str(caught.value) == (
            f"{tmp_path}/q.tif cannot be written: No space left on device; "
            f"free space or check the rights in {tmp_path}, what stood there is kept"
        )

    def test_file_in_place_of_a_folder_is_said(self, tmp_path: Path):
        (tmp_path / "file").write_text("x")
        with pytest.raises(OutputError, match=r"file/q\.tif cannot be written"), replacing(tmp_path / "file/q.tif"):
            pytest.fail("must not start")

    def test_files_that_belong_together_change_together(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        paths = [tmp_path / name for name in ("q.csv", "q.gpkg", "q.tif")]
        paths[0].write_text("old")
        paths[2].write_text("old")
        plain = os.replace

        def refuse(source: Path, target: Path) -> None:
            if target == paths[2]:
                raise PermissionError(errno.EPERM, "Operation not permitted")
            plain(source, target)

        monkeypatch.setattr(files.os, "replace", refuse)
        with pytest.raises(OutputError, match="not permitted"), replacing_all(paths) as partials:
            write(partials)
        assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"q.csv": "old", "q.tif": "old"}
        monkeypatch.undo()
        with replacing_all(paths) as partials:
            write(partials)
        assert {p.name: p.read_text() for p in tmp_path.iterdir()} == dict.fromkeys(names(tmp_path), "new")


class TestReplacingFolder:
    def test_new_folder_replaces_the_old(self, tmp_path: Path):
        for text in ("old", "new"):
            with replacing_folder(tmp_path / "m") as partial:
                (partial / "w").write_text(text)
        assert names(tmp_path) == ["m"]
        assert (tmp_path / "m/w").read_text() == "new"

    def test_failure_leaves_the_old(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        (tmp_path / "m").mkdir()
        (tmp_path / "m/w").write_text("old")
        plain, calls = os.replace, []

        def refuse(source: Path, target: Path) -> None:
            calls.append(target)
            if len(calls) == 2:
                raise OSError(errno.EIO, "Input/output error")
            plain(source, target)

        monkeypatch.setattr(files.os, "replace", refuse)
        with pytest.raises(OutputError, match="Input/output"), replacing_folder(tmp_path / "m") as partial:
            (partial / "w").write_text("new")
        assert names(tmp_path) == ["m"]
        assert (tmp_path / "m/w").read_text() == "old"

    def test_kill_between_the_renames_leaves_the_old_readable(self, tmp_path: Path):
        (tmp_path / "m").mkdir()
        (tmp_path / "m/w").write_text("old")
        code = """
import os, sys
from pathlib import Path
from xt import files
plain = os.replace
files.os.replace = lambda a, b: os._exit(9) if Path(b).name == "m" else plain(a, b)
with files.replacing_folder(Path(sys.argv[1])) as partial:
    (partial / "w").write_text("new")
"""
        assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "m")]).returncode == 9
        assert (previous(tmp_path / "m") / "w").read_text() == "old"
        with locked(tmp_path / "m"), replacing_folder(tmp_path / "m") as partial:
            (partial / "w").write_text("new")
        assert names(tmp_path) == ["m"]

    def test_files_of_the_user_are_kept(self, tmp_path: Path):
        (tmp_path / "m").mkdir()
        (tmp_path / "m/notes.txt").write_text("mine")
        with pytest.raises(OutputError, match=r"holds notes\.txt"), replacing_folder(tmp_path / "m") as partial:
            (partial / "w").write_text("new")
        assert (tmp_path / "m/notes.txt").read_text() == "mine"
        assert names(tmp_path) == ["m"]

    def test_link_is_followed(self, tmp_path: Path):
        (tmp_path / "big").mkdir()
        (tmp_path / "m").symlink_to(tmp_path / "big")
        with replacing_folder(tmp_path / "m") as partial:
            (partial / "w").write_text("new")
        assert (tmp_path / "m").is_symlink()
        assert names(tmp_path / "big") == ["w"]
        assert previous(tmp_path / "m") == tmp_path / ".big.previous"


HOLD = """
import sys
from pathlib import Path
from xt.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


class TestLocked:
    def test_second_holder_is_told_who_the_first_is(self, tmp_path: Path):
        with locked(tmp_path / "o.tif"):
            who = f"o.tif is being written by process {os.getpid()} on {socket.gethostname()}; wait"
            with pytest.raises(OutputError, match=who), locked(tmp_path / "o.tif"):
                pytest.fail("two hold it")
            assert names(tmp_path) == [".o.tif.lock"]
        assert names(tmp_path) == []

    def test_kernel_drops_the_lock_of_a_killed_process(self, tmp_path: Path):
        path = tmp_path / "run"
        with subprocess.Popen(
            [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as holder:
            holder.stdout.readline()
            with pytest.raises(OutputError, match=f"process {holder.pid} "), locked(path):
                pytest.fail("two hold it")
            holder.send_signal(signal.SIGKILL)
            holder.wait()
        assert names(tmp_path) == [".run.lock"]
        with locked(path):
            pass
        assert names(tmp_path) == []

    @pytest.mark.parametrize("text", ["", "1 elsewhere", "process 1 on elsewhere", "OWN here"])
    def test_file_that_nobody_holds_blocks_nobody(self, tmp_path: Path, text: str):
        (tmp_path / ".run.lock").write_text(text.replace("OWN", str(os.getpid())))
        with locked(tmp_path / "run"):
            with pytest.raises(OutputError, match=f"process {os.getpid()}"), locked(tmp_path / "run"):
                pytest.fail("two hold it")

    def test_empty_lock_file_of_a_living_holder_holds(self, tmp_path: Path):
        with (tmp_path / ".run.lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            with pytest.raises(OutputError, match="by another process"), locked(tmp_path / "run"):
                pytest.fail("two hold it")

    def test_lock_on_a_file_that_was_unlinked_meanwhile_counts_for_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        plain, calls = fcntl.flock, []

        def late(handle: int, how: int) -> None:
            calls.append(handle)
            if len(calls) == 1:  # between open and flock the holder finishes, and a third process starts
                (tmp_path / ".run.lock").unlink()
                third = os.open(tmp_path / ".run.lock", os.O_CREAT | os.O_RDWR)
                plain(third, how)
            plain(handle, how)

        monkeypatch.setattr(files.fcntl, "flock", late)
        with pytest.raises(OutputError, match="another process"), locked(tmp_path / "run"):
            pytest.fail("two hold it")

    def test_drive_without_locks_is_warned_of(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        def unknown(handle: int, how: int) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(files.fcntl, "flock", unknown)
        stale = tmp_path / f".o.tif.{'0' * 16}.partial.tif"
        stale.write_text("perhaps another run is writing it")
        with pytest.warns(UserWarning, match=r"without locks: do not write o\.tif twice"), locked(tmp_path / "o.tif"):
            pass
        assert names(tmp_path) == [stale.name]

    def test_link_in_place_of_the_lock_file_is_not_followed(self, tmp_path: Path):
        (tmp_path / "mine").write_text("mine")
        (tmp_path / ".o.tif.lock").symlink_to(tmp_path / "mine")
        with pytest.raises(OutputError), locked(tmp_path / "o.tif"):
            pytest.fail("must not start")
        assert (tmp_path / "mine").read_text() == "mine"

    def test_holder_removes_what_killed_runs_left_of_this_output_only(self, tmp_path: Path):
        token = "0123456789abcdef"
        stale = [f".o.tif.{token}.partial.tif", f".o.tif.{token}.partial.tif.aux.xml"]
        kept = [f".o.tiff.{token}.partial.tiff", ".o.tif.partial", f".xo.tif.{token}.partial.tif", "o.tif"]
        for name in stale + kept:
            (tmp_path / name).write_text("x")
        (tmp_path / f".m.{token}.partial").mkdir()
        with locked(tmp_path / "o.tif"):
            assert names(tmp_path) == sorted([*kept, ".o.tif.lock", f".m.{token}.partial"])
        remove_partials(tmp_path / "m")
        assert names(tmp_path) == sorted(kept)


def test_only_this_module_renames_and_locks():
    root = Path(files.__file__).parent
    found = [
        f"{path.relative_to(root)}: {line.strip()}"
        for path in sorted(root.rglob("*.py"))
        if path.name != "files.py"
        for line in path.read_text().splitlines()
        if any(call in line for call in ("os.replace(", "os.rename(", "shutil.move(", "flock(", "mkstemp", "NamedTemp"))
    ]
    assert found == []
