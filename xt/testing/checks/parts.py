"""What every region encoder and decoder must do: repeat itself, keep a batch apart, learn, and load as it was saved."""

import json
from collections.abc import Sequence

import torch
from safetensors.torch import load, save
from torch import Tensor

from xt import plugins
from xt.testing.checks.shared import CHANGED, all_learn, backward, bf16_error, finite_by_autocast, known_name
from xt.testing.part_subjects import DenseSubject, PartSubject
from xt.testing.subject import same


def repeats(subject: PartSubject) -> str:
    """In evaluation no answer depends on a random state or on how inputs lie in memory; inputs stay as they are."""
    module, inputs = subject.build(), subject.inputs()
    answers = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        with torch.no_grad():
            answers.append(subject.run(module, inputs, f"an ordinary batch of {subject.items}"))
        if not _all_equal(inputs, subject.inputs()):
            raise subject.fault("changes what it is given; write x = x + …, not x += …, and no inplace=True first")
    for each in answers[0]:
        if each.dtype != torch.float32:
            raise subject.fault(f"turns float32 into {each.dtype}; what comes back has the type that came in")
    if not _all_equal(*answers):
        raise subject.fault(
            "is random in eval: the same inputs give another answer each time; draw from a generator with a fixed "
            "seed, or only if self.training"
        )
    kept = [each.contiguous(memory_format=torch.channels_last) if each.ndim == 4 else each for each in inputs]
    apart = [each.mT.contiguous().mT for each in inputs]
    for changed in (apart, kept):
        on = "inputs that are not contiguous in memory (channels_last is one such)"
        if not _all_same(subject.answer(changed, on, "take reshape, not view"), answers[0]):
            raise subject.fault(f"answers otherwise to {on}; take reshape, not as_strided")
    module = subject.build()
    with torch.no_grad():
        subject.run(module, [3 * each for each in subject.inputs(seed=1)], "other inputs")
        again = subject.run(module, inputs, f"an ordinary batch of {subject.items}")
        module = subject.build()
        with torch.autocast("cpu", torch.bfloat16):
            subject.run(module, inputs, "bfloat16 by autocast")
        after = subject.run(module, inputs, f"an ordinary batch of {subject.items}")
    if not (_all_same(again, answers[0]) and _all_same(after, answers[0])):
        raise subject.fault(
            "answers otherwise after other inputs: it keeps something of one batch for the next; make it anew"
        )
    return "twice the same, bit for bit; inputs untouched, in any order of memory, and after others"


def batch(subject: PartSubject) -> str:
    """Nothing of a batch changes the answer to another, in evaluation and in training."""
    inputs, others = subject.inputs(3), subject.inputs(3, seed=1)
    together = subject.answer(inputs, f"3 {subject.items}")
    for index in range(3):
        own = slice(index, index + 1)
        alone = subject.answer([each[own] for each in inputs], f"1 of {subject.items}")
        if not _all_same(alone, [each[own] for each in together]):
            raise subject.fault(f"mixes {subject.items} of a batch: one gets another answer beside others than alone")
    found = []
    # What is built anew draws the same numbers for the same shapes, so dropout does not count as a difference.
    for rest in (inputs, others):
        module = subject.build().train()
        mixed = [torch.cat([one[:1], other[1:]]) for one, other in zip(inputs, rest, strict=True)]
        found.append([each[:1].detach() for each in subject.run(module, mixed, f"3 {subject.items} in training")])
    if not _all_same(*found):
        size = ", so region_batch changes what is learned" if subject.kind == "region_encoders" else ""
        raise subject.fault(
            f"mixes {subject.items} of a batch in training, as batch norm does{size}; take LayerNorm over channels, or "
            "override train() to keep batch norm in eval, as TimmFeatures does"
        )
    return f"three {subject.items} together as each alone, in training too"


def gradients(subject: PartSubject) -> str:
    """Every parameter has a finite gradient, and so has what comes from below."""
    module = subject.build().train()
    inputs = _backward(subject, module, subject.inputs(), "training")
    all_learn(subject, module)
    grad = inputs[-1].grad  # of a decoder that of the coarsest map or the tokens, where the context speaks
    if grad is None or not grad.any():
        what = "coarsest map, where the context speaks" if isinstance(subject, DenseSubject) else "input"
        raise subject.fault(f"gives no gradient to the {what}; use it, and do not detach it")
    if not _finite(inputs):
        raise subject.fault("gives a gradient to its input that is not finite; look for a division by 0 or a root of 0")
    return f"all {len(list(module.parameters()))} parameters, and the input"


def zeros(subject: PartSubject) -> str:
    """Where there is no data all is 0: values and gradients are finite there."""
    module = subject.build().train()
    inputs = _backward(subject, module, [torch.zeros_like(each) for each in subject.inputs()], "zeros (no data)")
    if not _finite([*inputs, *module.parameters()]):
        raise subject.fault(
            "has gradients that are not finite on zeros, as where there is no data; add eps inside roots and divisions"
        )
    return "finite, and gradients too"


def bf16(subject: PartSubject) -> str:
    """Weights and inputs in bfloat16, and autocast, as ``precision: bf16-mixed`` trains."""
    inputs = subject.inputs()
    want = subject.answer(inputs, "an ordinary batch")
    with torch.no_grad():
        found = subject.run(
            subject.build().bfloat16(),
            [each.bfloat16() for each in inputs],
            "bfloat16",
            "make tensors of the type of the input",
        )
    error = bf16_error(subject, found, want)
    with torch.autocast("cpu", torch.bfloat16):
        module = subject.build().train()
        inputs = _backward(subject, module, inputs, "bfloat16 by autocast")
    finite_by_autocast(subject, module, inputs)
    return f"{error:.1%} off; autocast, forward and backward"


def saving(subject: PartSubject) -> str:
    """What a model's folder keeps of it, names, numbers and tensors, gives the same again."""
    module, inputs = subject.build(), subject.inputs()
    name = known_name(subject, module)
    with torch.no_grad():
        subject.run(module.train(), inputs, "training")  # what it learns by looking must be saved too
        module.eval()
        before = subject.run(module, inputs, "an ordinary batch")
    advice = "constructor arguments must be names and numbers, and build the same parameters again"
    with subject.named("cannot be saved and loaded", advice):
        spec = module.spec()
        for key in subject.given:
            spec["init_args"].pop(key)
        weights = save({key: value.contiguous() for key, value in module.state_dict().items()})
        torch.manual_seed(4)
        loaded = plugins.build(subject.kind, json.loads(json.dumps(spec)), **subject.given).eval()
        loaded.load_state_dict(load(weights))
    with torch.no_grad():
        after = subject.run(loaded, inputs, "an ordinary batch, after saving and loading")
    if not _all_equal(before, after):
        raise subject.fault(CHANGED)
    return f"as {name}"


def _backward(subject: PartSubject, module: torch.nn.Module, inputs: Sequence[Tensor], on: str) -> list[Tensor]:
    leaves = [each.clone().requires_grad_() for each in inputs]
    outputs = subject.run(module, leaves, on)
    if not all(each.requires_grad for each in outputs):
        raise subject.fault(f"gives a result without a gradient in {on}; do not detach it")
    backward(subject, outputs, on)
    if not _all_equal([each.detach() for each in leaves], inputs):
        raise subject.fault(f"changes what it is given, in {on}; write x = x + …, not x += …")
    return leaves


def _finite(tensors: Sequence[Tensor]) -> bool:
    return all(bool(each.grad.isfinite().all()) for each in tensors if each.grad is not None)


def _all_equal(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return all(torch.equal(*pair) for pair in zip(one, other, strict=True))


def _all_same(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return all(same(*pair) for pair in zip(one, other, strict=True))
