import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from xt.data.inaturalist import INaturalistData
from xt.errors import InputError, XTError

CATEGORIES = [(7, "Sceloporus", "Reptilia"), (3, "Anolis", "Reptilia"), (5, "Corvus", "Aves")]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of reptiles, dark (3) and light (7), and a bird in between."""
    for split, num in (("train", 3), ("val", 1)):
        images, annotations = [], []
        for number, name, kind in CATEGORIES:
            for i in range(num):
                entry = {"id": 100 * number + i, "file_name": f"images/{kind}/{name}/{split}{i}.jpg", "license": 1}
                path = tmp_path / entry["file_name"]
                path.parent.mkdir(parents=True, exist_ok=True)
                level = {3: 20, 5: 120, 7: 220}[number]
                noise = np.random.default_rng(i).integers(-15, 15, (40 + 9 * i, 60, 3)) + level
                Image.fromarray(noise.astype(np.uint8)).save(path)
                images.append(entry)
                annotations.append({"id": entry["id"], "image_id": entry["id"], "category_id": number})
        categories = [{"id": number, "name": name, "supercategory": kind} for number, name, kind in CATEGORIES]
        content = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
        (tmp_path / f"{split}2018.json").write_text(json.dumps(content))
    return tmp_path


def make(root: Path, **options: Any) -> INaturalistData:
    data = INaturalistData(str(root), **{"supercategory": "Reptilia", "image_size": 16, "batch_size": 2} | options)
    data.setup("fit")
    return data


def test_images_of_the_supercategory_with_their_classes(root: Path):
    data = make(root)
    assert data.classes == ("Anolis", "Sceloporus")
    names = []
    for batch in data.train_dataloader():
        assert ((batch["image"].mean((1, 2, 3)) > 0).long() == batch["label"]).all()
        names += batch["name"]
    assert len(names) == 6
    (batch,) = data.val_dataloader()
    assert batch["label"].tolist() == [0, 1]
    assert make(root, supercategory=None).classes == ("Anolis", "Corvus", "Sceloporus")


def test_categories_of_one_name_are_told_apart(root: Path):
    for split in ("train", "val"):
        path = root / f"{split}2018.json"
        path.write_text(path.read_text().replace('Sceloporus", "supercat', 'Anolis", "supercat'))
    assert make(root).classes == ("Anolis (3)", "Anolis (7)")
    assert make(root, supercategory=None).classes == ("Anolis (3)", "Corvus", "Anolis (7)")


def test_crops_are_functions_of_seed_epoch_and_index(root: Path):
    def pixels(epoch: int, seed: int, split: str = "train") -> list[float]:
        loader = getattr(make(root, seed=seed), f"{split}_dataloader")()
        loader.sampler.set_epoch(epoch)
        return [float(value) for batch in loader for value in batch["image"].sum((1, 2, 3))]

    assert pixels(1, 4) == pixels(1, 4)
    assert pixels(1, 4) != pixels(2, 4)
    assert pixels(1, 4) != pixels(1, 5)
    assert pixels(1, 4, "val") == pixels(2, 5, "val")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("images"), r"train2018\.json has no list 'images'; take"),
        (lambda c: c["images"][0].pop("file_name"), r"images\[0\] has no file_name \(str\); fetch"),
        (lambda c: c["annotations"][2].update(category_id="3"), r"annotations\[2\] has no category_id \(int\)"),
        (lambda c: c["annotations"][0].update(image_id=9), r"an annotation has image_id 9, which is not listed"),
        (lambda c: c["annotations"][0].update(category_id=9), r"an annotation has category_id 9, which is not listed"),
        (lambda c: c["annotations"].append({"image_id": 700, "category_id": 3}), r"train0\.jpg has two categories"),
        (lambda c: c["images"][0].update(file_name="../x.jpg"), r"'\.\./x\.jpg' leads out"),
        (lambda c: c["images"][3].update(file_name="images/A.jpg"), r"images/A\.jpg: no such file, but train2018"),
        (lambda c: c["categories"][0].update(name="Boa"), r"val2018\.json: its categories are not those of train"),
        (lambda c: c.update(annotations=c["annotations"][6:]), r"no image of Reptilia"),
    ],
)
def test_wrong_entries_are_said_in_one_line(root: Path, change: Callable[[Any], Any], message: str):
    path = root / "train2018.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message) as caught:
        make(root)
    assert "\n" not in str(caught.value)


def test_wrong_files_and_options_say_what_to_do(root: Path):
    with pytest.raises(XTError, match=r"no 'Reptila'; did you mean 'Reptilia'"):
        make(root, supercategory="Reptila")
    with pytest.raises(InputError, match=r"none2018\.json cannot be read .*set --data\.root"):
        make(root, train="none2018.json")
    (root / "val2018.json").write_text("[1")
    with pytest.raises(InputError, match=r"val2018\.json is no JSON .*fetch it again"):
        make(root)
