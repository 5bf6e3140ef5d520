"""Checkpoints and adapters go to the Hub, with their cards, in one commit."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from sharingan_hub.checkpoints.folder import validate
from sharingan_hub.checkpoints.strict import CheckpointError, check_place, read_json
from sharingan_hub.hub.client import TRY_AGAIN, AccessError, ConflictError, UnreachableError, explained, patience
from sharingan_hub.hub.fetching import CODE, READ, SHOWN, TIMEOUT, fetch
from sharingan_hub.hub.finding import SAMPLE

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

    from sharingan_hub.pipeline_sharingan import SharinganPipeline

PUBLISH_TIMEOUT = 20.0
ATTEMPTS = 5  # to publish while others do


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
    """The files of a folder that belong to a checkpoint or adapter, by their names in the repository.

    Raises:
        CheckpointError: one of them is a link that leads out of the folder: what is there is nobody's business.
    """
    patterns = [*READ, *SHOWN, "samples/*.png", "pipeline.py", "generator_model/modeling_*.py"]
    paths = {path.relative_to(folder).as_posix(): path for pattern in patterns for path in folder.glob(pattern)}
    files = {name: path for name, path in sorted(paths.items()) if is_published(name) and path.is_file()}
    for name, path in files.items():
        check_place(path)
        if "/" in name:
            check_place(path.parent)
    return files


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
