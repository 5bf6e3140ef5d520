"""Checkpoints and adapters come from the Hub. Code in a repository is for plain diffusers: none is fetched or run."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.file_download import REGEX_COMMIT_HASH, repo_folder_name
from huggingface_hub.utils.sha import git_hash, sha_fileobj

from sharingan_hub.checkpoints.folder import WEIGHTS, expected_bytes
from sharingan_hub.checkpoints.strict import CheckpointError, printable, shown
from sharingan_hub.hub.client import (
    TRIES,
    TRY_AGAIN,
    RateLimitError,
    RepositoryError,
    UnreachableError,
    explained,
    patience,
)
from sharingan_hub.hub.finding import SAMPLE

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

DEFAULT = Path(__file__).parents[1] / "embedded" / "default"
TIMEOUT = 3.5  # seconds that the Hub may take to answer before the cache is opened; the client adds one of its own

# What the loaders read, of a checkpoint and of an adapter, and how many bytes a file may have.
TEXT_BYTES, WEIGHT_BYTES = 2**20, 2**30
CHECKPOINT = {
    "model_index.json": TEXT_BYTES,
    "generator_model/config.json": TEXT_BYTES,
    f"generator_model/{WEIGHTS}": WEIGHT_BYTES,
    "discriminator/config.json": TEXT_BYTES,
    f"discriminator/{WEIGHTS}": WEIGHT_BYTES,
    "ticket.safetensors": WEIGHT_BYTES,
    "adapter/adapter_config.json": TEXT_BYTES,
    "adapter/adapter.safetensors": WEIGHT_BYTES,
}
ADAPTER = {"adapter_config.json": TEXT_BYTES, "adapter.safetensors": WEIGHT_BYTES}
READ = CHECKPOINT | ADAPTER
# No larger than the generator that generator_model/config.json describes.
BOUNDED = (f"generator_model/{WEIGHTS}", "ticket.safetensors", "adapter/adapter.safetensors")
ESSENTIAL = (
    ("model_index.json", "generator_model/config.json", f"generator_model/{WEIGHTS}"),
    ("adapter_config.json", "adapter.safetensors"),
)
# What is shown. Where it is too large it is left out, which is no reason to refuse the rest.
SHOWN = {"README.md": TEXT_BYTES, "report.json": TEXT_BYTES}
SAMPLE_BYTES, MAX_SAMPLES = 2**23, 64
# What plain diffusers runs. It is published and never fetched.
CODE = re.compile(r"pipeline\.py|generator_model/modeling_\w+\.py", re.ASCII)


def locate(
    model: str | os.PathLike | None,
    revision: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    with_weights: bool = True,
) -> Path:
    """Folder of a checkpoint: the one inside the package (None), a local one, or that of a Hub id, which is fetched.

    Raises:
        HubError: there is none.
    """
    if model is None:
        return DEFAULT
    path = Path(model).expanduser()
    if model and path.is_dir():
        return path
    if isinstance(model, os.PathLike) or not re.fullmatch(r"[\w\-.]+(/[\w\-.]+)?", model) or model.startswith("."):
        raise CheckpointError(
            f"{printable(repr(str(model)), 200)} is neither a folder that exists nor a Hub id such as 'user/name'"
        )
    return pull(model, revision, token, local_files_only, with_weights)


def pull(
    repo_id: str,
    revision: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    with_weights: bool = True,
) -> Path:
    """Fetch a checkpoint or an adapter from the Hub and return its local folder; where the Hub is down, the cached one.

    Names and sizes of all files are checked before any is fetched, and the configuration before the weights. What the
    loaders do not read stays where it is.

    Args:
        revision: branch, tag or commit; the main branch unless given.
        token: for private repositories, in place of the one that `hf auth login` has stored.
        local_files_only: use the cache and no network.
        with_weights: False leaves them out where they are not cached, for those who want to know what a model is.

    Raises:
        RepositoryError, AccessError: no such repository or revision, or no access to it.
        CheckpointError: the repository holds nothing that this project opens, or something too large.
        UnreachableError, RateLimitError: the Hub does not answer and nothing is cached.
    """
    if revision is not None and not re.fullmatch(r"(?!.*\.\.)[\w\-][\w\-./]*", revision, re.ASCII):
        raise RepositoryError(f"{shown(revision)} is no revision; it must be a branch, a tag or a commit")
    name = repo_id if revision is None else f"{repo_id} at revision {revision}"
    cached = find_cached(repo_id, revision)
    problem: Exception | None = None
    if not local_files_only:
        try:
            with explained(repo_id, revision), patience(TIMEOUT, TRIES if cached is None else 1):
                info = HfApi(token=token).model_info(repo_id, revision=revision, files_metadata=True, timeout=TIMEOUT)
                folder = download(repo_id, info, token, with_weights)
                if with_weights:
                    remember(folder, revision or constants.DEFAULT_REVISION)
                return folder
        except (UnreachableError, RateLimitError) as error:
            problem = error
    if cached is not None:
        return cached
    if problem is None:
        raise UnreachableError(f"{name} is not in the local cache, and the network was not to be used")
    if isinstance(problem, RateLimitError):
        raise problem
    reason = str(problem).removesuffix(TRY_AGAIN)
    raise UnreachableError(f"{reason}, and {name} is not in the local cache{TRY_AGAIN}") from problem


def find_cached(repo_id: str, revision: str | None) -> Path | None:
    """The folder of a revision in the local cache, as far as it is complete."""
    try:
        with explained(repo_id):
            folder = Path(snapshot_download(repo_id, revision=revision, local_files_only=True, allow_patterns=[*READ]))
    except UnreachableError:
        return None
    return folder if any(all((folder / part).is_file() for part in parts) for parts in ESSENTIAL) else None


def download(repo_id: str, info: ModelInfo, token: str | bool | None, with_weights: bool) -> Path:
    """Of one revision, the files that are read or shown; the small ones first, so that they can speak against the rest."""
    files = choose(repo_id, info.siblings or [])
    folder = fetch(repo_id, info.sha, [file for file in files if file.rfilename.endswith(".json")], token)
    for file in files:
        if file.rfilename in BOUNDED and size_of(file) > (limit := expected_bytes(folder)):
            raise CheckpointError(
                f"{repo_id} declares {size_of(file):,} bytes of weights in {file.rfilename}; its configuration accounts "
                f"for {limit:,}"
            )
    if not with_weights:
        files = [file for file in files if not file.rfilename.endswith(".safetensors")]
    return fetch(repo_id, info.sha, files, token)


def choose(repo_id: str, files: Sequence[RepoSibling]) -> list[RepoSibling]:
    """The files of a revision that are read or shown, by names and sizes alone.

    Raises:
        CheckpointError: an essential file is missing, or one that is read is too large.
    """
    names = {file.rfilename for file in files}
    is_adapter = "adapter_config.json" in names and "model_index.json" not in names
    read = ADAPTER if is_adapter else CHECKPOINT
    chosen: list[RepoSibling] = []
    samples = 0
    for file in sorted(files, key=lambda file: file.rfilename):
        name, size = file.rfilename, size_of(file)
        if name in read and not 0 <= size <= read[name]:
            declared = f"{size:,} bytes" if size >= 0 else "no size"
            raise CheckpointError(f"{repo_id} declares {declared} for {name}; at most {read[name]:,} bytes are fetched")
        is_sample = SAMPLE.fullmatch(name) is not None and 0 <= size <= SAMPLE_BYTES and samples < MAX_SAMPLES
        samples += is_sample
        if name in read or is_sample or 0 <= size <= SHOWN.get(name, -1):
            chosen.append(file)
    for name in ESSENTIAL[is_adapter]:
        if name not in names:
            raise CheckpointError(f"{repo_id} holds no SharinGAN Hub checkpoint: {name} is missing")
    return chosen


def size_of(file: RepoSibling) -> int:
    """Bytes that the Hub declares for a file; -1 where it declares none."""
    sizes = [file.size, file.lfs.size if file.lfs else None]
    return max(-1 if size is None else size for size in sizes)


def fetch(repo_id: str, sha: str | None, files: Sequence[RepoSibling], token: str | bool | None) -> Path:
    """Download files of one revision, as far as they are not cached, and compare them with the Hub's hashes.

    Returns:
        The folder of the revision in the local cache.

    Raises:
        UnreachableError: a file did not come, or came damaged; it is not kept then.
    """
    if sha is None or not REGEX_COMMIT_HASH.fullmatch(sha):
        raise UnreachableError(f"The Hub cannot be reached reliably (it names no commit){TRY_AGAIN}")
    # try_to_load_from_cache would follow refs, where one wrong answer stays for good.
    repository = Path(constants.HF_HUB_CACHE).expanduser() / repo_folder_name(repo_id=repo_id, repo_type="model")
    folder = repository / "snapshots" / sha
    new = [file for file in files if not (folder / file.rfilename).is_file()]
    names = [glob.escape(file.rfilename) for file in new]
    damaged = []
    try:
        if new:
            snapshot_download(repo_id, revision=sha, token=token, etag_timeout=TIMEOUT, allow_patterns=names)
    finally:  # after an error too: what came before it would count as cached next time
        for file in new:
            path = folder / file.rfilename
            if path.is_file() and is_damaged(path, file):
                path.resolve().unlink()
                path.unlink(missing_ok=True)
                damaged.append(file.rfilename)
    for file in files:
        if not (folder / file.rfilename).is_file():
            how = "came damaged" if file.rfilename in damaged else "did not come"
            raise UnreachableError(f"The Hub cannot be reached reliably ({file.rfilename} {how}){TRY_AGAIN}")
    return folder


def is_damaged(path: Path, file: RepoSibling) -> bool:
    """Whether a file is another than the Hub's: the client compares lengths only."""
    if file.lfs is not None:
        with path.open("rb") as content:
            return sha_fileobj(content).hex() != file.lfs.sha256
    return file.blob_id is not None and git_hash(path.read_bytes()) != file.blob_id


def remember(snapshot: Path, revision: str) -> None:
    """Note in the cache which commit a branch or tag was, as the client does where it is asked by name."""
    if snapshot.name == revision:
        return
    ref = snapshot.parent.parent / "refs" / revision
    ref.parent.mkdir(parents=True, exist_ok=True)
    new = ref.with_name(f".{ref.name}.{os.getpid()}.new")
    new.write_text(snapshot.name)
    os.replace(new, ref)
