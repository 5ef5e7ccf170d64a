"""What ``import xt`` gives for prediction: a loaded model, and a result that is read by windows."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from xt.data.address import image_path, is_virtual, shown
from xt.data.geotiff import open_raster
from xt.data.labels import LabelTable
from xt.data.predictions import read_predictions
from xt.errors import ConfigError, GeometryError, InputError
from xt.files import locked, replacing_all
from xt.geometry.blend import Blend
from xt.geometry.grid import Window
from xt.inference.options import Augmentation, Context, PredictOptions, Summary
from xt.inference.outputs import check_folder, check_outputs, refuse_inputs
from xt.inference.precision import Precision
from xt.inference.predict import predict_image
from xt.models.checkpoint import load_model
from xt.models.metadata import ModelMetadata
from xt.models.xt import XT
from xt.plugins import load_modules


@dataclass(frozen=True)
class TrainedModel:
    """A model and what it was trained on.

    Attributes:
        network: In evaluation mode, on its device.
        metadata: Bands, statistics, classes, task.
    """

    network: XT
    metadata: ModelMetadata


def load(path: str | Path, device: str | None = None, plugins: Sequence[str] = ()) -> TrainedModel:
    """Load a model.

    Args:
        path: Run folder of ``xt train``, model folder, or ``hf://ORG/NAME``.
        device: Such as ``cpu`` or ``cuda:1``; ``cuda`` if there is one by default.
        plugins: Modules to import, whose classes the model is made of; a model itself imports nothing.

    Raises:
        PluginError: If a module cannot be found.
        CheckpointError: If the model cannot be loaded.
        ConfigError: If there is no such device.
    """
    load_modules([plugins] if isinstance(plugins, str) else list(plugins))
    _path("path", path)
    network, metadata = load_model(path)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        network.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {device}: {str(error).splitlines()[0]}") from error
    return TrainedModel(network, metadata)


def predict(
    model: TrainedModel,
    image: str | Path,
    *,
    context: Context = "windows",
    tile: int | None = None,
    overlap: int | None = None,
    blend: Blend = "cosine",
    tta: Augmentation = "none",
    precision: Precision = "fp32",
    bands: Sequence[int] | None = None,
    nodata: float | None = None,
    aoi: str | Path | None = None,
    mask: str | Path | None = None,
    window: Window | tuple[int, int, int, int] | None = None,
    complex_abs: bool = False,
    fill_bad_tiles: bool = False,
    creation: Mapping[str, str] | None = None,
    scratch: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> "Prediction":
    """Predict a whole image, in memory that its size does not set; the result lies in a temporary folder.

    Args:
        model: Of :func:`load`.
        image: GeoTIFF, or folder of a scene.
        context: ``windows`` of the size that the model was trained on, or ``full``: the context mixes the whole scene.
        tile: Side of the windows over which the context mixes, in pixels; the size the model was trained on by default.
        overlap: Pixels that neighbouring windows share; an eighth of a window, and at least a region, by default.
        blend: How they fade into each other: ``cosine``, ``linear`` or ``none``.
        tta: Take the mean over mirrored images (``flips``, 4), or turned ones too (``d4``, 8): as many times the work.
        precision: In which the model computes; ``bf16`` is faster where the device has instructions for it.
        bands: 1-based bands of the image; all by default.
        nodata: Value of missing pixels, beside what the file and the model say.
        aoi: File of polygons; pixels whose centre lies in none have no data.
        mask: Raster on the image's grid; pixels where it is 0 or has no data have no data.
        window: Pixels to predict, or their row, column, height and width; the result has their grid. All by default.
        complex_abs: Take complex samples by their absolute value.
        fill_bad_tiles: Give regions that cannot be read nodata instead of failing.
        creation: Creation options of GDAL for the raster.
        scratch: Folder for the result until it is written, with room for it; that of the system by default.
        progress: Called with regions done and regions in all.

    Raises:
        InputError: If the image cannot be read or does not fit the model.
        OutputError: If ``scratch`` has no room or cannot be written.
        ConfigError: If an option is wrong.
    """
    if not isinstance(model, TrainedModel):
        raise ConfigError(f"model is a {type(model).__name__}; it must be what xt.load gives")
    if not isinstance(image, str | os.PathLike):
        raise ConfigError(f"image is a {type(image).__name__}; give the path of a file, which is read by windows")
    if other := {each.dtype for each in model.network.parameters()} - {torch.float32}:
        raise ConfigError(f"the model is of {other.pop()}; keep it in float32, and give precision='bf16' for less work")
    image, window = image_path(image), _window(window)
    options = PredictOptions(
        context, _number("tile", tile, Integral), _number("overlap", overlap, Integral), blend, _bands(bands),
        _number("nodata", nodata, Real), None if aoi is None else _path("aoi", aoi),
        None if mask is None else _path("mask", mask), window, complex_abs, fill_bad_tiles,
        creation=dict(creation or {}), tta=tta, precision=precision,
    )  # fmt: skip
    if scratch is not None:
        scratch = _path("scratch", scratch).absolute()  # whoever changes the working directory finds it again
        check_folder(scratch)
    folder = tempfile.TemporaryDirectory(prefix="xt-", dir=scratch)
    raster = Path(folder.name) / "prediction.tif"
    with _evaluating(model.network):
        show = progress or (lambda done, total: None)
        summary = predict_image(model.network, model.metadata, image, raster, options, show)
    return Prediction(image, raster, summary, folder, options.limits)


@contextmanager
def _evaluating(network: XT) -> Iterator[None]:
    """Have a model that is being trained answer without chance, and go on with training afterwards."""
    training = [part for part in network.modules() if part.training]
    network.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _path(name: str, given: object) -> Path:
    if not isinstance(given, str | os.PathLike):
        raise ConfigError(f"{name} is a {type(given).__name__}; give a path")
    return Path(given)


def _number(name: str, given: Any, kind: type) -> Any:
    """Take a number of Python or NumPy."""
    if given is None:
        return None
    fits: bool = isinstance(given, kind)
    if not fits:
        raise ConfigError(f"{name} is {given!r}; give a {'whole ' if kind is Integral else ''}number")
    return int(given) if kind is Integral else float(given)


def _bands(given: Any) -> tuple[int, ...] | None:
    if given is None:
        return None
    several = isinstance(given, Iterable) and not isinstance(given, str)
    if not several or not all(isinstance(band, Integral) for band in given):
        raise ConfigError(f"bands is {given!r}; give their numbers from 1 on, such as [1, 2, 3]")
    return tuple(map(int, given))


def _window(given: object) -> Window | None:
    """Take a window or its numbers."""
    if given is None or isinstance(given, Window):
        return given
    if (
        isinstance(given, Sequence | np.ndarray)
        and len(given) == 4
        and all(isinstance(each, Integral) for each in given)
    ):
        return Window(*map(int, given))
    raise ConfigError(f"window is {given!r}; give an xt.Window, or its row, column, height and width")


class Prediction:
    """What a model says of an image. It lies on disk, and is read by windows.

    The temporary files are removed when the object is, or at the end of a ``with`` block.

    Attributes:
        image: What was predicted.
        summary: Counts of regions and objects; the class of a model that has one for the image.
        objects: The objects that the task finds, or None.
        answer: What the task says of the image as a whole, such as class and scores, or None.
        names: Of the maps.
        shape: Rows and columns.
        nodata: Value of pixels without data.
    """

    def __init__(
        self,
        image: Path,
        raster: Path,
        summary: Summary,
        folder: "tempfile.TemporaryDirectory[str]",
        limits: Sequence[Path] = (),
    ) -> None:
        self.image, self.summary, self._raster, self._folder = image, summary, raster, folder
        # Whoever changes the working directory must not replace what was read.
        self._inputs = [each if is_virtual(each) else each.absolute() for each in (image, *limits)]
        self._files = sorted(raster.parent.iterdir(), key=lambda path: (path == raster, path.name))
        table, answer = raster.with_suffix(".csv"), raster.with_suffix(".json")
        self.objects: LabelTable | None = read_predictions(table) if table.exists() else None
        self.answer: dict[str, Any] | None = json.loads(answer.read_text(encoding="utf-8")) if answer.exists() else None
        with open_raster(raster, purpose="label") as dataset:
            self.names: tuple[str, ...] = dataset.descriptions
            self.shape: tuple[int, int] = dataset.shape
            self.nodata: float | None = dataset.nodata

    def read(self, window: Window | tuple[int, int, int, int] | None = None) -> dict[str, npt.NDArray[Any]]:
        """Read maps.

        Args:
            window: Pixels, inside the image, or their row, column, height and width; all by default.

        Returns:
            Name → ``(h, w)``.

        Raises:
            GeometryError: If the window is not inside the image.
            InputError: If it is closed.
        """
        self._check_open("read")
        window = _window(window) or Window(0, 0, *self.shape)
        if window.clip(*self.shape) != window:
            raise GeometryError(f"{window} is not inside the image of {self.shape[0]} × {self.shape[1]} px")
        with open_raster(self._raster, purpose="label") as dataset:
            place = ((window.row, window.row_stop), (window.col, window.col_stop))
            pixels: npt.NDArray[Any] = dataset.read(window=place)
        return dict(zip(self.names, np.asarray(pixels), strict=True))

    def write(self, out: str | Path, overwrite: bool = False) -> list[Path]:
        """Write the raster as ``out``, and what belongs to it beside it, as ``xt predict`` does.

        Args:
            out: GeoTIFF.
            overwrite: Replace files.

        Returns:
            The files.

        Raises:
            ConfigError: If ``out`` is not named as a GeoTIFF.
            InputError: If it is closed.
            OutputError: If the folder is missing, or a file exists, is the image, mask or polygons, or cannot be
                written; what was there stays.
        """
        self._check_open("write")
        out = _path("out", out)
        if out.suffix.lower() not in (".tif", ".tiff"):
            raise ConfigError(f"{out}: the result is a GeoTIFF; name it .tif")
        suffixes = [path.name.removeprefix(self._raster.stem) for path in self._files]
        files = [
            out if path == self._raster else out.with_suffix(suffix)
            for path, suffix in zip(self._files, suffixes, strict=True)
        ]
        refuse_inputs(files, self._inputs)
        check_folder(out.parent)
        with ExitStack() as stack:
            for path in reversed(files):
                stack.enter_context(locked(path))
            check_outputs(files, overwrite, sum(path.stat().st_size for path in self._files), option="overwrite=True")
            partials = stack.enter_context(replacing_all(files))
            for source, partial in zip(self._files, partials, strict=True):
                shutil.copyfile(source, partial)
        return files

    def close(self) -> None:
        """Remove the temporary files."""
        self._folder.cleanup()

    def _check_open(self, what: str) -> None:
        if not self._raster.parent.exists():
            raise InputError(f"the prediction of {shown(self.image)} is closed; {what} it inside the with block")

    def __enter__(self) -> "Prediction":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
