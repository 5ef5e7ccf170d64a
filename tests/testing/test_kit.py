"""The kit lets what is sound pass, and names what is planted."""

import pytest
from parts import BothWays, Fading, MeanContext
from planted import FAULTS, Placed, PlacedSteps, Sound
from planted_states import FAULTS as OF_STATES

from xt import plugins
from xt.models.context.base import ContextEncoder
from xt.testing import EncoderFault, check_context_encoder

XL = {"depth": 4, "chunk_regions": 4, "head_dim": 16}
ENCODERS = {
    "Identity": ("Identity", {"without": ["reach"]}),
    "FullAttention": ("FullAttention", {"head_dim": 16}),
    "Hyper": ("Hyper", {"head_dim": 16, "block_size": 16, "sample_size": 16, "min_seq_len": 32}),
    "Mamba": ("Mamba", {}),
    "Mamba, one layer": ("Mamba", {"depth": 1}),
    "Mamba, one tap": ("Mamba", {"depth": 2, "d_conv": 1}),
    "Mamba, many taps": ("Mamba", {"depth": 2, "d_state": 3, "d_conv": 9, "expand": 1}),
    "TransformerXL": ("TransformerXL", XL),
    "Jamba": ("Jamba", {"head_dim": 16, "min_seq_len": 128, "num_experts": 4, "d_state": 2, "expand": 1}),
    "LongNet": ("LongNet", {"head_dim": 16, "segment_lengths": (16, 64, 4096), "dilations": (1, 4, 64)}),
    "MSA": ("MSA", {"head_dim": 16, "window": 4}),
    "Mamba2": ("Mamba2", {}),
    "RSMamba": ("RSMamba", {}),
    "RWKV, version 4": ("RWKV", {"depth": 2, "version": 4}),
    "RWKV": ("RWKV", {"depth": 2, "head_dim": 16}),
    "SS2D": ("SS2D", {}),
    "TimeMachine": ("TimeMachine", {}),
    "Vim": ("Vim", {}),
    "TransformerXL, hashed": ("TransformerXL", XL | {"block_size": 16, "sample_size": 16, "min_seq_len": 16}),
}

REACH = {"Identity": "", "TransformerXL": "from the first", "TransformerXL, hashed": "from the first"}
REACH["Mamba, one layer"] = "from the last"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plugins, "_registered", {kind: {} for kind in plugins.BUILTINS})


def test_every_built_in_encoder_is_here():
    assert {name for name, _ in ENCODERS.values()} == set(plugins.BUILTINS["context_encoders"])


@pytest.mark.parametrize("case", ENCODERS)
def test_built_in_encoders_keep_their_contract(case: str):
    name, options = ENCODERS[case]
    report = check_context_encoder(plugins.resolve("context_encoders", name), **options)
    found = {each.check: each.text for each in report.findings if each.applies}
    assert {"shape", "origin", "saving"} <= set(found)
    assert found.get("reach", "").startswith(REACH.get(case, "both ways"))
    assert ("elements computed tokens^1.9" in found["cost"]) == (name == "FullAttention")


@pytest.mark.parametrize("cls", [MeanContext, Fading, BothWays, Sound, Placed, PlacedSteps])
def test_sound_encoders_of_ones_own_pass(cls: type[ContextEncoder]):
    plugins.register("context_encoders")(cls)
    report = check_context_encoder(cls, dim=16)
    assert str(report).startswith(f"{cls.__name__}(dim=16): ")
    found = {each.check: each for each in report.findings}
    assert found["passes"].applies == (cls is BothWays)
    assert found["steps"].applies == issubclass(cls, Fading)
    assert (found["origin"].text == "places count") == (cls in (Placed, PlacedSteps))


@pytest.mark.parametrize(
    ("cls", "options", "words"), [*FAULTS, *OF_STATES], ids=[cls.__name__ for cls, _, _ in [*FAULTS, *OF_STATES]]
)
def test_planted_faults_are_named(cls: type, options: dict, words: str):
    plugins.register("context_encoders")(cls)
    with pytest.raises(EncoderFault, match=rf"{cls.__name__}.*{words}") as caught:
        check_context_encoder(cls, **options)
    assert "\n" not in str(caught.value)


def test_a_class_without_a_name_cannot_be_saved():
    with pytest.raises(EncoderFault, match=r"cannot be saved by name: .*decorate it .*or declare an entry point"):
        check_context_encoder(Sound)
