"""The same tokens give the same answer: again, beside and after others, and after saving and loading."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from xt.geometry.grid import TokenLayout
from xt.models.context.base import ContextEncoder
from xt.testing.checks.shapes import PLAIN
from xt.testing.checks.shared import CHANGED, known_name
from xt.testing.context_subject import ContextSubject
from xt.testing.subject import same

if TYPE_CHECKING:
    from xt.models.xt import XT

LAYOUT = TokenLayout(3, 3, 4, num_extra=1)
WIDE, HIGH = TokenLayout(2, 3, 2), TokenLayout(3, 2, 2)
"""As many tokens in other places."""


def determinism(subject: ContextSubject) -> str:
    """In evaluation no answer depends on a random state, or on how tokens lie in memory."""
    encoder, tokens = subject.build(), subject.tokens(LAYOUT)
    answers = []
    for seed in (1, 2, 3):
        torch.manual_seed(seed)
        with torch.no_grad():
            answers.append(subject.run(encoder, tokens, LAYOUT, "an ordinary layout"))
    if not all(torch.equal(each, answers[0]) for each in answers):
        raise subject.fault(
            "is random in eval: the same tokens give another answer each time; draw from a generator with a fixed "
            "seed, or only if self.training"
        )
    apart = subject.answer(LAYOUT, "tokens that are not contiguous in memory", tokens.mT.contiguous().mT)
    if not same(apart, answers[0]):
        raise subject.fault(
            "answers otherwise to tokens that are not contiguous in memory; take reshape, not as_strided"
        )
    return "three times the same, bit for bit"


def batch(subject: ContextSubject) -> str:
    """No image of a batch changes the answer to another."""
    tokens = subject.tokens(LAYOUT, batch=3)
    together = subject.answer(LAYOUT, "a batch of 3", tokens)
    for index in range(3):
        alone = subject.answer(LAYOUT, "a batch of 1", tokens[index : index + 1])
        if not same(together[index : index + 1], alone):
            raise subject.fault(
                "mixes batch entries: an image gets another answer beside others than alone; mix along dimension 1 "
                "only, and norm each token by itself"
            )
    found = []
    # What is built anew draws the same numbers for the same shapes, so dropout does not count as a difference.
    for others in (tokens[1:], -2 * tokens[1:]):
        beside = torch.cat([tokens[:1], others])
        found.append(subject.run(subject.build().train(), beside, LAYOUT, "a batch of 3 in training")[:1].detach())
    if not same(*found):
        raise subject.fault(
            "mixes batch entries in training, as batch norm does; mix along dimension 1 only, and norm each token by "
            "itself (LayerNorm)"
        )
    return "three images together as each alone, in training too"


def reuse(subject: ContextSubject) -> str:
    """What it has seen before, of any layout and type, changes no answer."""
    encoder, tokens = subject.build(), subject.tokens(WIDE)
    before = [(WIDE, 3 * tokens, "larger values"), (HIGH, tokens, "as many tokens in other places")]
    with torch.no_grad():
        for layout, given, seen in before:
            subject.run(encoder, given, layout, "an ordinary layout")
            for after, own in ((HIGH, tokens), (WIDE, tokens)):
                _compare(subject, encoder, own, after, seen)
        encoder = subject.build()
        with torch.autocast("cpu", torch.bfloat16):
            subject.run(encoder, subject.tokens(PLAIN), PLAIN, "bfloat16 by autocast")
        _compare(subject, encoder, subject.tokens(PLAIN), PLAIN, "bfloat16")
    return "as a new one, after other places, values and types"


def _compare(
    subject: ContextSubject, encoder: ContextEncoder, tokens: torch.Tensor, layout: TokenLayout, seen: str
) -> None:
    used, new = subject.run(encoder, tokens, layout, "an ordinary layout"), subject.answer(layout, "", tokens)
    if not same(used, new):
        raise subject.fault(
            f"answers otherwise after {seen}: it keeps something of one image for the next; look up what is kept by "
            "the whole layout, type and device, or make it anew"
        )


def saving(subject: ContextSubject) -> str:
    """A model that has it is saved as names and numbers, and loads to the same answer."""
    from xt.models.checkpoint import load_model, save_model
    from xt.models.metadata import ModelMetadata

    encoder = subject.build()
    name = known_name(subject, encoder)
    model = _model(subject, encoder)
    image = torch.randn(1, 1, 100, 150, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), subject.named("fails in a model", "it gets tokens of any layout"):
        model.train()(image)  # what it learns by looking must be saved too
        model.eval()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        advice = "constructor arguments must be names and numbers, and build the same parameters again"
        with subject.named("cannot be saved and loaded", advice):
            save_model(Path(folder) / "model", model, ModelMetadata("other", ("band",), (0.0,), (1.0,)))
            torch.manual_seed(4)
            loaded, _ = load_model(Path(folder) / "model")
        with subject.named("fails in a model", "it gets tokens of any layout"):
            before, after = (each(image)["map"] for each in (model, loaded))
        tokens = subject.tokens(LAYOUT)
        pair = [subject.run(each.context.encoder, tokens, LAYOUT, "an ordinary layout") for each in (model, loaded)]
    if not (torch.equal(before, after) and torch.equal(*pair)):
        raise subject.fault(CHANGED)
    return f"as {name} in a model with a region encoder and a decoder"


def _model(subject: ContextSubject, encoder: ContextEncoder) -> "XT":
    from xt.models.decoders.base import DecoderInputs
    from xt.models.decoders.unet import UNet
    from xt.models.region.timm_features import TimmFeatures
    from xt.models.xt import XT

    sizes = {"dims": (8, 8, 8, 8), "depths": (1, 1, 1, 1)}
    region_encoder = TimmFeatures(name="convnext_atto", in_chans=1, region_size=64, model_args=sizes)
    inputs = DecoderInputs(1, region_encoder.channels, region_encoder.strides, subject.dim)
    with subject.named("fits no model", "dim must be a multiple of 4"):
        return XT(region_encoder, encoder, UNet(inputs, (8, 8, 8, 8), 4), {"map": 1}).eval()
