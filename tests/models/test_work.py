from types import SimpleNamespace

import pytest
import torch
from parts import decoder_inputs, small_encoder

from xt.errors import ModelError
from xt.models import work
from xt.models.context.identity import Identity
from xt.models.decoders.unet import UNet
from xt.models.xt import XT


def model(**given: int) -> XT:
    encoder = small_encoder()
    return XT(encoder, Identity(16), UNet(decoder_inputs(encoder), (8, 12, 16, 20)), {"a": 1}, **given)


@pytest.mark.parametrize(
    ("gigabytes", "side"), [(141, 2048), (79, 2048), (40, 1024), (23.6, 1024), (11.6, 512), (1, 512)]
)
def test_a_gpu_is_given_as_much_as_its_memory_holds(gigabytes: float, side: int, monkeypatch: pytest.MonkeyPatch):
    found = SimpleNamespace(total_memory=int(gigabytes * 2**30))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: found)
    monkeypatch.setattr(work, "device_of", lambda model: torch.device("cuda", 1))
    free = model()
    assert free.decode_size == side
    assert free.region_batch * 64**2 == work.pixels_at_a_time(torch.device("cuda", 1))
    assert side**2 <= free.region_batch * 64**2 < 4 * side**2


def test_a_processor_works_on_little_at_a_time_and_what_is_told_is_kept():
    free = model()
    assert (free.region_batch, free.decode_size) == (64, 512)
    assert {free.spec()[name] for name in ("region_batch", "decode_size")} == {None}
    told = model(region_batch=3, decode_size=100)
    assert (told.region_batch, told.decode_size) == (3, 128)  # whole cells of the coarsest map
    assert (told.spec()["region_batch"], told.spec()["decode_size"]) == (3, 100)
    told.region_batch, told.decode_size = 5, 32
    assert (told.region_batch, told.decode_size) == (5, 32)


def test_a_region_larger_than_that_is_encoded_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(work, "LEAST", 1000)
    assert model().region_batch == 1


def test_what_is_full_gets_half_as_much_until_no_less_is_possible():
    small = model(region_batch=5, decode_size=600)
    seen = []
    while small.work_on_less():
        seen.append((small.region_batch, small.decode_size))
    assert seen == [(2, 320), (1, 256)]  # whole cells of the coarsest map
    assert (small.spec()["region_batch"], small.spec()["decode_size"]) == (5, 600)
    small.region_batch = 7
    assert (small.region_batch, small.decode_size) == (7, 608)
    with pytest.raises(ModelError, match="decode_size 0 must be at least 1"):
        small.decode_size = 0
    tiny = model(decode_size=64)
    assert tiny.work_on_less()
    assert (tiny.region_batch, tiny.decode_size) == (32, 64)
