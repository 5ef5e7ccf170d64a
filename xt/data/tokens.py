"""Tokens of whole scenes as training data of a context (``docs/two-phases.md``)."""

from pathlib import Path

from xt.data.base import DataModule
from xt.data.labels import check_scenes, read_labels
from xt.data.scene_tokens import SceneTokens, TokenFacts, open_tokens, read_facts
from xt.errors import InputError


class TokenData(DataModule):
    """Tokens of whole scenes and what their cells hold.

    ``ROOT/{train,validation,test}/SCENE.{npy,json}`` as ``xt features`` writes them, and
    ``LABELS/{train,validation,test}.csv`` in the columns of xView3. All scenes of a batch must be of one size.

    Args:
        root: Folder of the tokens.
        labels: Folder of the labels.
        batch_size: Scenes of a batch.
        num_workers: Loader processes.
        seed: Of order and flips.
        flip: Flip the map of tokens up and down and left and right at random in training.
    """

    gives = "tokens"
    unbound = ("root", "labels", "num_workers")

    def __init__(
        self,
        root: str,
        labels: str,
        batch_size: int = 16,
        num_workers: int = 0,
        seed: int = 0,
        flip: bool = True,
    ) -> None:
        super().__init__(root, 1, batch_size, num_workers, seed)
        self.labels, self.flip = Path(labels), flip
        self.bands, self.mean, self.std = (), (), ()

    @property
    def facts(self) -> list[TokenFacts]:
        """Of all scenes that were set up."""
        return [facts for split in self.datasets.values() for _, facts in split.scenes]  # type: ignore[attr-defined]

    def dataset(self, split: str) -> SceneTokens:
        """List the scenes of a split and read their labels."""
        folder = self.root / split
        paths = sorted(folder.glob("*.json"))
        if not paths:
            raise InputError(f"data: no tokens in {folder}; make them: xt features SCENE … -m RUN -o {folder}")
        labels_path = self.labels / f"{split}.csv"
        labels = read_labels(labels_path)
        scenes = [(path.with_suffix(".npy"), read_facts(path)) for path in paths]
        check_scenes(labels_path, labels, [facts.scene for _, facts in scenes])
        for path, facts in scenes:
            open_tokens(path, facts)
        if self.described is None:
            self.described = scenes[0][1].model
            (image,) = self.described["mlm:input"]
            self.bands = tuple(band["name"] for band in image["bands"])
        return SceneTokens(scenes, labels, self.seed, self.flip and split == "train")
