"""The one model that all tabs and visitors share."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import spaces

if TYPE_CHECKING:
    from PIL import Image

    from ..pipeline_sharingan import SharinganPipeline

logger = logging.getLogger(__name__)

EMBEDDED = Path(__file__).parents[1] / "embedded" / "default"


class SharedModel:
    """A pipeline that is loaded once, when first needed, and draws on the GPU where there is one.

    Args:
        name: Hub id or local folder of a checkpoint; None is the embedded model.
    """

    def __init__(self, name: str | None = None) -> None:
        self.name = name
        # Of a local folder the last part: the title travels with pictures that are shared.
        self.title = "embedded" if name is None else Path(name).resolve().name if Path(name).exists() else name
        self._pipeline: SharinganPipeline | None = None
        self._lock = Lock()
        # Borrows a GPU for the length of one call on ZeroGPU; anywhere else this is the method itself.
        self._draw_on_device = spaces.GPU(duration=30)(self._draw)

    def pipeline(self) -> SharinganPipeline:
        """The pipeline; the first call loads it (seconds) and raises what `from_pretrained` raises."""
        with self._lock:
            if self._pipeline is None:
                from ..pipeline_sharingan import SharinganPipeline

                self._pipeline = SharinganPipeline.from_pretrained(self.name)
            return self._pipeline

    def warm_up(self) -> None:
        """Load now and draw one picture, so that the first visitor does not wait; a failure is logged, not raised."""
        try:
            self.pipeline()(seeds=[0])
        except Exception as error:  # whatever is wrong with the checkpoint, the visitor who presses a button is told
            logger.warning("Cannot load the model %s: %s", self.title, error)

    def draw(self, **arguments: Any) -> list[Image.Image]:
        """Call the pipeline with `arguments` and give its PIL pictures."""
        self.pipeline()  # on ZeroGPU the call runs in a fork of this process, which then has the weights already
        return self._draw_on_device(**arguments)

    def _draw(self, **arguments: Any) -> list[Image.Image]:
        import torch

        pipeline = self.pipeline()
        if torch.cuda.is_available():
            pipeline.to("cuda")
        output: Any = pipeline(**arguments)
        return output.images

    def samples(self) -> list[tuple[str, str | None]]:
        """Path and caption of the sample pictures that lie beside the weights; none for a model on the Hub."""
        folder = (Path(self.name) if self.name else EMBEDDED) / "samples"
        found = []
        for path in sorted(folder.glob("*.png")):
            seed = re.search(r"(\d+)$", path.stem)
            if seed:
                found.append((int(seed[1]), str(path)))
        return [(path, f"seed {seed}") for seed, path in sorted(found)]
