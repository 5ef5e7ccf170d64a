"""Images that are not files: read over the net by ranges, named without what is secret, and known when they change."""

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import rasterio
from small_inputs import noise, raster, save

import xt
from xt.cli.main import main
from xt.data.address import gdal_name, image_path, shown, stem
from xt.errors import ConfigError


class Server(ThreadingHTTPServer):
    """Serves files of a folder by ranges, and counts the bytes."""

    sent = 0
    broken = 0
    """Answers that fail before one succeeds."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net").mkdir()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = tmp_path / "net" / self.path.partition("?")[0].lstrip("/")
            if not path.is_file():
                self.send_error(404)
                return
            if made.broken and "Range" in self.headers:
                made.broken -= 1
                self.send_error(503)
                return
            data = path.read_bytes()
            start, stop = 0, len(data)
            span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if span:
                start, stop = int(span[1]), min(int(span[2] or len(data) - 1) + 1, len(data))
            self.send_response(206 if span else 200)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(stop - start))
            if span:
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
            self.end_headers()
            if self.command == "GET":
                made.sent += stop - start
                self.wfile.write(data[start:stop])

        def log_message(self, *args: object) -> None:
            pass

    made = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def address(server: Server, name: str) -> str:
    return f"http://127.0.0.1:{server.server_port}/{name}"


def test_addresses_become_what_gdal_takes():
    cases = {
        "https://h/a/b.tif": "/vsicurl/https://h/a/b.tif",
        "s3://bucket/key/b.tif": "/vsis3/bucket/key/b.tif",
        "gs://bucket/b.tif": "/vsigs/bucket/b.tif",
        "az://container/b.tif": "/vsiaz/container/b.tif",
        "/vsizip//vsicurl/http://h/z.zip/b.tif": "/vsizip//vsicurl/http://h/z.zip/b.tif",
        "/vsizip//tmp/z.zip/b.tif": "/vsizip//tmp/z.zip/b.tif",
        "/vsizip/{/tmp/z.zip}/b.tif": "/vsizip/{/tmp/z.zip}/b.tif",
        "/vsizip/z.zip/b.tif": f"/vsizip/{Path('z.zip').absolute()}/b.tif",
        "/vsicurl/https://h/b.tif?sig=secret": "/vsicurl/https://h/b.tif?sig=secret",
        "b.tif": "b.tif",
        "odd://b.tif": "odd:/b.tif",
    }
    for text, name in cases.items():
        assert gdal_name(image_path(text)) == name
        assert gdal_name(image_path(gdal_name(image_path(text)))) == name
        assert stem(image_path(text)) == "b"
        assert "secret" not in shown(image_path(text))
    with pytest.raises(ConfigError, match="the name of an image is empty"):
        image_path("")


def test_a_remote_image_gives_what_the_file_gives_and_only_what_is_needed_is_fetched(server: Server):
    pixels = noise(1, 1024, 2048)
    raster(Path("net/a.tif"), pixels, nodata=-9, tiled=True, blockxsize=128, blockysize=128)
    save(Path("m"), "semantic-segmentation", 1)
    assert main(["predict", "net/a.tif", "-m", "m", "-o", "file.tif", "--window", "512,1024,128,192"]) == 0
    server.broken = 2
    signed = address(server, "a.tif?sig=secret")
    assert main(["predict", signed, "-m", "m", "-o", "net.tif", "--window", "512,1024,128,192"]) == 0
    with rasterio.open("file.tif") as one, rasterio.open("net.tif") as other:
        np.testing.assert_array_equal(one.read(), other.read())
        assert one.profile == other.profile
    assert server.sent < Path("net/a.tif").stat().st_size / 4
    report = Path("net.report.json").read_text()
    assert "secret" not in report
    assert json.loads(report)["result"]["image"] == f"/vsicurl/{address(server, 'a.tif')}"


def test_a_batch_goes_on_and_knows_what_has_changed(server: Server, capsys: pytest.CaptureFixture[str]):
    raster(Path("net/a.tif"), noise(1, 100, 130))
    raster(Path("b.tif"), noise(1, 100, 130))
    save(Path("m"), "semantic-segmentation", 1)
    Path("list.txt").write_text(f"{address(server, 'a.tif')}\n{address(server, 'none.tif')}\n")
    argv = ["predict", "@list.txt", "b.tif", "-m", "m", "-o", "out", "--tile", "64"]
    assert main(argv) == 3
    found = capsys.readouterr()
    assert sorted(path.name for path in Path("out").glob("*.tif")) == ["a.tif", "b.tif"]
    assert re.search(r"xt: error: /vsicurl/http://127.0.0.1:\d+/none.tif: cannot be opened", found.err)
    assert main(argv) == 3
    assert capsys.readouterr().out.count("done before") == 2
    raster(Path("net/a.tif"), noise(1, 120, 130))
    assert main(argv) == 3
    again = capsys.readouterr()
    assert again.out.count("done before") == 1
    assert "out/a.tif exists" in again.err


def test_python_and_info_take_addresses(server: Server, capsys: pytest.CaptureFixture[str]):
    raster(Path("net/a.tif"), noise(1, 100, 130))
    model = xt.load(save(Path("m"), "semantic-segmentation", 1))
    with xt.predict(model, address(server, "a.tif")) as remote, xt.predict(model, "net/a.tif") as local:
        np.testing.assert_array_equal(remote.read()["class"], local.read()["class"])
    assert main(["info", address(server, "a.tif")]) == 0
    assert "100 rows × 130 columns" in capsys.readouterr().out
    assert main(["info", address(server, "b.tif?sig=secret")]) == 3
    assert "secret" not in capsys.readouterr().err


def test_a_zip_is_read_without_being_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import zipfile

    monkeypatch.chdir(tmp_path)
    raster(tmp_path / "a.tif", noise(1, 100, 130))
    save(tmp_path / "m", "semantic-segmentation", 1)
    with zipfile.ZipFile("z.zip", "w") as file:
        file.write("a.tif", "in/a.tif")
    assert main(["predict", f"/vsizip/{tmp_path}/z.zip/in/a.tif", "-m", "m", "-o", "o.tif"]) == 0
    assert main(["predict", "a.tif", "-m", "m", "-o", "p.tif"]) == 0
    with rasterio.open("o.tif") as one, rasterio.open("p.tif") as other:
        np.testing.assert_array_equal(one.read(), other.read())
