"""What a journal keeps of a job, and when the job is removed."""

import shutil
from pathlib import Path

import pytest

from xt.errors import InputError, OutputError
from xt.inference.journal import Journal, is_publishing, job, remove_job

HERE = Path(__file__).parent


def test_what_left_out_bad_tiles_does_not_go_on_without_them(tmp_path: Path):
    folder = tmp_path / ".o.tif.job"
    Journal(folder, {"a": 1, "on_bad_tile": "fail"}).commit({"unit": 0})
    again = Journal(folder, {"a": 1, "on_bad_tile": "nodata"})
    assert again.last == {"unit": 0}
    again.commit({"unit": 1})
    assert Journal(folder, {"a": 1, "on_bad_tile": "nodata"}).last == {"unit": 1}
    with pytest.raises(OutputError, match=r'begun with another on_bad_tile \("nodata", now "fail"\)'):
        Journal(folder, {"a": 1, "on_bad_tile": "fail"})


def test_a_journal_forgets_a_torn_line_and_keeps_the_others(tmp_path: Path):
    folder = tmp_path / ".o.tif.job"
    journal = Journal(folder, {"a": 1})
    for n in range(3):
        journal.commit({"unit": n, "text": "ö"})
    whole = journal.path.read_bytes()
    for cut in range(len(whole)):
        journal.path.write_bytes(whole[:cut])
        lines = whole[:cut].count(b"\n")
        again = Journal(folder, {"a": 1})
        assert (again.last or {"unit": -1})["unit"] == max(lines - 2, -1)
        if again.last is not None:
            again.commit({"unit": 9})
            assert Journal(folder, {"a": 1}).last == {"unit": 9}


def test_a_job_is_removed_when_it_is_done_or_cannot_be(tmp_path: Path):

    def fail(journal: Journal) -> None:
        journal.commit({"unit": 0})
        raise InputError("bad")

    out = tmp_path / "o.tif"
    with job(out, {}) as journal:
        journal.commit({"unit": 0})
        assert journal.folder.is_dir()
    assert not journal.folder.exists()
    with pytest.raises(InputError), job(out, {}) as journal:
        fail(journal)
    assert not journal.folder.exists()
    with pytest.raises(KeyboardInterrupt), job(out, {}):
        raise KeyboardInterrupt  # before anything was done
    assert not journal.folder.exists()


def test_what_is_left_of_a_killed_removal_is_no_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / ".o.tif.job"
    Journal(folder, {"a": 1}).commit({"unit": 0, "publishing": True})
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *args, **options: None)
        remove_job(folder)
    assert folder.exists()
    assert not is_publishing(tmp_path / "o.tif")
    assert Journal(folder, {"a": 2}).last is None
