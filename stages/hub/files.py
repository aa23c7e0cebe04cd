"""Files of a repository on the Hugging Face hub, at a commit that is named in full, each checked by its sha256.

huggingface_hub does the fetching, into its own cache, and goes on where a broken download ended. Its environment
variables hold: HF_ENDPOINT (another hub), HF_TOKEN (for repositories that ask for one), HF_HOME (where the cache is),
HF_HUB_OFFLINE (the cache alone). Source: huggingface_hub 0.36.2, `hf_hub_download`.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from repro.errors import StageError
from repro.hashing import sha256_file
from repro.numerics import HUB_OFFLINE_AT_START
from repro.params import HubFolder

import requests
from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import logging

NO_ACCESS = (401, 403)
TOLD_IN_FULL = (requests.exceptions.ProxyError, requests.exceptions.SSLError)


def fetch_files(source: HubFolder, sha256: Mapping[str, str | None], key: str) -> dict[str, Path]:
    """Bring files of `source` into the cache of huggingface_hub.

    Args:
        sha256: what each file must have, by its name within the folder; None where nobody has written it down yet.
        key: the parameter that holds these sha256, for the errors.

    Returns:
        {name: the file in the cache, possibly a link}.

    Raises:
        StageError: the hub cannot be reached or does not have a file or refuses it; a file has another sha256 than the
            parameter says; or the parameter, or the source's revision, does not say it: the error then holds what to write.
    """
    logging.set_verbosity_error()  # it warns of each try with half a page
    constants.HF_HUB_OFFLINE = HUB_OFFLINE_AT_START.upper() in constants.ENV_VARS_TRUE_VALUES
    if source.revision is None:
        _refuse_no_revision(source, key)
    found = {name: _fetch(source, name) for name in sha256}
    digests = {name: sha256_file(path) for name, path in found.items()}
    for name, expected in sha256.items():
        if expected is not None and digests[name] != expected:
            raise StageError(
                f"{_place(source, name)}: sha256 {digests[name]}, but {key} expects {expected}; put the revision or the"
                f" sha256 right, or, if the download was broken, remove {found[name].resolve()} and fetch again"
            )
    if unnamed := [name for name, expected in sha256.items() if expected is None]:
        lines = "\n".join(f"  {name}: {digests[name]}" for name in unnamed)
        raise StageError(
            f"{key} lacks {', '.join(unnamed)}, so nothing was written. What {source.repo} has at {source.revision} is below:"
            f" compare it with what its author says, write it under {key}, and fetch again\n{lines}"
        )
    return found


def _refuse_no_revision(source: HubFolder, key: str) -> NoReturn:
    where = f"{key.rpartition('.')[0]}.hub.revision"
    try:
        newest = HfApi(endpoint=constants.ENDPOINT).repo_info(source.repo, repo_type=source.kind).sha
    except (OSError, RuntimeError, ValueError) as error:
        raise StageError(f"{where} is not written down, nor can the newest be told: {source.repo}: {_reason(error)}") from error
    raise StageError(
        f"{where} is not written down, so nothing was fetched. {source.repo} is at {newest} now: compare it with what the"
        " model was made of, write a revision there, and fetch again"
    )


def _fetch(source: HubFolder, name: str) -> Path:
    where = {"subfolder": source.path, "repo_type": source.kind, "revision": source.revision}
    try:
        return Path(hf_hub_download(source.repo, name, **where))
    except (OSError, RuntimeError, ValueError) as error:  # requests' errors are OSErrors
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk, and it names its file
        raise StageError(f"{_place(source, name)}: {_reason(error)}") from error


def _place(source: HubFolder, name: str) -> str:
    return f"{source.repo} at {source.revision}: {os.path.join(source.path, name)}"


def _reason(error: Exception) -> str:
    """What stood in the way, and what to do about it."""
    hub = constants.ENDPOINT
    # The library says "nor in the cache" and keeps what happened on the network behind it.
    cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) and error.__cause__ else error
    if isinstance(cause, OfflineModeIsEnabled):
        return f"not in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE is set; unset it, or point HF_HOME to where it is"
    if isinstance(cause, RevisionNotFoundError):
        return f"{hub} has no such revision of this repository; write the 40 digits of one of its commits"
    if isinstance(cause, EntryNotFoundError):
        return f"{hub} has no such file at this revision; put the path in the repository or the file's name right"
    if isinstance(cause, RepositoryNotFoundError) and not isinstance(cause, GatedRepoError):
        return f"{hub} has no such repository, or keeps it private; put its name right, or set HF_TOKEN"
    if isinstance(cause, requests.HTTPError) and cause.response is not None:
        status = cause.response.status_code
        if status in NO_ACCESS:
            return f"{hub} refuses it (HTTP {status}); accept the repository's terms there, and set HF_TOKEN"
        return f"{hub} answers HTTP {status}; try again later"
    if isinstance(cause, requests.Timeout | requests.ConnectionError) and not isinstance(cause, TOLD_IN_FULL):
        return f"no connection to {hub}; try again when there is one, or name another hub in HF_ENDPOINT"
    return f"could not be fetched ({' '.join(str(cause).split())}); mend that and fetch again: it goes on where it ended"
