import gc
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.env import hasenv
from rasterio.transform import Affine
from rasters import UTM, noise, write

from xt.data import handles, source
from xt.data.geotiff import open_dataset
from xt.data.masks import MaskReader
from xt.data.raster_values import ValueReader
from xt.data.source import InputSpec, Source
from xt.errors import InputError
from xt.geometry.grid import Window

ALL = Window(0, 0, 30, 40)
SPEC = InputSpec(("a",), (0.0,), (1.0,))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """Thread and name of every file that is opened for reading windows."""
    found: list[tuple[int, str]] = []

    def spy(path: Path, *args: object, **options: object) -> object:
        found.append((threading.get_ident(), Path(path).name))
        return open_dataset(path, *args, **options)

    monkeypatch.setattr(source, "open_dataset", spy)
    return found


def num_files() -> int:
    gc.collect()
    return sum(
        os.readlink(f"/proc/self/fd/{fd}").endswith(".tif")
        for fd in os.listdir("/proc/self/fd")
        if os.path.islink(f"/proc/self/fd/{fd}")
    )


def test_a_file_is_opened_once_for_many_windows(tmp_path: Path, opened: list):
    image = Source(write(tmp_path / "a.tif", noise(30, 40)), SPEC)
    opened.clear()
    for row in range(25):
        image.read(Window(row, 0, 5, 40))
    assert len(opened) == 1


def test_not_more_than_a_few_stay_open_and_closing_closes(tmp_path: Path):
    before = num_files()
    images = [Source(write(tmp_path / f"{i}.tif", noise(30, 40, seed=i)), SPEC) for i in range(handles.LIMIT + 9)]
    first = [image.read(ALL)[0] for image in images]
    assert handles.num_open() == handles.LIMIT
    assert num_files() == before + handles.LIMIT
    assert all(np.array_equal(a, image.read(ALL)[0]) for a, image in zip(first, images, strict=True))
    with images[0] as image:
        image.read(ALL)
        assert handles.num_open() == handles.LIMIT
    assert handles.num_open() == handles.LIMIT - 1
    handles.close()
    assert num_files() == before
    assert np.array_equal(images[3].read(ALL)[0], first[3])


def test_the_one_unused_longest_goes_first(tmp_path: Path, opened: list):
    images = [Source(write(tmp_path / f"{i}.tif", noise(30, 40)), SPEC) for i in range(handles.LIMIT + 1)]
    for image in images[:-1]:
        image.read(ALL)
    images[0].read(ALL)
    images[-1].read(ALL)
    opened.clear()
    images[0].read(ALL)
    assert not opened
    images[1].read(ALL)
    assert [name for _, name in opened] == ["1.tif"]


def test_a_changed_file_is_opened_anew(tmp_path: Path):
    path = write(tmp_path / "a.tif", noise(30, 40))
    Source(path, SPEC).read(ALL)
    write(path, noise(30, 40) + 5)
    assert np.array_equal(Source(path, SPEC).read(ALL)[0][0], noise(30, 40) + 5)
    before = path.stat()
    path.write_bytes(write(tmp_path / "b.tif", noise(30, 40) + 7).read_bytes())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert (path.stat().st_ino, path.stat().st_size) == (before.st_ino, before.st_size)
    assert np.array_equal(Source(path, SPEC).read(ALL)[0][0], noise(30, 40) + 7)


def test_a_change_within_one_tick_of_the_clock_is_seen(tmp_path: Path):
    path = write(tmp_path / "a.tif", noise(30, 40))
    Source(path, SPEC).read(ALL)
    before = path.stat()
    write(tmp_path / "b.tif", noise(30, 40) + 7).replace(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert np.array_equal(Source(path, SPEC).read(ALL)[0][0], noise(30, 40) + 7)
    before = path.stat()
    path.write_bytes(write(tmp_path / "b.tif", noise(60, 40)).read_bytes())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_ino == before.st_ino
    assert np.array_equal(Source(path, SPEC).read(ALL)[0][0], noise(60, 40)[:30])


def test_ways_to_open_a_file_are_kept_apart(tmp_path: Path):
    path = write(tmp_path / "a.tif", noise(30, 40))
    found = [handles.borrow(path, kind, lambda stack, kind=kind: kind) for kind in ("image", "label", "image")]
    assert found == ["image", "label", "image"]
    assert handles.num_open() == 2


def test_every_thread_has_its_own_and_they_end_with_it(tmp_path: Path, opened: list):
    array = noise(600, 700)
    image = Source(write(tmp_path / "a.tif", array, tiled=True, blockxsize=64, blockysize=64, compress="deflate"), SPEC)
    before = num_files()
    opened.clear()
    wrong: list[int] = []

    def read(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(60):
            row, col = rng.integers(500), rng.integers(600)
            window = Window(int(row), int(col), 100, 100)
            if not np.array_equal(image.read(window)[0][0], array[window.slices]):
                wrong.append(seed)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len({ident for ident, _ in opened}) == len(opened) == 4
    del threads, thread
    assert num_files() == before


def test_a_forked_process_begins_with_none(tmp_path: Path):
    array = noise(30, 40)
    image = Source(write(tmp_path / "a.tif", array), SPEC)
    image.read(ALL)
    inherited = handles.num_open()
    child = os.fork()
    if not child:
        code = 1
        try:
            good = handles.num_open() == 0 and np.array_equal(image.read(ALL)[0][0], array) and handles.num_open() == 1
            code = 0 if good else 3
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (inherited, handles.num_open()) == (1, 1)
    assert np.array_equal(image.read(ALL)[0][0], array)


def test_failing_to_open_leaves_nothing(tmp_path: Path):
    (tmp_path / "a.tif").write_bytes(b"II*\0garbage")
    with pytest.raises(InputError, match=r"a\.tif"):
        Source(tmp_path / "a.tif", SPEC)
    image = Source(write(tmp_path / "b.tif", noise(30, 40)), SPEC)
    (tmp_path / "b.tif").unlink()
    with pytest.raises(InputError, match=r"b\.tif: no such file"):
        image.read(ALL)
    assert handles.num_open() == 0


def test_a_tile_that_cannot_be_read_spoils_no_other(shared_data: Path, tmp_path: Path):
    bad = Source(
        shared_data / "rasters/corrupt/rasterio_corrupt.tif", InputSpec(("r", "g", "b"), (0.0,) * 3, (1.0,) * 3)
    )
    healthy = Source(write(tmp_path / "a.tif", noise(30, 40)), SPEC)
    healthy.read(ALL)
    answers = []
    for row in range(0, bad.height, 256):
        for col in range(0, bad.width, 256):
            try:
                bad.read(Window(row, col, 256, 256))
                answers.append("")
            except InputError as error:
                answers.append(str(error))
            assert np.array_equal(healthy.read(ALL)[0][0], noise(30, 40))
    assert 0 < answers.count("") < len(answers)
    assert all("rasterio_corrupt.tif: cannot read rows" in each for each in answers if each)


def test_handles_may_be_closed_inside_settings_of_gdal(tmp_path: Path):
    """A dataset that is entered as a context takes the settings of those around with it when it is closed."""
    for band in ("a", "b"):
        write(tmp_path / f"scene/{band}.tif", noise(1, 30, 40), crs=UTM, transform=Affine(10, 0, 5e5, 0, -10, 6e6))
    spec = InputSpec(("a", "b"), (0.0,) * 2, (1.0,) * 2, coarse=("b",))
    assert not hasenv()
    Source(tmp_path / "scene", spec).read(ALL)
    write(tmp_path / "mask.tif", np.ones((30, 40), np.uint8))
    MaskReader(2, -1).read(tmp_path / "mask.tif", ALL)
    ValueReader((1,)).read(tmp_path / "mask.tif", ALL)
    assert handles.num_open() == 5
    assert not hasenv()
    with rasterio.Env(GDAL_CACHEMAX=1 << 24):
        handles.close()
        assert hasenv()
