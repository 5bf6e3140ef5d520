"""Fetching checkpoints from the Hub and reading them. No code that came with a checkpoint is ever run."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError, safe_open

import sharingan_hub

DEFAULT = Path(__file__).parent / "embedded" / "default"
# What a checkpoint may be made of; nothing else of a repository is downloaded.
ALLOW_PATTERNS = [
    "model_index.json",
    "generator_model/config.json",
    "generator_model/diffusion_pytorch_model.safetensors",
    "discriminator/config.json",
    "discriminator/diffusion_pytorch_model.safetensors",
    "ticket.safetensors",
    "report.json",
    "README.md",
    "samples/*.png",
]
KNOWN_GENERATORS = ("RadialGenerator", "StyleGAN2Generator")
WEIGHTS = "diffusion_pytorch_model.safetensors"
TIMEOUT = 5.0  # seconds that the Hub may take to answer
MAX_JSON_BYTES = 2**20
MAX_CONFIG_NUMBER = 2**20
MAX_LAYERS = 64
MAX_RESOLUTION = 8192


class HubError(Exception):
    """A problem with the Hub or with what came from it, in one sentence that a visitor can act on."""


class RepositoryError(HubError):
    """The repository or its revision is not there, or not for this visitor."""


class UnreachableError(HubError):
    """The Hub does not answer, and the local cache does not hold what is asked for."""


class CheckpointError(HubError, ValueError):
    """The folder is no checkpoint that this project can open."""


def locate(
    model: str | os.PathLike | None,
    revision: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
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
    return pull(model, revision, token, local_files_only)


def pull(
    repo_id: str, revision: str | None = None, token: str | bool | None = None, local_files_only: bool = False
) -> Path:
    """Fetch a checkpoint from the Hub and return its local folder; where the Hub is unreachable, the cached one.

    Raises:
        RepositoryError: no such repository or revision, or no access to it.
        UnreachableError: the Hub does not answer and nothing is cached.
    """
    cause: Exception | None = None
    name = repo_id if revision is None else f"{repo_id} at revision {revision}"
    if not local_files_only:
        try:
            # snapshot_download asks the same with no time limit: a Hub that accepts and never answers would block it.
            sha = HfApi(token=token).repo_info(repo_id, revision=revision, timeout=TIMEOUT).sha
            folder = Path(snapshot_download(repo_id, revision=sha, token=token, allow_patterns=ALLOW_PATTERNS))
            remember(folder, revision or "main")
            return folder
        except HFValidationError as error:
            raise RepositoryError(f"{repo_id!r} is no Hub id; one looks like 'user/name'") from error
        except GatedRepoError as error:
            raise RepositoryError(f"{repo_id} asks for consent: accept its terms on the Hub and log in") from error
        except RepositoryNotFoundError as error:
            raise RepositoryError(f"There is no model {repo_id} on the Hub, or it is private: log in") from error
        except RevisionNotFoundError as error:
            raise RepositoryError(f"The model {repo_id} has no revision {revision}") from error
        except Exception as error:  # no network, no answer, half an answer: these errors share no base class
            cause = error
    try:
        return Path(snapshot_download(repo_id, revision=revision, local_files_only=True, allow_patterns=ALLOW_PATTERNS))
    except HFValidationError as error:
        raise RepositoryError(f"{repo_id!r} is no Hub id; one looks like 'user/name'") from error
    except FileNotFoundError as error:
        if local_files_only:
            raise UnreachableError(f"{name} is not in the local cache, and the network was not to be used") from error
        reason = type(cause).__name__
        raise UnreachableError(
            f"The Hub cannot be reached ({reason}), and {name} is not in the local cache: try again later"
        ) from cause


def remember(snapshot: Path, revision: str) -> None:
    """Note in the cache which commit a branch or tag was, as the client does where it is asked by name."""
    if snapshot.name == revision:
        return
    ref = snapshot.parent.parent / "refs" / revision
    ref.parent.mkdir(parents=True, exist_ok=True)
    new = ref.with_name(f".{ref.name}.new")
    new.write_text(snapshot.name)
    os.replace(new, ref)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of a checkpoint folder that holds one object.

    Raises:
        CheckpointError: it is missing, too large, or something else.
    """
    name = path.name if path.name == "model_index.json" else f"{path.parent.name}/{path.name}"
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"{name} is larger than {MAX_JSON_BYTES // 2**20} MB, which no configuration is")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{name} is missing or cannot be read: this is no SharinGAN Hub checkpoint") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{name} is not valid JSON") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{name} must hold a JSON object, not a {type(content).__name__}")
    return content


def read_generator(folder: Path, dtype: torch.dtype = torch.float32) -> ModelMixin:
    """The generator of a checkpoint folder, on the CPU, ready for inference.

    Names and shapes of all tensors are compared with the configuration before any memory is taken.

    Raises:
        CheckpointError: a file is missing or malformed, the class is unknown, or the weights do not fit.
    """
    component = read_json(folder / "model_index.json").get("generator_model")
    if not (isinstance(component, list) and len(component) == 2 and isinstance(component[1], str)):
        raise CheckpointError("model_index.json names no generator_model: this is no SharinGAN Hub checkpoint")
    class_name = component[1]
    if class_name not in KNOWN_GENERATORS:
        known = ", ".join(KNOWN_GENERATORS)
        raise CheckpointError(f"The checkpoint's generator is a {class_name[:60]!r}; this version knows {known}")
    config = read_json(folder / "generator_model" / "config.json")
    config = {name: value for name, value in config.items() if not name.startswith("_")}
    for name, value in config.items():
        check_config_value(name, value)
    try:
        with torch.device("meta"):  # shapes only, no memory
            model = getattr(sharingan_hub, class_name)(**config)
    except Exception as error:  # whatever a hostile value makes a constructor do
        raise CheckpointError(f"generator_model/config.json does not describe a {class_name}: {error}") from error
    if not 4 <= model.resolution <= MAX_RESOLUTION:
        raise CheckpointError(f"The checkpoint's resolution is {model.resolution}; it must be 4 to {MAX_RESOLUTION}")
    weights = read_weights(folder / "generator_model" / WEIGHTS, model.state_dict(), dtype)
    model.load_state_dict(weights, assign=True)
    return model.eval()


def check_config_value(name: str, value: Any) -> None:
    """Refuse configuration values of a type or size that no generator has."""
    items = value if isinstance(value, list) and len(value) <= 1024 else [value]
    # Layers cost a constructor time, other sizes nothing: it allocates no memory.
    largest = MAX_LAYERS if name.endswith("layers") else MAX_CONFIG_NUMBER
    for item in items:
        if isinstance(item, int | float):
            ordinary = abs(item) <= largest  # not so for NaN
        else:
            ordinary = item is None or (isinstance(item, str) and len(item) <= 256)
        if not ordinary:
            raise CheckpointError(f"generator_model/config.json has {name} = {str(value)[:60]}, which no generator has")


def read_weights(
    path: Path, expected: Mapping[str, torch.Tensor], dtype: torch.dtype = torch.float32
) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file as `dtype`, if their names and shapes are exactly the expected ones.

    Raises:
        CheckpointError: they are not, a tensor is not floating-point or not finite, or the file is missing or damaged.
    """
    where = f"{path.parent.name}/{path.name}"
    if not path.is_file():
        raise CheckpointError(f"{where} is missing: weights are read as safetensors only")
    tensors = {}
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = set(file.keys())
            if names != expected.keys():
                odd = min(names ^ expected.keys())
                problem = "has an unknown tensor" if odd in names else "lacks tensor"
                raise CheckpointError(f"{where} {problem} {odd[:80]!r}: it does not fit config.json")
            for name, like in expected.items():
                shape = tuple(file.get_slice(name).get_shape())
                if shape != tuple(like.shape):
                    raise CheckpointError(f"{where}: {name} has shape {shape}, config.json says {tuple(like.shape)}")
            for name in expected:
                tensor = file.get_tensor(name)
                if not tensor.is_floating_point():
                    raise CheckpointError(f"{where}: {name} is of type {tensor.dtype}, not floating-point")
                # A copy: the tensor itself lives in the file, which may be replaced under it
                tensors[name] = tensor.to(dtype, copy=True)
                if not tensors[name].isfinite().all():
                    raise CheckpointError(f"{where}: {name} holds NaN or infinite values")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{where} is damaged or no safetensors file: {error}") from error
    return tensors
