"""``from_pretrained``, ``save_pretrained`` and ``push_to_hub`` of a model, with the conventions of huggingface_hub.

Not its mixin, which removes the old ``config.json`` before the new one is there, and keeps constructor arguments of
its own: here a folder is what ``xt train`` writes, whole at any moment, and its weights are checked when it is read.
"""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self, cast

from xt.errors import CheckpointError, ModelError
from xt.models import hub
from xt.models.metadata import ModelMetadata

if TYPE_CHECKING:
    from xt.models.xt import XT


class Pretrained:
    """A model that is saved as a folder and shared by name.

    Attributes:
        metadata: What the model was trained on; of one that was built and not loaded, whatever is set, at first None.
    """

    metadata: ModelMetadata | None = None

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
    ) -> Self:
        """Load a model.

        Args:
            pretrained_model_name_or_path: Run folder, model folder, or ``ORG/NAME`` of the Hugging Face Hub, with
                ``hf://`` before it if a folder has that name.
            force_download: Download what is in the cache, too.
            token: For private models; that of ``hf auth login`` by default.
            cache_dir: Of the hub's files.
            local_files_only: Take what is in the cache.
            revision: Branch, tag or commit.

        Returns:
            The model in evaluation mode on the CPU.

        Raises:
            CheckpointError: If it is missing, corrupt, cannot be had, or its weights do not fit its description.
        """
        from xt.models import checkpoint

        name, folder = str(pretrained_model_name_or_path), Path(pretrained_model_name_or_path)
        found = hub.address(name) or (None if folder.exists() else hub.address(f"hf://{name}"))
        if found is not None:
            repo, said = found
            if revision and said and revision != said:
                raise CheckpointError(f"{name} has revision {said} in its name, and revision={revision!r} beside it")
            files = [checkpoint.CONFIG, checkpoint.WEIGHTS]
            folder = hub.download(
                repo, revision or said, files, force_download, token, cache_dir, local_files_only
            )  # fmt: skip
        model, _ = checkpoint.load_model(folder)
        if not isinstance(model, cls):
            raise CheckpointError(f"{name} is a model of class {type(model).__name__}, not {cls.__name__}")
        return model

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        metadata: ModelMetadata | None = None,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
    ) -> str | None:
        """Write a model folder: weights, ``config.json``, and a model card where there is none.

        Args:
            save_directory: Is replaced if it is there; a kill at any moment leaves the old one or the new one.
            metadata: What inference needs beside the weights; that of a loaded model by default.
            push_to_hub: Upload it too.
            repo_id: Where to; the name of the folder by default.
            private: As in :meth:`push_to_hub`.
            token: As in :meth:`push_to_hub`.

        Returns:
            The address of the upload, if there was one.

        Raises:
            ModelError: If the model has no metadata and none are given.
            OutputError: If the folder cannot be written, or holds files that are not a model's.
            CheckpointError: As :meth:`push_to_hub`.
        """
        from xt.models import checkpoint
        from xt.models.card import model_card

        model = cast("XT", self)
        metadata = metadata or self.metadata
        if metadata is None:
            raise ModelError(
                "the model has no metadata to save: pass metadata=ModelMetadata(task, bands, mean, std, …)"
            )
        folder = Path(save_directory)
        checkpoint.save_model(folder, model, metadata, card=model_card(model, metadata, repo_id))
        if not push_to_hub:
            return None
        return hub.upload(folder, repo_id or folder.resolve().name, private=private, token=token)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        metadata: ModelMetadata | None = None,
        commit_message: str = "Upload an xT model",
        private: bool | None = None,
        token: str | bool | None = None,
        branch: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Upload the model to the Hugging Face Hub; a model card that is there stays.

        Args:
            repo_id: ``ORG/NAME``; is made if it does not exist.
            metadata: As in :meth:`save_pretrained`.
            commit_message: Of the upload.
            private: Whether a new repository is private; what the organization's default is, by default.
            token: That of ``hf auth login`` by default.
            branch: The main one by default.
            create_pr: Propose it, and change nothing.

        Returns:
            The address of the upload.

        Raises:
            ModelError: As :meth:`save_pretrained`.
            CheckpointError: If the hub cannot be reached or refuses.
        """
        with tempfile.TemporaryDirectory(prefix="xt-") as temporary:
            folder = Path(temporary) / "model"
            self.save_pretrained(folder, metadata=metadata, repo_id=repo_id)
            return hub.upload(
                folder, repo_id, commit_message, private=private, token=token, branch=branch, create_pr=create_pr
            )
