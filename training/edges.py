"""The edges in pictures as a second domain for CoGAN, as Liu and Tuzel 2016, section 4, have them."""

import functools
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor

from training.data import MEMORY_LIMIT, PictureSet


class EdgePictures:
    """White edges on black, by Pillow's filter, in the pictures of another set; made once where all fit into memory."""

    def __init__(self, pictures: PictureSet, resolution: int) -> None:
        self.pictures = pictures
        self.order_probs = pictures.order_probs
        most = MEMORY_LIMIT // resolution**2
        self._edges = functools.lru_cache(most)(self._find) if len(pictures) <= most else self._find

    def __len__(self) -> int:
        return len(self.pictures)

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Edges (N, 3, S, S), float32 in [-1, 1], and orders (N,) of the pictures that they are from, 0 where unknown."""
        edges, orders = zip(*(self._edges(int(i)) for i in indices))
        return torch.stack(edges)[:, None].expand(-1, 3, -1, -1).float() / 127.5 - 1, torch.cat(orders)

    def _find(self, index: int) -> tuple[Tensor, Tensor]:
        """Edges (S, S), uint8, of a picture, and its order (1,)."""
        images, order = self.pictures.batch([index])
        pixels = ((images[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        around = np.pad(pixels, ((1, 1), (1, 1), (0, 0)), "edge")  # the filter leaves the outermost pixels as they are
        filtered = np.array(Image.fromarray(around).filter(ImageFilter.FIND_EDGES))[1:-1, 1:-1]
        strongest = Image.fromarray(filtered.max(axis=2))  # of the three colours
        return torch.from_numpy(np.array(ImageOps.autocontrast(strongest))), order
