"""What every discriminator has besides its answer: a check of the pictures, frozen layers, and another resolution."""

from typing import Any, Self

from diffusers import ConfigMixin, ModelMixin
from torch import Tensor, nn


class Discriminator(ModelMixin, ConfigMixin):
    """A discriminator whose `layers` lead from pictures to logits."""

    layers: nn.Sequential
    num_channels = 3

    def forward(self, images: Tensor) -> Tensor:
        """Pictures (N,3,resolution,resolution) in [-1,1] to logits (N,1): above 0 means real.

        Raises:
            ValueError: the pictures have another shape.
        """
        self.check(images)
        return self.layers(images)

    def check(self, images: Tensor) -> None:
        """Raise ValueError unless pictures are (N,num_channels,resolution,resolution)."""
        channels, side = self.num_channels, self.config["resolution"]
        if images.ndim != 4 or tuple(images.shape[1:]) != (channels, side, side):
            raise ValueError(f"images must be (N,{channels},{side},{side}), got {tuple(images.shape)}.")

    @property
    def blocks(self) -> list[nn.Module]:
        """What may be frozen, from the picture on: all but the last layer."""
        return list(self.layers)[:-1]

    def freeze(self, blocks: int) -> None:
        """FreezeD (Mo et al. 2020): stop training the first blocks, those next to the picture.

        Raises:
            ValueError: blocks is negative or leaves nothing to train.
        """
        most = len(self.blocks)
        if not 0 <= blocks <= most:
            raise ValueError(f"freeze_discriminator must be 0 to {most} at this resolution, got {blocks}.")
        for block in self.blocks[:blocks]:
            block.requires_grad_(False)

    def at_resolution(self, resolution: int) -> Self:
        """This one, or for another resolution a new one with all of this one's weights that have the same name and shape.

        Raises:
            ValueError: see the class.
        """
        if resolution == self.config["resolution"]:
            return self
        settings: dict[str, Any] = {name: value for name, value in self.config.items() if not name.startswith("_")}
        other = type(self)(**settings | {"resolution": resolution})
        known, wanted = self.state_dict(), other.state_dict()
        fitting = {
            name: known[name]
            for name, value in wanted.items()
            if value.shape == getattr(known.get(name), "shape", None)
        }
        other.load_state_dict(fitting, strict=False)
        return other
