"""Writes pickles as the old StyleGAN2 programs do: same opcodes, module names and class names, none of their code.

Python's own pickler and torch.save do the writing. Stand-ins bear the names of the foreign classes and functions, and are
importable under these names only while a file is written.
"""

from __future__ import annotations

import pickle
import sys
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor


class EasyDict(dict):
    """NVIDIA's dictionary whose keys are attributes too."""


class Network:
    """A network of the TensorFlow programs."""

    def __init__(self, state: dict[str, Any]) -> None:
        self._state = state

    def __getstate__(self) -> dict[str, Any]:
        return self._state


class _Persistent:
    """A module of NVIDIA's PyTorch programs: its pickle calls a function that makes it from source text and state."""

    def __init__(self, meta: dict[str, Any]) -> None:
        self._meta = meta

    def __reduce__(self) -> tuple[Any, ...]:
        return _reconstruct_persistent_obj, (self._meta,), None


def _stand_in(name: str) -> Any:
    raise AssertionError("only its name is ever used")


def _named(thing: Any, module: str, name: str) -> Any:
    thing.__module__, thing.__name__, thing.__qualname__ = module, name, name
    return thing


def _function(module: str, name: str) -> Any:
    return _named(lambda *arguments: _stand_in(name), module, name)


_reconstruct_persistent_obj = _function("torch_utils.persistence", "_reconstruct_persistent_obj")
_scalar = _function("numpy.core.multiarray", "scalar")
_reconstruct = _function("numpy.core.multiarray", "_reconstruct")
_frombuffer = _function("numpy.core.numeric", "_frombuffer")
_named(EasyDict, "dnnlib.util", "EasyDict")
_named(Network, "dnnlib.tflib.network", "Network")
FOREIGN = (EasyDict, Network, _reconstruct_persistent_obj, _scalar, _reconstruct, _frombuffer)


def _foreign_modules() -> dict[str, ModuleType]:
    modules: dict[str, ModuleType] = {}
    for thing in FOREIGN:
        parts = thing.__module__.split(".")
        for end in range(1, len(parts) + 1):
            name = ".".join(parts[:end])
            if name != "numpy":
                modules.setdefault(name, ModuleType(name)).__path__ = []
        setattr(modules[thing.__module__], thing.__name__, thing)
    return modules


class _Pickler(pickle.Pickler):
    """Python's pickler, with the names that numpy 1 gave its functions: the old programs wrote with that."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            reduced = value.__reduce_ex__(self.protocol)
            return (_frombuffer if len(reduced) == 2 else _reconstruct, *reduced[1:])
        if isinstance(value, np.generic):
            return _scalar, value.__reduce__()[1]
        return NotImplemented

    def __init__(self, file: Any, protocol: int) -> None:
        super().__init__(file, protocol)
        self.protocol = protocol


def pickle_foreign(path: Path, content: Any, protocol: int = 4) -> Path:
    """Pickle anything that is made of plain values, arrays, tensors and what the functions below make.

    The programs wrote protocol 3 or 4, as their Python did.
    """
    with mock.patch.dict(sys.modules, _foreign_modules()), open(path, "wb") as file:
        _Pickler(file, protocol).dump(content)
    return path


def nvidia_module(
    class_name: str,
    parameters: Mapping[str, Tensor] | None = None,
    buffers: Mapping[str, Tensor] | None = None,
    modules: Mapping[str, Any] | None = None,
    init_args: Sequence[Any] = (),
    init_kwargs: Mapping[str, Any] | None = None,
    module_src: str = "raise SystemExit('module_src was executed')\n",
    **attributes: Any,
) -> Any:
    """A module as NVIDIA's PyTorch programs pickle it, such as "SynthesisLayer".

    Args:
        class_name: of the module.
        parameters: by name, without those of submodules.
        buffers: by name, as `parameters`.
        modules: submodules by name, made by this function too.
        init_args: arguments that it was made with.
        init_kwargs: keyword arguments that it was made with.
        module_src: source text that the original loader runs.
        attributes: further ones of the object, such as z_dim=512.
    """
    state = {
        "training": False,
        "_parameters": OrderedDict(
            (name, torch.nn.Parameter(value, requires_grad=False)) for name, value in (parameters or {}).items()
        ),
        "_buffers": OrderedDict(buffers or {}),
        "_non_persistent_buffers_set": set(),
        "_backward_hooks": OrderedDict(),
        "_is_full_backward_hook": None,
        "_forward_hooks": OrderedDict(),
        "_forward_pre_hooks": OrderedDict(),
        "_state_dict_hooks": OrderedDict(),
        "_load_state_dict_pre_hooks": OrderedDict(),
        "_modules": OrderedDict(modules or {}),
        **attributes,
        "_init_args": tuple(init_args),
        "_init_kwargs": EasyDict(init_kwargs or {}),
    }
    meta = {"type": "class", "version": 6, "module_src": module_src, "class_name": class_name, "state": state}
    return _Persistent(meta)


def pickle_nvidia(path: Path, protocol: int = 4, **content: Any) -> Path:
    """A snapshot of NVIDIA's PyTorch programs: `pickle_nvidia(path, G=..., D=..., G_ema=..., augment_pipe=None)`."""
    return pickle_foreign(path, {"training_set_kwargs": None, **content}, protocol)


def tensorflow_network(
    name: str,
    variables: Mapping[str, np.ndarray | np.generic],
    static_kwargs: Mapping[str, Any] | None = None,
    components: Mapping[str, Any] | None = None,
    build_func_name: str = "G_main",
    version: int = 5,
    build_module_src: str = "raise SystemExit('build_module_src was executed')\n",
) -> Any:
    """A network as the TensorFlow programs pickle it, such as "Gs".

    Args:
        name: of the network.
        variables: by name, without those of components.
        static_kwargs: what it was configured with.
        components: networks by name, made by this function too.
        build_func_name: the function that the original loader builds it with.
        version: 4 is stylegan2, 5 is stylegan2-ada.
        build_module_src: source text that the original loader runs.
    """
    return Network(
        {
            "version": version,
            "name": name,
            "static_kwargs": dict(static_kwargs or {}),
            "components": dict(components or {}),
            "build_module_src": build_module_src,
            "build_func_name": build_func_name,
            "variables": list(variables.items()),
        }
    )


def pickle_tensorflow(path: Path, *networks: Any, protocol: int = 4) -> Path:
    """A snapshot of the TensorFlow programs: `pickle_tensorflow(path, G, D, Gs)`."""
    return pickle_foreign(path, networks, protocol)


def state_dict(tensors: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    """Tensors by name as `Module.state_dict` returns them: with versions in an attribute, which is pickled too."""
    named: OrderedDict[str, Tensor] = OrderedDict(tensors)
    named._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    return named


def save_torch(path: Path, content: Any, legacy: bool = False) -> Path:
    """torch.save, in the format since 1.6 (a zip archive) or in the one before."""
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path
