"""Laying adapters over the weights of a generator, and finding them and their bases on this disk or the Hub."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharingan_hub import hub
from sharingan_hub.cards import read_card
from sharingan_hub.checkpoints.adapters import (
    CONFIG,
    Adapter,
    is_adapter,
    name_of,
    order_mix,
    read_adapter,
    read_config,
)
from sharingan_hub.checkpoints.folder import component
from sharingan_hub.checkpoints.strict import CheckpointError, label, printable, shown

# The bases inside the package, by what adapters of them call them: training names a base that is a folder by its last part.
EMBEDDED = {
    f"{place}{name}": Path(__file__).parents[1] / "embedded" / name
    for name in ("default", "source")
    for place in ("sharingan_hub/embedded/", "")
}


def locate_base(folder: Path, token: str | bool | None = None, local_files_only: bool = False) -> Path:
    """The checkpoint folder of an adapter's base, fetched from the Hub where it lies there.

    The configuration names it, or else the card. A name is only ever that of a base inside the package or a Hub id: an
    adapter may come from a stranger, who has no say in what is opened of this disk.

    Raises:
        CheckpointError: the adapter is malformed, does not say what its base is, or its base is an adapter again.
        HubError: the base cannot be fetched.
    """
    named = read_config(folder)["base_model"]
    for name in (named, _base_in_card(folder)):
        if name in EMBEDDED:
            return EMBEDDED[name]
        if name is not None and re.fullmatch(r"\w[\w\-.]*/\w[\w\-.]*", name):
            base = hub.pull(name, token=token, local_files_only=local_files_only)
            if is_adapter(base):
                raise CheckpointError(
                    f"{printable(name_of(folder))} is an adapter of {printable(name)}, which is no checkpoint but an adapter itself"
                )
            return base
    told = "names no base" if named is None else f"calls its base {shown(named)}, which is no Hub id"
    raise CheckpointError(
        f"{label(folder / CONFIG)} {told}: open its base with from_pretrained, then load_adapter puts it over that"
    )


def _base_in_card(folder: Path) -> str | None:
    """The base_model that the head of README.md names, if it is one."""
    named = read_card(folder)[0].get("base_model")
    names = named if isinstance(named, list) else [named]
    return names[0] if len(names) == 1 and isinstance(names[0], str) else None


class Blend:
    """A generator whose weights are those of the base plus weight x change for each adapter laid over it.

    Of the tensors that an adapter changes, and only of those, it keeps the base's, so that taking all adapters off
    brings back the same bits. With orders, their mix moves along as the weights do.

    Args:
        generator: the base; it is changed in place.
    """

    def __init__(self, generator: Any) -> None:
        self.generator = generator
        self.parts: dict[str, tuple[Adapter, float, Path]] = {}
        self.base: dict[str, Tensor] = {}
        self.order_probs: list[float] | None = None  # the base's, while an adapter changes it
        self.mixed = False

    @property
    def weights(self) -> dict[str, float]:
        """Name and weight of each adapter, in the order in which they came."""
        return {name: weight for name, (_, weight, _) in self.parts.items()}

    def add(
        self,
        folder: str | os.PathLike[str],
        weight: float,
        name: str | None,
        revision: str | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
    ) -> None:
        """Lay an adapter over the base, or give one that is there another weight.

        folder: local folder or Hub id, of an adapter or of a checkpoint that has one in `adapter/`.

        Raises:
            HubError: it cannot be fetched or read, or is for another base.
            ValueError: the name belongs to another adapter, or the weights come out infinite. Nothing has changed then.
        """
        if not isinstance(folder, str | os.PathLike):
            raise TypeError(
                f"folder is a {type(folder).__name__}; it must be the path of an adapter's folder or a Hub id"
            )
        path = hub.locate(folder, revision, token, local_files_only).resolve()
        if not os.path.lexists(path / CONFIG) and os.path.lexists(path / "adapter" / CONFIG):
            path = component(path, "adapter")
        name = name_of(path) if name is None else name
        if name in self.parts and self.parts[name][2] != path:
            raise ValueError(f"name is {name!r}, which another adapter has; give another name, or unload that one")
        adapter = read_adapter(path, self.generator, {**self.generator.state_dict(), **self.base})
        self.lay({**self.parts, name: (adapter, weight, path)})

    def remove(self, name: str | None) -> None:
        """Take one adapter off, or all of them (None).

        Raises:
            ValueError: there is no adapter of this name.
        """
        if name is not None and name not in self.parts:
            there = ", ".join(map(repr, self.parts)) or "none"
            raise ValueError(f"name is {name!r}; the adapters loaded are: {there}")
        self.lay({key: part for key, part in self.parts.items() if name is not None and key != name})

    @torch.no_grad()
    def lay(self, parts: dict[str, tuple[Adapter, float, Path]]) -> None:
        """Make the weights those of the base with these adapters, or raise ValueError and leave them."""
        state = self.generator.state_dict()
        touched = {name for adapter, _, _ in parts.values() for name in adapter.changes}
        base = {name: self.base[name] if name in self.base else state[name].clone() for name in touched}
        new: dict[str, Tensor] = {}
        for name in touched:
            total = base[name].to(state[name].device, torch.promote_types(base[name].dtype, torch.float32))
            for key in sorted(parts):  # always in the same order: sums of floats depend on it
                adapter, weight, _ = parts[key]
                if name in adapter.changes:
                    total = total + weight * adapter.delta(name, total)
            new[name] = total.to(state[name].dtype)
            if not new[name].isfinite().all():
                raise ValueError(f"weight makes {name} infinite in {state[name].dtype}; give a smaller one")
        for name in self.base.keys() - touched:
            state[name].copy_(self.base[name])
        for name, tensor in new.items():
            state[name].copy_(tensor)
        self.base, self.parts = base, parts
        self._mix_orders()

    def _mix_orders(self) -> None:
        mixes = [(adapter.order_probs, weight) for adapter, weight, _ in self.parts.values() if adapter.order_probs]
        if self.mixed:
            self.generator.register_to_config(order_probs=self.order_probs)
        self.mixed = bool(mixes)
        if not mixes:
            return
        self.order_probs = self.generator.config.order_probs
        share = 1 - sum(weight for _, weight in mixes)
        total = [share * p for p in order_mix(self.generator) or []]
        for probs, weight in mixes:
            total = [t + weight * p for t, p in zip(total, probs)]
        total = [max(0.0, p) for p in total]  # weights outside 0 to 1 can ask for less than never
        self.generator.register_to_config(order_probs=[p / sum(total) for p in total])
