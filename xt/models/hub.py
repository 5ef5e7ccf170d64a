"""Models on the Hugging Face Hub: addresses, and folders that go there and come from there."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from xt.errors import CheckpointError

_ADDRESS = re.compile(r"hf:/{0,2}(?P<repo>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[\w./-]+))?/?")


def address(text: str) -> tuple[str, str | None] | None:
    """Read ``hf://ORG/NAME`` or ``hf://ORG/NAME@REVISION``; None if it is no such address.

    One or no slash does too, since a path that holds an address loses one.
    """
    found = _ADDRESS.fullmatch(text)
    return None if found is None else (found["repo"], found["revision"])


def download(
    repo: str,
    revision: str | None,
    files: list[str],
    force: bool = False,
    token: str | bool | None = None,
    cache: str | Path | None = None,
    local_only: bool = False,
) -> Path:
    """Download files of a repository that are not in the cache, and return their folder there.

    Raises:
        CheckpointError: If it does not exist, has not all of them, or the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download

    where = f"hf://{repo}" + (f"@{revision}" if revision else "")
    with _explained(where, ", and is not in the cache; go online, or give a folder"):
        folder = Path(
            snapshot_download(
                repo,
                revision=revision,
                allow_patterns=files,
                force_download=force,
                token=token,
                cache_dir=cache,
                local_files_only=local_only,
            )
        )
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{where} is not an xT model: it has no {missing[0]}; push one by push_to_hub")
    return folder


def upload(
    folder: Path,
    repo: str,
    message: str = "Upload an xT model",
    private: bool | None = None,
    token: str | bool | None = None,
    branch: str | None = None,
    create_pr: bool = False,
) -> str:
    """Upload a model folder and return the address of the commit; a ``README.md`` that is there stays.

    Raises:
        CheckpointError: If the hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi

    with _explained(f"hf://{repo}", "; go online and push again"):
        api = HfApi(token=token)
        repo = api.create_repo(repo, private=private, exist_ok=True).repo_id
        card = "README.md"
        stays = [card] if api.file_exists(repo, card, revision=branch) else []
        done = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            commit_message=message,
            revision=branch,
            create_pr=create_pr,
            ignore_patterns=stays,
        )
    return str(done)


@contextmanager
def _explained(where: str, otherwise: str) -> Iterator[None]:
    """Turn what the hub's library says into one line of ours; ``otherwise`` says what to do offline."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # That of httpx, httpx2 or requests, by version; who cannot connect raises it too.
    client_error = cast(type[Exception], HfHubHTTPError.__bases__[0])

    def refused(why: str) -> CheckpointError:
        return CheckpointError(f"{where} {why}")

    try:
        yield
    except GatedRepoError as error:
        raise refused("is given only to those who ask its owner; ask there, then hf auth login") from error
    except RepositoryNotFoundError as error:
        raise refused("does not exist, or is private: check the name, or hf auth login") from error
    except RevisionNotFoundError as error:
        raise refused("has no such revision; name a branch, tag or commit") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise refused(f"cannot be reached{otherwise}") from error
    except LocalTokenNotFoundError as error:
        raise refused("needs a token: hf auth login") from error
    except (HFValidationError, client_error, OSError) as error:
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise refused(f"cannot be had or written: {line}") from error
