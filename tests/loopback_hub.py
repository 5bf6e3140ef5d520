"""A Hugging Face Hub in memory, on this machine, that speaks the real one's protocol to the real client.

    hub = LoopbackHub(tokens={"hf_maker": User("maker")})
    hub.add("maker/eyes", {"README.md": b"card"})           # or by the client: create_repo, create_commit ...
    hub.fail("drop", lambda request: request.method == "PUT")   # faults, by a condition or by a request's number
    hub.requests                                            # what came, and how many bytes went in and out

A client finds it by HF_ENDPOINT = hub.endpoint, with HF_HUB_DISABLE_XET=1. It holds models, as "user/name", and Spaces, as "spaces/user/name".
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlencode

import yaml

from tests.loopback_server import Answer, LoopbackServer, Refusal, Request

LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".zip")
START = datetime(2025, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class File:
    """A file of a revision, in git or in the large file store."""

    data: bytes
    lfs: bool = False

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n".encode()

    @cached_property
    def oid(self) -> str:
        """Hash by which git knows it: of a large file, that of the pointer to it."""
        content = self.pointer if self.lfs else self.data
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid


@dataclass(frozen=True)
class Revision:
    """A commit: its hash, and all files as they are after it."""

    sha: str
    files: dict[str, File]
    title: str
    date: datetime

    @cached_property
    def card(self) -> dict[str, Any]:
        """The YAML head of README.md."""
        text = self.files["README.md"].data.decode() if "README.md" in self.files else ""
        head = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
        card = yaml.safe_load(head[1]) if head else None
        return card if isinstance(card, dict) else {}


class Repo:
    """A repository: `history` is of its main branch, oldest first; `refs` are branches, tags and pull requests."""

    def __init__(self, name: str, private: bool = False) -> None:
        self.name, self.private, self.gated = name, private, False
        self.downloads = self.likes = 0
        self.revisions: dict[str, Revision] = {}
        self.refs: dict[str, str] = {}
        self.tags: set[str] = set()
        self.history: list[Revision] = []
        self.commit("main", {".gitattributes": File(b"*.safetensors filter=lfs\n")}, "initial commit")

    @property
    def head(self) -> Revision:
        return self.history[-1]

    @property
    def files(self) -> dict[str, bytes]:
        """What main holds now, without the .gitattributes that every repository starts with."""
        return {name: file.data for name, file in self.head.files.items() if name != ".gitattributes"}

    def find(self, revision: str) -> Revision | None:
        return self.revisions.get(self.refs.get(revision, revision))

    def commit(self, ref: str, files: dict[str, File], title: str) -> Revision:
        content = "".join(f"{name} {file.etag}\n" for name, file in sorted(files.items()))
        sha = hashlib.sha1(f"{self.name} {ref} {len(self.revisions)}\n{content}".encode()).hexdigest()
        revision = Revision(sha, files, title, START + timedelta(minutes=len(self.revisions)))
        self.revisions[sha] = revision
        self.refs[ref] = sha
        if ref == "main":
            self.history.append(revision)
        return revision


class User(NamedTuple):
    """Who a token is of, and whether it may write."""

    name: str
    can_write: bool = True


class LoopbackHub(LoopbackServer):
    """The server.

    Args:
        tokens: user of each token.
        page_size: how many models or files one answer lists at most.
    """

    def __init__(self, tokens: dict[str, User] | None = None, page_size: int = 100) -> None:
        super().__init__()
        self.tokens, self.page_size = tokens or {}, page_size
        self.repos: dict[str, Repo] = {}
        self.store: dict[str, bytes] = {}  # large files, by SHA-256

    def add(self, name: str, files: dict[str, bytes], private: bool = False) -> Repo:
        """Make a repository, or a new revision of one, that holds exactly these files."""
        repo = self.repos.setdefault(name, Repo(name, private))
        new = {path: File(data, is_lfs(path, len(data))) for path, data in files.items()}
        self.store |= {file.sha256: file.data for file in new.values() if file.lfs}
        repo.commit("main", {".gitattributes": repo.head.files[".gitattributes"], **new}, "Upload")
        return repo

    # What the Hub does. Each method answers one kind of request; the groups of its pattern are its arguments.

    def answer(self, request: Request) -> Answer:
        path = request.path.replace("/api/spaces/", "/api/models/spaces/", 1)
        for method, pattern, action in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and request.method in method.split("|"):
                try:
                    with self.lock:
                        return action(self, request, *(unquote(group or "") for group in found.groups()))
                except Refusal as refusal:
                    return refusal.answer
        return Refusal(404, "Sorry, we can't find the page you are looking for.").answer

    def user(self, request: Request) -> User | None:
        if request.token is not None and request.token not in self.tokens:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self.tokens[request.token] if request.token else None

    def may_write(self, user: User | None, repo: str) -> bool:
        return user is not None and user.can_write and user.name == owner(repo)

    def open(self, request: Request, name: str) -> Repo:
        """The repository, if it is there for this visitor."""
        user = self.user(request)
        repo = self.repos.get(name)
        if repo is None or (repo.private and (user is None or user.name != owner(name))):
            status, message = (404, "Repository not found") if user else (401, "Invalid username or password.")
            raise Refusal(status, message, "RepoNotFound")
        if repo.gated and not self.may_write(user, name):
            raise Refusal(403 if user else 401, f"Access to model {name} is restricted.", "GatedRepo")
        return repo

    def open_at(self, request: Request, name: str, revision: str) -> tuple[Repo, Revision]:
        repo = self.open(request, name)
        found = repo.find(revision or "main")
        if found is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return repo, found

    def open_to_write(self, request: Request, name: str, revision: str) -> tuple[Repo, Revision]:
        repo, found = self.open_at(request, name, revision)
        user = self.user(request)
        if "create_pr" in request.query and user is not None:
            return repo, found
        if not self.may_write(user, name):
            raise Refusal(403 if user else 401, "You don't have the rights to write to this repository")
        return repo, found

    def whoami(self, request: Request) -> Answer:
        user = self.user(request)
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        role = "write" if user.can_write else "read"
        return Answer.json({"type": "user", "name": user.name, "orgs": [], "auth": {"accessToken": {"role": role}}})

    def create_repo(self, request: Request) -> Answer:
        user = self.user(request)
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        kind = "spaces/" if request.json.get("type") == "space" else ""
        name = f"{kind}{request.json['organization'] or user.name}/{request.json['name']}"
        if not self.may_write(user, name):
            raise Refusal(403, f"You don't have the rights to create a model under the namespace {owner(name)!r}")
        url = {"url": f"{self.endpoint}/{name}"}
        if name in self.repos:
            return Answer.json({"error": "You already created this model repo", **url}, 409)
        self.repos[name] = Repo(name, request.json.get("visibility") == "private" or bool(request.json.get("private")))
        if kind:  # the Hub writes a Space's first card itself
            card = f"---\ntitle: New\nemoji: 🐨\nsdk: {request.json['sdk']}\napp_file: app.py\n---\n\nCheck out\n"
            self.repos[name].commit("main", {**self.repos[name].head.files, "README.md": File(card.encode())}, "card")
        return Answer.json(url)

    def delete_repo(self, request: Request) -> Answer:
        name = f"{request.json['organization'] or getattr(self.user(request), 'name', '')}/{request.json['name']}"
        self.open_to_write(request, name, "")
        del self.repos[name]
        return Answer.json({})

    def validate_yaml(self, request: Request) -> Answer:
        head = re.match(r"---\n(.*?)\n---", request.json["content"], re.DOTALL)
        if head is None:
            return Answer.json({"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]})
        try:
            yaml.safe_load(head[1])
        except yaml.YAMLError as error:
            return Answer.json({"errors": [{"message": str(error)}], "warnings": []}, 400)
        return Answer.json({"errors": [], "warnings": []})

    def model_info(self, request: Request, name: str, revision: str = "") -> Answer:
        repo, found = self.open_at(request, name, revision)
        return Answer.json(describe(repo, found, full=True, card=True, blobs="blobs" in request.query))

    def list_models(self, request: Request) -> Answer:
        user, query = self.user(request), {key: values[0] for key, values in request.query.items()}
        wanted = set(request.query.get("filter", []))
        shown = [
            repo
            for repo in self.repos.values()
            if not repo.name.startswith("spaces/")
            and (not repo.private or (user is not None and user.name == owner(repo.name)))
            and query.get("search", "").lower() in repo.name.lower()
            and query.get("author", owner(repo.name)) == owner(repo.name)
            and wanted <= set(tags_of(repo.head.card))
        ]
        key = query.get("sort", "downloads")
        shown.sort(key=lambda repo: repo.head.date if key == "lastModified" else getattr(repo, key, 0), reverse=True)
        page, link = self.page(request, shown, min(int(query.get("limit", self.page_size)), self.page_size))
        full, card = "full" in query, "cardData" in query
        return Answer.json([describe(repo, repo.head, full, card) for repo in page], **link)

    def page(self, request: Request, items: list, size: int) -> tuple[list, dict[str, str]]:
        """One page of a list, and the header that says where the next one is."""
        start = int(request.query.get("cursor", ["0"])[0])
        rest = urlencode({**request.query, "cursor": start + size}, doseq=True)
        url = f"{self.endpoint}{quote(request.path, safe='/%')}?{rest}"
        return items[start : start + size], {"Link": f'<{url}>; rel="next"'} if start + size < len(items) else {}

    def tree(self, request: Request, name: str, revision: str, folder: str) -> Answer:
        _, found = self.open_at(request, name, revision)
        prefix = f"{folder}/" if folder else ""
        recursive = request.query.get("recursive") == ["true"]
        entries: dict[str, dict[str, Any]] = {}
        for path, file in sorted(found.files.items()):
            if not path.startswith(prefix):
                continue
            parts = path[len(prefix) :].split("/")
            for depth in range(1, len(parts) if recursive else min(2, len(parts))):
                parent = prefix + "/".join(parts[:depth])
                entries.setdefault(parent, {"type": "directory", "oid": "0" * 40, "size": 0, "path": parent})
            if recursive or len(parts) == 1:
                lfs = {"oid": file.sha256, "size": len(file.data), "pointerSize": len(file.pointer)}
                entry = {"type": "file", "oid": file.oid, "size": len(file.data), "path": path}
                entries[path] = {**entry, "lfs": lfs} if file.lfs else entry
        page, link = self.page(request, list(entries.values()), self.page_size)
        return Answer.json(page, **link)

    def refs(self, request: Request, name: str) -> Answer:
        repo = self.open(request, name)
        told: dict[str, list] = {"branches": [], "tags": [], "converts": []}
        for ref, sha in repo.refs.items():
            kind, place = ("tags", "tags") if ref in repo.tags else ("branches", "heads")
            if not ref.startswith("refs/pr/"):
                told[kind].append({"name": ref, "ref": f"refs/{place}/{ref}", "targetCommit": sha})
        return Answer.json(told)

    def add_ref(self, request: Request, name: str, kind: str, revision: str) -> Answer:
        start = request.json.get("startingPoint", "main") if kind == "branch" else revision
        repo, found = self.open_to_write(request, name, start)
        ref = revision if kind == "branch" else request.json["tag"]
        if ref in repo.refs:
            raise Refusal(409, f"Reference already exists: {ref}")
        repo.refs[ref] = found.sha
        if kind == "tag":
            repo.tags.add(ref)
        return Answer.json({})

    def preupload(self, request: Request, name: str, revision: str) -> Answer:
        _, found = self.open_to_write(request, name, revision)
        files = []
        for asked in request.json["files"]:
            path, old = asked["path"], found.files.get(asked["path"])
            mode = "lfs" if is_lfs(path, asked["size"]) else "regular"
            oid = {} if old is None else {"oid": old.etag}
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **oid})
        return Answer.json({"files": files})

    def lfs_batch(self, request: Request, name: str) -> Answer:
        self.open(request, name)
        objects = []
        for asked in request.json["objects"]:
            upload = {"href": f"{self.endpoint}/lfs/{asked['oid']}"}
            actions = {"upload": upload, "verify": {"href": f"{self.endpoint}/lfs/verify"}}
            objects.append({**asked, **({} if asked["oid"] in self.store else {"actions": actions})})
        return Answer.json({"transfer": "basic", "objects": objects})

    def lfs_put(self, request: Request, oid: str) -> Answer:
        if hashlib.sha256(request.body).hexdigest() != oid:
            raise Refusal(400, "BadDigest: what came is not what was announced")
        self.store[oid] = request.body
        return Answer()

    def lfs_verify(self, request: Request) -> Answer:
        stored = self.store.get(request.json["oid"])
        if stored is None or len(stored) != request.json["size"]:
            raise Refusal(404, "The object was not uploaded")
        return Answer.json({})

    def commit(self, request: Request, name: str, revision: str) -> Answer:
        """All of it or nothing: files are collected first, and become a revision only in the end."""
        repo, parent = self.open_to_write(request, name, revision)
        lines = [json.loads(line) for line in request.body.splitlines()]
        header, files = lines[0]["value"], dict(parent.files)
        if header.get("parentCommit") not in (None, parent.sha):
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        for key, value in ((line["key"], line["value"]) for line in lines[1:]):
            path = value["path"]
            if key == "file":
                files[path] = File(base64.b64decode(value["content"]))
            elif key == "lfsFile":
                if value["oid"] not in self.store:
                    raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {path}")
                files[path] = File(self.store[value["oid"]], lfs=True)
            elif key == "deletedFile":
                if files.pop(path, None) is None:
                    raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
            elif key == "deletedFolder":
                files = {p: file for p, file in files.items() if not p.startswith(path.rstrip("/") + "/")}
        pull_request = f"refs/pr/{1 + sum(ref.startswith('refs/pr/') for ref in repo.refs)}"
        create_pr = "create_pr" in request.query
        new = repo.commit(pull_request if create_pr else revision, files, header["summary"])
        answer = {"success": True, "commitOid": new.sha, "commitUrl": f"{self.endpoint}/{name}/commit/{new.sha}"}
        if create_pr:
            answer["pullRequestUrl"] = f"{self.endpoint}/{name}/discussions/{pull_request.rpartition('/')[2]}"
        return Answer.json(answer)

    def resolve(self, request: Request, name: str, revision: str, path: str) -> Answer:
        _, found = self.open_at(request, name, revision)
        file, commit = found.files.get(path), {"X-Repo-Commit": found.sha}
        if file is None:
            raise Refusal(404, "Entry not found", "EntryNotFound", **commit)
        headers = commit | {"ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"}
        if file.lfs:
            headers |= {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(len(file.data))}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.range or "")
        if asked is None:
            return Answer(200, file.data, headers)
        start, size = int(asked[1]), len(file.data)
        if start >= size:
            return Answer(416, b"", {"Content-Range": f"bytes */{size}"})
        body = file.data[start : int(asked[2]) + 1 if asked[2] else size]
        return Answer(206, body, headers | {"Content-Range": f"bytes {start}-{start + len(body) - 1}/{size}"})


ID = r"/((?:spaces/)?[^/]+/[^/]+)"
ROUTES: list[tuple[str, str, Callable[..., Answer]]] = [
    ("GET", "/api/whoami-v2", LoopbackHub.whoami),
    ("POST", "/api/repos/create", LoopbackHub.create_repo),
    ("DELETE", "/api/repos/delete", LoopbackHub.delete_repo),
    ("POST", "/api/validate-yaml", LoopbackHub.validate_yaml),
    ("GET", "/api/models", LoopbackHub.list_models),
    ("GET", f"/api/models{ID}(?:/revision/([^/]+))?", LoopbackHub.model_info),
    ("GET", f"/api/models{ID}/tree/([^/]+)(?:/(.+))?", LoopbackHub.tree),
    ("GET", f"/api/models{ID}/refs", LoopbackHub.refs),
    ("POST", f"/api/models{ID}/(branch|tag)/([^/]+)", LoopbackHub.add_ref),
    ("POST", f"/api/models{ID}/preupload/([^/]+)", LoopbackHub.preupload),
    ("POST", f"/api/models{ID}/commit/([^/]+)", LoopbackHub.commit),
    ("POST", rf"{ID}\.git/info/lfs/objects/batch", LoopbackHub.lfs_batch),
    ("PUT", "/lfs/([0-9a-f]{64})", LoopbackHub.lfs_put),
    ("POST", "/lfs/verify", LoopbackHub.lfs_verify),
    ("GET|HEAD", f"{ID}/resolve/([^/]+)/(.+)", LoopbackHub.resolve),
]


def owner(name: str) -> str:
    """Whose a repository is."""
    return name.split("/")[-2]


def in_words(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z")


def is_lfs(path: str, size: int) -> bool:
    return path.endswith(LFS_SUFFIXES) or size > 10 * 2**20


def tags_of(card: dict[str, Any]) -> list[str]:
    """The tags by which the Hub finds a model: those of its card, and some that it makes of other entries."""
    tags = [str(tag) for tag in card.get("tags") or []]
    tags += [f"{key}:{card[key]}" for key in ("license", "base_model") if isinstance(card.get(key), str)]
    return tags + [str(card[key]) for key in ("library_name",) if card.get(key)]


def describe(repo: Repo, revision: Revision, full: bool, card: bool, blobs: bool = False) -> dict[str, Any]:
    """A model as the API tells it."""
    told: dict[str, Any] = {
        "id": repo.name.removeprefix("spaces/"),
        "modelId": repo.name,
        "author": owner(repo.name),
        "private": repo.private,
        "gated": "manual" if repo.gated else False,
        "downloads": repo.downloads,
        "likes": repo.likes,
        "tags": tags_of(revision.card),
        "createdAt": in_words(START),
    }
    if full:
        told |= {"sha": revision.sha, "lastModified": in_words(revision.date)}
        told["siblings"] = [{"rfilename": path} for path in revision.files]
    if blobs:
        for sibling, file in zip(told["siblings"], revision.files.values()):
            sibling |= {"size": len(file.data), "blobId": file.oid}
            if file.lfs:
                sibling["lfs"] = {"sha256": file.sha256, "size": len(file.data), "pointerSize": len(file.pointer)}
    return told | ({"cardData": revision.card} if card else {})
