"""Checkpoints and adapters go to the Hub and come back. Code in a repository is for plain diffusers: none is fetched or run."""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, snapshot_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.file_download import REGEX_COMMIT_HASH, repo_folder_name
from huggingface_hub.utils.sha import git_hash, sha_fileobj

from sharingan_hub.checkpoint import KNOWN_GENERATORS as KNOWN_GENERATORS
from sharingan_hub.checkpoint import WEIGHTS as WEIGHTS
from sharingan_hub.checkpoint import CheckpointError as CheckpointError
from sharingan_hub.checkpoint import HubError as HubError
from sharingan_hub.checkpoint import expected_bytes as expected_bytes
from sharingan_hub.checkpoint import read_generator as read_generator
from sharingan_hub.checkpoint import read_json as read_json
from sharingan_hub.checkpoint import read_weights as read_weights
from sharingan_hub.checkpoint import validate as validate
from sharingan_hub.discover import SAMPLE
from sharingan_hub.discover import ModelEntry as ModelEntry
from sharingan_hub.discover import discover as discover
from sharingan_hub.hub_client import TRY_AGAIN, explained, patience
from sharingan_hub.hub_client import AccessError as AccessError
from sharingan_hub.hub_client import ConflictError as ConflictError
from sharingan_hub.hub_client import RateLimitError as RateLimitError
from sharingan_hub.hub_client import RejectedError as RejectedError
from sharingan_hub.hub_client import RepositoryError as RepositoryError
from sharingan_hub.hub_client import UnreachableError as UnreachableError

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

    from sharingan_hub.pipeline_sharingan import SharinganPipeline

DEFAULT = Path(__file__).parent / "embedded" / "default"
TIMEOUT = 4.0  # seconds that the Hub may take to answer before the cache is opened
PUBLISH_TIMEOUT = 20.0
ATTEMPTS = 5  # to publish while others do

# What the loaders read, of a checkpoint and of an adapter, and how many bytes a file may have.
TEXT_BYTES, WEIGHT_BYTES = 2**20, 2**30
READ = {
    "model_index.json": TEXT_BYTES,
    "generator_model/config.json": TEXT_BYTES,
    f"generator_model/{WEIGHTS}": WEIGHT_BYTES,
    "discriminator/config.json": TEXT_BYTES,
    f"discriminator/{WEIGHTS}": WEIGHT_BYTES,
    "ticket.safetensors": WEIGHT_BYTES,
    "adapter/adapter_config.json": TEXT_BYTES,
    "adapter/adapter.safetensors": WEIGHT_BYTES,
    "adapter_config.json": TEXT_BYTES,
    "adapter.safetensors": WEIGHT_BYTES,
}
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
        raise CheckpointError(f"{str(model)!r} is neither a folder that exists nor a Hub id such as 'user/name'")
    return pull(model, revision, token, local_files_only, with_weights)


# Fetching


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
        raise RepositoryError(f"{revision!r} is no revision; it must be a branch, a tag or a commit")
    name = repo_id if revision is None else f"{repo_id} at revision {revision}"
    problem: Exception | None = None
    if not local_files_only:
        try:
            with explained(repo_id, revision), patience(TIMEOUT):
                info = HfApi(token=token).model_info(repo_id, revision=revision, files_metadata=True, timeout=TIMEOUT)
                folder = download(repo_id, info, token, with_weights)
                if with_weights:
                    remember(folder, revision or constants.DEFAULT_REVISION)
                return folder
        except (UnreachableError, RateLimitError) as error:
            problem = error
    try:
        with explained(repo_id):
            folder = Path(snapshot_download(repo_id, revision=revision, local_files_only=True, allow_patterns=[*READ]))
            if any(all((folder / part).is_file() for part in parts) for parts in ESSENTIAL):
                return folder
    except UnreachableError:  # not in the cache
        pass
    if problem is None:
        raise UnreachableError(f"{name} is not in the local cache, and the network was not to be used")
    if isinstance(problem, RateLimitError):
        raise problem
    reason = str(problem).removesuffix(TRY_AGAIN)
    raise UnreachableError(f"{reason}, and {name} is not in the local cache{TRY_AGAIN}") from problem


def download(repo_id: str, info: ModelInfo, token: str | bool | None, with_weights: bool) -> Path:
    """Of one revision, the files that are read or shown; the small ones first, so that they can speak against the rest."""
    files = choose(repo_id, info.siblings or [])
    folder = fetch(repo_id, info.sha, [file for file in files if file.rfilename.endswith(".json")], token)
    for file in files:
        if file.rfilename == f"generator_model/{WEIGHTS}" and size_of(file) > (limit := expected_bytes(folder)):
            raise CheckpointError(
                f"{repo_id} declares {size_of(file):,} bytes of weights; its configuration accounts for {limit:,}"
            )
    if not with_weights:
        files = [file for file in files if not file.rfilename.endswith(".safetensors")]
    return fetch(repo_id, info.sha, files, token)


def choose(repo_id: str, files: Sequence[RepoSibling]) -> list[RepoSibling]:
    """The files of a revision that are read or shown, by names and sizes alone.

    Raises:
        CheckpointError: an essential file is missing, or one that is read is too large.
    """
    chosen: list[RepoSibling] = []
    samples = 0
    for file in sorted(files, key=lambda file: file.rfilename):
        name, size = file.rfilename, size_of(file)
        if name in READ and not 0 <= size <= READ[name]:
            declared = f"{size:,} bytes" if size >= 0 else "no size"
            raise CheckpointError(f"{repo_id} declares {declared} for {name}; at most {READ[name]:,} bytes are fetched")
        is_sample = SAMPLE.fullmatch(name) is not None and 0 <= size <= SAMPLE_BYTES and samples < MAX_SAMPLES
        samples += is_sample
        if name in READ or is_sample or 0 <= size <= SHOWN.get(name, -1):
            chosen.append(file)
    names = {file.rfilename for file in chosen}
    essential = ESSENTIAL["adapter_config.json" in names and "model_index.json" not in names]
    for name in essential:
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


# Publishing


@dataclass(frozen=True)
class Published:
    """What came of publishing.

    Args:
        url: of the commit, or of the pull request.
        sha: the commit; where nothing had changed, the one that was there.
    """

    url: str
    sha: str


def publish(
    folder_or_pipe: str | os.PathLike[str] | SharinganPipeline,
    repo_id: str,
    private: bool = False,
    create_pr: bool = False,
    revision: str | None = None,
    token: str | bool | None = None,
    commit_message: str | None = None,
) -> Published:
    """Put a checkpoint or an adapter on the Hub, in one commit that holds all of it or is not made.

    The repository is made where there is none. Files of an earlier checkpoint that are gone now are deleted in the same
    commit, other people's files stay, and so do edits of README.md, which is written from the folder otherwise. Unchanged
    files are not sent again; where nothing has changed, no commit is made.

    Args:
        folder_or_pipe: local folder of a checkpoint or an adapter, or a pipeline, which is saved with its adapters added.
        repo_id: "user/name", or "name" for one of your own.
        private: make the repository a private one. One that exists stays as it is, and must be private already.
        create_pr: propose the changes as a pull request.
        revision: branch to commit to, made from main where it is missing; main unless given.
        token: in place of the one that `hf auth login` has stored; it must allow writing.
        commit_message: its first line.

    Raises:
        CheckpointError: the folder is no checkpoint or adapter that others could open.
        AccessError, RepositoryError: you are not logged in, or may not write there.
        UnreachableError, RateLimitError: the Hub does not answer. The repository is as it was, or has all of the new.
        ConflictError: others kept changing the repository at the same time.
        RejectedError: the Hub does not accept the name, or what was sent.
    """
    if create_pr and revision not in (None, constants.DEFAULT_REVISION):
        raise ValueError(f"create_pr and revision {revision!r} were both given; a pull request is for the main branch")
    if isinstance(folder_or_pipe, str | os.PathLike):
        folder = Path(folder_or_pipe).expanduser()
        if not folder.is_dir():
            raise CheckpointError(f"{str(folder_or_pipe)!r} is no folder that exists; give that of a checkpoint")
        return _publish(folder, repo_id, private, create_pr, revision, token, commit_message)
    if not hasattr(folder_or_pipe, "save_pretrained"):
        kind = type(folder_or_pipe).__name__
        raise TypeError(f"folder_or_pipe is a {kind}; it must be a folder or a SharinganPipeline")
    with TemporaryDirectory() as temporary:
        folder_or_pipe.save_pretrained(temporary)
        return _publish(Path(temporary), repo_id, private, create_pr, revision, token, commit_message)


def check_login(token: str | bool | None = None) -> str:
    """The name of the user that publishing would act for.

    Raises:
        AccessError: nobody is logged in, or the token is not valid.
        UnreachableError, RateLimitError: the Hub does not answer.
    """
    with explained("Publishing", writing=True), patience(TIMEOUT):
        return HfApi(token=token).whoami()["name"]


def _publish(
    folder: Path,
    repo_id: str,
    private: bool,
    create_pr: bool,
    revision: str | None,
    token: str | bool | None,
    commit_message: str | None,
) -> Published:
    validate(folder)
    files = published_files(folder)
    api = HfApi(token=token)
    message = commit_message or "Publish with sharingan-hub"
    for _ in range(ATTEMPTS):
        with explained(repo_id, revision, writing=True), patience(PUBLISH_TIMEOUT):
            if "/" not in repo_id:
                repo_id = f"{api.whoami()['name']}/{repo_id}"
            there = open_repository(api, repo_id, private, create_pr, revision)
        try:
            with explained(repo_id, revision, writing=True), patience(PUBLISH_TIMEOUT):
                done = api.create_commit(
                    repo_id,
                    changes(folder, files, repo_id, there, token),
                    commit_message=message,
                    revision=revision,
                    create_pr=create_pr,
                    parent_commit=there.sha,  # or else two publishers could make a mixture
                )
                return Published(done.pr_url or done.commit_url, done.oid)
        except ConflictError:
            continue
        except UnreachableError as error:
            if create_pr:
                where = f"{api.endpoint}/{repo_id}/discussions"
                raise UnreachableError(f"{error}, unless the pull request is there already: see {where}") from error
            if not has_moved(api, repo_id, revision, there.sha):
                raise
    raise ConflictError(f"Others keep changing {repo_id}{TRY_AGAIN}")


def open_repository(api: HfApi, repo_id: str, private: bool, create_pr: bool, revision: str | None) -> ModelInfo:
    """What the Hub says of a repository's branch; both are made where they are missing."""
    try:
        info = api.model_info(repo_id, revision=revision, files_metadata=True, timeout=TIMEOUT)
        if private and not info.private:
            raise AccessError(
                f"{repo_id} is there and public: make it private in its settings, or publish without private"
            )
        return info
    except RevisionNotFoundError:
        pass
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        if create_pr:
            raise
        # None: as the organisation has set it
        api.create_repo(repo_id, private=private or None, exist_ok=True)
    if revision not in (None, constants.DEFAULT_REVISION):
        api.create_branch(repo_id, branch=str(revision), exist_ok=True)
    return api.model_info(repo_id, revision=revision, files_metadata=True, timeout=TIMEOUT)


def has_moved(api: HfApi, repo_id: str, revision: str | None, sha: str | None) -> bool:
    """Whether a branch is at another commit: the answer to ours may have been lost after it was carried out."""
    try:
        return api.model_info(repo_id, revision=revision, timeout=TIMEOUT).sha != sha
    except Exception:  # the Hub is down; what led here says so
        return False


def published_files(folder: Path) -> dict[str, Path]:
    """The files of a folder that belong to a checkpoint or adapter, by their names in the repository."""
    patterns = [*READ, *SHOWN, "samples/*.png", "pipeline.py", "generator_model/modeling_*.py"]
    paths = {path.relative_to(folder).as_posix(): path for pattern in patterns for path in folder.glob(pattern)}
    return {name: path for name, path in sorted(paths.items()) if is_published(name) and path.is_file()}


def is_published(name: str) -> bool:
    """Whether a file of this name belongs to a checkpoint or adapter."""
    return name in READ or name in SHOWN or bool(SAMPLE.fullmatch(name) or CODE.fullmatch(name))


def changes(
    folder: Path, files: Mapping[str, Path], repo_id: str, there: ModelInfo, token: str | bool | None
) -> list[CommitOperationAdd | CommitOperationDelete]:
    """What makes the checkpoint that is there the one in the folder. The client leaves out what is equal."""
    from sharingan_hub import cards

    contents: dict[str, Path | bytes] = {**files}
    if "report.json" in files:
        report = read_json(files["report.json"])
        if (public := cards.public_report(report)) != report:
            contents["report.json"] = (json.dumps(public, indent=2) + "\n").encode()
    text = str(cards.build_card(folder, repo_id))
    own = read_text(folder / "README.md")
    theirs = None
    if card := [file for file in there.siblings or [] if file.rfilename == "README.md"]:
        theirs = read_text(fetch(repo_id, there.sha, card, token) / "README.md")
    text = cards.update_card(text, own)
    if not (own and theirs and cards.is_as_written(theirs)):  # edits that were made there go before those made here
        text = cards.update_card(text, theirs)
    if not text.strip():
        raise CheckpointError("The model card came out blank: write into README.md what the model is")
    contents["README.md"] = text.encode()
    gone = {file.rfilename for file in there.siblings or []} - contents.keys()
    return [
        *(CommitOperationAdd(name, content) for name, content in contents.items()),
        *(CommitOperationDelete(name, is_folder=False) for name in sorted(gone) if is_published(name)),
    ]


def read_text(path: Path) -> str | None:
    """A text file, whatever its bytes; None where there is none."""
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
