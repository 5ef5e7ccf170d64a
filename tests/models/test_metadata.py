import json

import pytest

from xt.errors import CheckpointError
from xt.models.metadata import ModelMetadata

METADATA = ModelMetadata(
    "semantic-segmentation", ("red", "nir"), (1.5, 2.0), (3.0, 4.0), -9.0, ("sea", "ship"), 256, 0.5, {"ship": 0.4}
)


def test_round_trip_through_json_with_the_names_of_stac():
    data = json.loads(json.dumps(METADATA.to_dict()))
    assert ModelMetadata.from_dict(data) == METADATA
    assert data["mlm:input"][0]["bands"] == [{"name": "red"}, {"name": "nir"}]
    assert data["mlm:input"][0]["value_scaling"][1] == {"type": "z-score", "mean": 2.0, "stddev": 4.0}


def test_models_of_older_versions_are_read_with_what_they_had():
    old = ModelMetadata("point-detection", ("a",), (0.0,), (1.0,)).to_dict()
    for key in ("task_class", "task_settings", "coarse_bands"):
        del old[key]
    assert ModelMetadata.from_dict(old).settings == {"center_activation": "linear"}
    old["center_activation"] = "sigmoid"
    assert ModelMetadata.from_dict(old).settings == {"center_activation": "sigmoid"}
    assert ModelMetadata.from_dict(old).task_class == ""


def test_wrong_facts_are_refused():
    with pytest.raises(CheckpointError, match="2 bands, 1 means, 2 stds"):
        ModelMetadata("classification", ("a", "b"), (0.0,), (1.0, 1.0))
    for mean, std in ((0.0, 0.0), (0.0, float("inf")), (float("nan"), 1.0)):
        with pytest.raises(CheckpointError, match="must be finite, and std positive"):
            ModelMetadata("classification", ("a",), (mean,), (std,))
    broken = METADATA.to_dict()
    del broken["mlm:input"]
    with pytest.raises(CheckpointError, match="not valid"):
        ModelMetadata.from_dict(broken)
