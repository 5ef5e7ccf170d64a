from types import SimpleNamespace

import numpy as np
import pytest
import torch

from xt.errors import ConfigError, ModelError
from xt.metrics.regression import Errors
from xt.models.metadata import ModelMetadata
from xt.tasks.preview import NO_DATA
from xt.tasks.registry import task_of
from xt.tasks.regression import PixelRegression

SETTINGS = {
    "targets": ["height", "slope"],
    "target_mean": [10.0, -1.0],
    "target_std": [4.0, 0.5],
    "limits": [0.0, None],
}


def task(**changes: object) -> PixelRegression:
    metadata = ModelMetadata(
        "regression", ("b",), (0.0,), (1.0,), task_class="PixelRegression", settings=SETTINGS | changes
    )
    found = task_of(ModelMetadata.from_dict(metadata.to_dict()))
    assert isinstance(found, PixelRegression)
    return found


def test_a_saved_model_publishes_in_the_unit_of_its_targets():
    raw = {"value": torch.tensor([[[-3.0, 0.5]], [[2.0, -1.0]]])}
    values = task().activate(raw)
    np.testing.assert_allclose(values, [[[0.0, 12.0]], [[0.0, 0.0]]])  # -2 and -1.5 are below the lowest
    np.testing.assert_allclose(task(limits=[None, None]).activate(raw), [[[-2.0, 12.0]], [[0.0, -1.5]]])
    coarse = {"value": raw["value"].bfloat16()}  # which holds these numbers, but not what a deviation makes of them
    np.testing.assert_array_equal(task(target_std=[4.03, 0.5]).activate(coarse)[0], np.float32([[0, 10 + 4.03 * 0.5]]))
    valid = np.array([[True, False]])
    painted = task().paint(values, valid)
    np.testing.assert_array_equal(np.isnan(painted), [[[False, True]]] * 2)
    assert painted.dtype == np.float32
    (exported,) = task().published({"value": raw["value"][None]}, torch.from_numpy(valid)[None])["values"]
    np.testing.assert_array_equal(exported.numpy(), painted)
    product = task().product
    assert (product.names, product.dtype, product.resampling) == (("height", "slope"), "float32", "average")
    assert np.isnan(product.nodata)


def test_errors_are_those_of_known_pixels_however_they_come():
    rng = np.random.default_rng(0)
    true = rng.normal(size=(4, 2, 20, 30)).astype(np.float32)
    found = true + rng.normal(0.1, 0.5, true.shape).astype(np.float32)
    true[rng.random(true.shape) > 0.6] = np.nan
    true[0, 0, 0, 0] = np.inf
    errors = Errors(2)
    for rows in (slice(0, 1), slice(1, 4)):
        errors.update(torch.from_numpy(found[rows]), torch.from_numpy(true[rows]))
    got = errors.compute()
    for n in range(2):
        there = np.isfinite(true[:, n])
        t, e = true[:, n][there].astype(float), (found - true)[:, n][there].astype(float)
        want = {"r2": 1 - (e**2).sum() / ((t - t.mean()) ** 2).sum(), "rmse": (e**2).mean() ** 0.5}
        want |= {"mae": np.abs(e).mean(), "bias": e.mean()}
        for name, value in want.items():
            assert float(got[name][n]) == pytest.approx(value, rel=1e-6), name


def test_errors_of_many_pixels_lose_none():
    errors = Errors(1)
    errors.sums += 2.0**24  # to which single precision can add no 1
    errors.update(torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1))
    assert errors.sums[:4, 0].tolist() == [2.0**24 + 1] * 4
    of_one_batch = Errors(1)
    of_one_batch.update(torch.zeros(1, 1, 1, 2), torch.tensor([[[[4096.0, 1.0]]]]))
    assert of_one_batch.sums[:, 0].tolist() == [2, -4097, 4097, 2**24 + 1, 4097, 2**24 + 1]


def test_errors_of_processes_are_added_up():
    one, other, both = Errors(1), Errors(1), Errors(1)
    for number, each in enumerate((one, other)):
        given = torch.full((1, 1, 2, 3), number + 1.0), torch.rand(1, 1, 2, 3)
        each.update(*given)
        both.update(*given)
    one.merge_state(other)
    torch.testing.assert_close(one.sums, both.sums)


def test_r2_has_no_unit():
    regression = task()
    regression.errors = Errors(2)
    true = torch.tensor([-1.0, 1.0]).expand(1, 2, 1, 2)
    regression.errors.update(0.5 * true, true)
    scores = regression.scores(None, False)
    assert scores["r2_height"] == scores["r2_slope"] == scores["r2"] == pytest.approx(0.75)


def test_errors_are_of_pixels_with_data():
    regression = task()
    regression.errors = Errors(2)
    said = torch.tensor([[1.0, 5.0]]).expand(1, 2, 1, 2)
    valid = torch.tensor([[[[True, False]]]])
    batch = {"image": torch.zeros(1, 1, 1, 2), "valid": valid, "values": torch.zeros(1, 2, 1, 2)}
    regression.measure(lambda image, valid: {"value": said}, batch)  # type: ignore[arg-type]
    scores = regression.scores(None, False)
    assert (scores["mae_height"], scores["mae_slope"]) == pytest.approx((14, 0))  # limits hold for both


def test_scores_are_of_what_was_measured_since_the_last():
    regression = task()
    regression.errors = Errors(2)
    for said, want in ((1.0, 4.0), (0.5, 2.0)):
        regression.errors.update(torch.full((1, 2, 3, 3), said), torch.zeros(1, 2, 3, 3))
        scores = regression.scores(None, False)
        assert scores["rmse_height"] == pytest.approx(want)
        assert scores["bias_slope"] == pytest.approx(want / 8)
        assert set(scores) == {f"{a}_{b}" for a in ("r2", "rmse", "mae", "bias") for b in ("height", "slope")} | {"r2"}


def test_r2_of_nothing_or_of_one_value_has_no_meaning():
    errors = Errors(1)
    assert errors.compute()["r2"].isnan()
    errors.update(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.5))
    got = errors.compute()
    assert got["r2"].isnan()
    assert (float(got["rmse"]), float(got["bias"])) == (0.5, -0.5)


def test_pictures_have_the_greys_of_what_is_true():
    values = torch.tensor([[[0.0, 10.0, torch.nan, 20.0]], [[1.0, 1.0, 1.0, 1.0]]])
    batch = {
        "image": torch.zeros(1, 1, 1, 4),
        "valid": torch.tensor([[[[True, True, True, False]]]]),
        "values": values[None],
        "name": ["v.tif"],
    }
    said = torch.tensor([[[-2.5, -1.25, 10.0, 0.0]], [[4.0, 4.0, 4.0, 4.0]]])  # of heights 0, 5, 50, 10
    image, true, predicted, *others = task().preview(batch, 0, {"value": said})
    assert image.title == "v.tif"
    assert [each.title for each in (true, predicted)] == ["height, true, 0 to 10", "height, predicted, 0 to 10"]
    assert true.picture[0, :, 0].tolist() == [0, 255, NO_DATA[0], NO_DATA[0]]
    assert predicted.picture[0, :, 0].tolist() == [0, 128, 255, NO_DATA[0]]
    assert [each.title for each in others] == ["slope, true, 1 to 1", "slope, predicted, 1 to 1"]


def test_wrong_limits_and_other_targets_are_said():
    with pytest.raises(ConfigError, match=r"limits is \[3.0, 3.0\]; the first must be below the second"):
        PixelRegression(limits=(3.0, 3.0))

    class Data:
        targets = ("height",)

    with pytest.raises(ModelError, match=r"the data have 1 targets \(height\), the model was trained on 2"):
        task().check(None, None, Data())


@pytest.mark.parametrize(
    ("mean", "std", "told"),
    [
        ((0.0,), (1.0, 1.0), "data: 2 targets, 1 target_mean and 2 target_std; give one of each"),
        ((0.0, 0.0), (1.0, 0.0), r"data: target_std is \[1.0, 0.0\]; each must be above 0"),
        ((0.0, 0.0), (1.0, np.inf), "each must be above 0"),
    ],
)
def test_targets_that_cannot_be_scaled_are_refused(mean: tuple[float, ...], std: tuple[float, ...], told: str):
    data = SimpleNamespace(gives="values", targets=("a", "b"), target_mean=mean, target_std=std)
    with pytest.raises(ConfigError, match=told):
        PixelRegression().adopt(data)
