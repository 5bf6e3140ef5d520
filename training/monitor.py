"""What is watched of a run: its curves, and whether its generator has collapsed. Kept over resumes.

A generator has collapsed where its pictures are all but alike, and were not before. That is measured at each checkpoint: the mean
distance of pairs of its pictures, in the features of the domain network, over that of the training pictures. The pictures are
those of fixed latents that differ in z alone, so order and phase lend no variety to a generator that has lost its own.
"""

import importlib.util
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharingan_hub.features import features_of

logger = logging.getLogger(__name__)

COLLAPSED = 0.2  # of the training pictures' diversity; at two checks running
MOST_PICTURES = 128  # of the training pictures that are looked at

Row = dict[str, float]


def diversity(features: Tensor) -> float:
    """Mean distance of pairs of features (N,D)."""
    return float(torch.pdist(features).mean())


class Monitor:
    """The history of a run.

    rows: statistics as they were logged, with their step. checks: at checkpoints, `step`, `diversity` (of fakes over that of
    the training pictures) and, where it was asked for, `kid`.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.rows: list[Row] = []
        self.checks: list[Row] = []
        self._real: Tensor | None = None

    @property
    def collapsed(self) -> int | None:
        """The step at which a collapse was first seen. What had no variety yet, as at the start from scratch, cannot lose it."""
        varied = False
        for earlier, check in zip(self.checks, self.checks[1:]):
            varied |= earlier["diversity"] >= COLLAPSED
            if varied and max(earlier["diversity"], check["diversity"]) < COLLAPSED:
                return int(check["step"])
        return None

    @property
    def best(self) -> int | None:
        """The checkpoint with the lowest KID."""
        known = [check for check in self.checks if "kid" in check]
        return int(min(known, key=lambda check: check["kid"])["step"]) if known else None

    def check(self, step: int, fakes: Tensor, with_kid: bool) -> None:
        """Look at pictures (N,3,S,S) in [-1,1] of fixed latents; warn where the generator has just collapsed."""
        if self._real is None:
            reals = self.dataset.batch(range(min(len(self.dataset), MOST_PICTURES)))[0]
            self._real = features_of((reals + 1) / 2)
        features = features_of((fakes.clamp(-1, 1) + 1) / 2)
        check = {"step": step, "diversity": diversity(features) / max(diversity(self._real), 1e-12)}
        if with_kid:
            from training.metrics import kid

            check["kid"] = kid(self._real, features).value
        before = self.collapsed
        self.checks.append(check)
        if before is None and self.collapsed is not None:
            logger.warning(
                "Step %d: the generator has collapsed; its pictures differ by %.0f %% of what the training pictures do.",
                step,
                100 * check["diversity"],
            )

    def draw(self, path: Path) -> None:
        """Write the curves as a PNG, where there are any and matplotlib is installed (a Space does without)."""
        if len(self.rows) > 1 and importlib.util.find_spec("matplotlib") is not None:
            from training.plots import training_curves

            marks = {"collapse": self.collapsed, "best": self.best if self.collapsed else None}
            training_curves(self.rows, self.checks, {name: step for name, step in marks.items() if step}, path)

    def state_dict(self) -> dict[str, list[Row]]:
        return {"rows": self.rows, "checks": self.checks}

    def load_state_dict(self, state: dict[str, list[Row]]) -> None:
        self.rows, self.checks = state["rows"], state["checks"]
