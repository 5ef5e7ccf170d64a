import weakref
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from parts import small_encoder, small_model
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from xt.errors import ModelError
from xt.geometry.grid import RegionGrid
from xt.models import streaming
from xt.models.region.base import RegionEncoder
from xt.models.tokenization import cut, stitch
from xt.models.xt import XT

GRID = RegionGrid(150, 201, 64)


def image(seed: int = 0) -> Tensor:
    return torch.randn(2, 2, GRID.height, GRID.width, generator=torch.Generator().manual_seed(seed))


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm().clamp(min=1e-12))


@pytest.mark.parametrize(("first", "region_batch"), [(0, 1), (0, 5), (0, 100), (1, 5), (-1, 5)])
def test_streamed_encoder_equals_plain_one_in_outputs_and_gradients(first: int, region_batch: int):
    torch.manual_seed(0)
    encoder = small_encoder()
    x = image().requires_grad_()
    plain = [stitch(each, GRID) for each in encoder(cut(x, GRID))][first:]
    weights = [torch.randn_like(each) for each in plain]
    sum((w * each.square()).sum() for w, each in zip(weights, plain, strict=True)).backward()
    want = {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}
    want_x = x.grad.clone()
    encoder.zero_grad()
    x.grad = None

    streamed = streaming.encode(encoder, x, GRID, None, first, region_batch)
    for a, b in zip(streamed, plain, strict=True):
        assert (a - b).abs().max() <= 1e-5
    sum((w * each.square()).sum() for w, each in zip(weights, streamed, strict=True)).backward()
    assert want
    for name, p in encoder.named_parameters():
        if name in want:
            assert relative(p.grad, want[name]) <= 1e-5, name
    assert relative(x.grad, want_x) <= 1e-5


class Summed(RegionEncoder):
    """Two learned maps are added to the features, so that one tensor is the gradient of both."""

    def __init__(self) -> None:
        super().__init__()
        self.in_chans, self.region_size, self.channels, self.strides = 2, 64, (2,), (32,)
        self.maps = nn.ParameterList(torch.zeros(1, 2, 2, 2) for _ in range(2))

    def forward(self, regions: Tensor) -> list[Tensor]:
        return [F.avg_pool2d(regions, 32) + self.maps[0] + self.maps[1]]


def test_parameters_with_one_gradient_get_the_sum_of_regions_each():
    encoder = Summed()
    streaming.encode(encoder, image(), GRID, None, 0, 1)[0].sum().backward()
    for each in encoder.maps:
        assert (each.grad == 2 * GRID.num_regions).all()


def test_regions_that_do_not_exist_are_not_encoded():
    encoder = small_encoder()
    seen: list[int] = []
    encoder.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[0]))
    exists = [tuple(i == 0 for i in range(12)), (False,) * 12]
    pyramid = streaming.encode(encoder, image(), GRID, exists, 0, 4)
    assert sum(seen) == 1
    assert pyramid[-1][0, :, :2, :2].abs().sum() > 0
    assert pyramid[-1][0, :, 2:].abs().sum() == 0
    assert pyramid[-1][1].abs().sum() == 0


def test_all_at_once_is_what_streaming_gives_of_regions_that_exist():
    encoder, weights = small_encoder(), []
    exists = [tuple(i % 3 > 0 for i in range(12)), tuple(i < 5 for i in range(12))]
    found = []
    for encode in (lambda *given: streaming.encode(*given, 0, 5), lambda *given: streaming.encode_at_once(*given, 0)):
        x = image().requires_grad_()
        maps = encode(encoder, x, GRID, exists)
        weights = weights or [torch.randn_like(each) for each in maps]
        total = sum((w * each.square()).sum() for w, each in zip(weights, maps, strict=True))
        found.append([*maps, *torch.autograd.grad(total, [x, *encoder.parameters()], allow_unused=True)])
    for a, b in zip(*found, strict=True):
        assert (a is None) == (b is None)
        assert a is None or relative(a, b) <= 1e-5


def test_an_image_gets_its_gradient_through_a_frozen_encoder():
    encoder = small_encoder().requires_grad_(False)
    found = []
    for encode in (lambda *given: streaming.encode(*given, 0, 5), lambda *given: streaming.encode_at_once(*given, 0)):
        x = image().requires_grad_()
        encode(encoder, x, GRID, None)[-1].square().sum().backward()
        found.append(x.grad)
    assert relative(*found) <= 1e-5


def test_stages_that_are_frozen_are_passed_over():
    encoder = small_encoder()
    for name, p in encoder.named_parameters():
        p.requires_grad_(name.startswith(("model.stages_2", "model.stages_3")))
    trained = [p for p in encoder.parameters() if p.requires_grad]
    streaming.encode(encoder, image(), GRID, None, 0, 5)[0].square().sum().backward()  # of the first stage
    assert trained
    assert all(p.grad is None for p in trained)
    found = []
    for encode in (lambda *given: streaming.encode(*given, 0, 5), lambda *given: streaming.encode_at_once(*given, 0)):
        total = sum(each.square().sum() for each in encode(encoder, image(), GRID, None))
        found.append(torch.autograd.grad(total, trained))
    assert all(relative(a, b) <= 1e-4 for a, b in zip(*found, strict=True))


def test_images_without_any_region_have_maps_of_zeros():
    encoder = small_encoder()
    for each, num, stride in zip(
        streaming.encode(encoder, image(), GRID, [(False,) * 12] * 2, 0, 4),
        encoder.channels,
        encoder.strides,
        strict=True,
    ):
        assert each.shape == (2, num, GRID.padded_height // stride, GRID.padded_width // stride)
        assert not each.any()


def test_random_state_is_replayed_in_backward():
    # With dropout a second run with other random numbers would give the gradient of another function.
    torch.manual_seed(0)
    encoder = small_encoder().train()
    encoder.model.register_forward_hook(lambda m, i, out: [torch.nn.functional.dropout(each, 0.5) for each in out])
    masks: list[Tensor] = []
    encoder.register_forward_hook(lambda m, i, out: masks.append((out[-1] != 0).clone()))
    before = torch.get_rng_state()
    streaming.encode(encoder, image(), GRID, None, 0, 6)[-1].sum().backward()
    forward, backward = masks[:4], masks[4:]
    assert all(torch.equal(a, b) for a, b in zip(forward, backward, strict=True))
    assert not torch.equal(forward[0], forward[1])
    assert not torch.equal(before, torch.get_rng_state())


def test_autocast_is_replayed_in_backward():
    encoder = small_encoder()
    seen: list[tuple[bool, torch.dtype]] = []
    encoder.register_forward_pre_hook(
        lambda m, i: seen.append((torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")))
    )
    with torch.autocast("cpu", torch.float16):
        last = streaming.encode(encoder, image(), GRID, None, 0, 12)[-1]
    last.float().sum().backward()
    assert seen == [(True, torch.float16)] * 4


def test_backward_within_autocast_reaches_every_parameter():
    found = []
    for inside in (False, True):
        model = small_model(region_batch=1)
        with torch.autocast("cpu", torch.bfloat16):
            loss = sum(each.float().square().mean() for each in model(image()).values())
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert all(relative(found[1][name], grad) < 1e-3 for name, grad in found[0].items())


def test_frozen_encoder_needs_no_backward():
    encoder = small_encoder().requires_grad_(False)
    assert not any(each.requires_grad for each in streaming.encode(encoder, image(), GRID, None, 0, 4))


def test_memory_kept_between_passes_does_not_hold_activations():
    model = small_model()
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        streaming.encode(model.region_encoder, image(), GRID, None, 0, 2)
    assert kept == [image().numel()]


def test_the_maps_of_one_chunk_live_at_a_time():
    encoder, made, living = small_encoder(), [], []
    encoder.register_forward_pre_hook(lambda *_: living.append(sum(each() is not None for each in made)))
    encoder.register_forward_hook(lambda module, inputs, maps: made.extend(map(weakref.ref, maps)))
    streaming.encode(encoder, image(), GRID, None, 0, 5)
    assert living == [0] * 5


def test_without_gradients_no_random_state_is_kept(monkeypatch: pytest.MonkeyPatch):
    taken: list[int] = []
    plain = streaming.Replay.capture
    monkeypatch.setattr(streaming.Replay, "capture", lambda device: taken.append(1) or plain(device))
    model = small_model()
    targets = {"y": torch.ones(2, 1, GRID.height, GRID.width)}
    with torch.no_grad():
        model.statistics(image(), targets, lambda maps, targets: maps["a"].sum()[None])
    assert not taken
    streaming.encode(small_encoder().requires_grad_(False), image(), GRID, None, 0, 4)
    assert not taken
    model.statistics(image(), targets, lambda maps, targets: maps["a"].sum()[None])
    assert taken


def test_no_map_of_the_pyramid_lives_while_regions_are_encoded_again():
    model = small_model()
    maps: list[weakref.ref[Tensor]] = []
    living: list[int] = []

    def loss() -> Tensor:
        pyramid = model.mix(model.encode(image()))
        maps.extend(weakref.ref(each) for each in pyramid.maps)
        targets = {"y": torch.ones(2, 1, GRID.height, GRID.width)}
        return model.reduce(pyramid, targets, lambda maps, targets: maps["a"].square().sum()[None])

    total = loss()
    assert all(each() is not None for each in maps[:-1])
    model.region_encoder.register_forward_pre_hook(
        lambda module, regions: living.append(sum(each() is not None for each in maps))
    )
    total.backward()
    assert living
    assert max(living) == 0


def test_sharded_parameters_are_refused_by_name(tmp_path: Path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = small_model()
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        with pytest.raises(ModelError, match="sharded by FSDP2"):
            model.statistics(image(), {}, lambda maps, targets: maps["a"].sum()[None])
        with pytest.raises(ModelError, match="sharded by FSDP2"):
            model(image())
        with torch.no_grad():
            torch.testing.assert_close(model(image())["a"], small_model()(image())["a"].detach(), rtol=1e-4, atol=1e-5)
        parts = small_model()
        fully_shard(parts.decoder, mesh=init_device_mesh("cpu", (1,)))
        with pytest.raises(ModelError, match="sharded by FSDP2"):
            parts.statistics(image(), {}, lambda maps, targets: maps["a"].sum()[None])
        with torch.no_grad():
            pyramid = parts.mix(parts.encode(image()))
        with pytest.raises(ModelError, match="sharded by FSDP2"):
            parts.decode(pyramid)
        with pytest.raises(ModelError, match="sharded by FSDP2"):
            parts.encode(image())
        around = nn.Sequential(small_model())
        fully_shard(around, mesh=init_device_mesh("cpu", (1,)))
        with pytest.raises(ModelError, match="sharded by FSDP2"):
            around[0].encode(image())
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_a_gradient_of_two_processes_is_that_of_one(tmp_path: Path):
    torch.multiprocessing.spawn(ddp_rank, (str(tmp_path / "store"), str(tmp_path)), nprocs=2)
    model = small_model()
    ddp_loss(model, image()).backward()
    for rank in range(2):
        got = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert got
        for name, p in model.named_parameters():
            if name in got:
                assert relative(got[name], p.grad) <= 1e-5, name


def ddp_loss(model: XT, batch: Tensor) -> Tensor:
    targets = {"y": torch.ones(len(batch), 1, GRID.height, GRID.width)}
    return model.statistics(batch, targets, lambda maps, targets: maps["a"].square().sum()[None] / 1000).sum() / len(
        batch
    )


class DDPLoss(nn.Module):
    """DistributedDataParallel wraps a forward, as Lightning's training step does."""

    def __init__(self, model: XT) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Tensor) -> Tensor:
        return ddp_loss(self.model, batch)


def ddp_rank(rank: int, store: str, out: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    wrapped = nn.parallel.DistributedDataParallel(DDPLoss(small_model()), find_unused_parameters=True)
    wrapped(image()[rank : rank + 1]).backward()
    grads = {name: p.grad for name, p in wrapped.module.model.named_parameters() if p.grad is not None}
    torch.save(grads, f"{out}/{rank}.pt")
    torch.distributed.destroy_process_group()
