"""The wish for rotational symmetry as a loss, for generators that are not symmetric by construction."""

from torch import Tensor

from sharingan_hub.postprocess.symmetry import symmetry_loss, symmetry_score


def asymmetry(images: Tensor, order: Tensor | None) -> Tensor:
    """The share of each picture's energy that symmetry about its middle forbids, in [0,1].

    Args:
        images: (N,3,S,S), about [-1,1]; what is beyond counts as cut off, as it is seen.
        order: of each picture, (N,); None takes for each the order from 2 to 8 that it is nearest to already.

    Returns:
        (N,), differentiable.
    """
    images = (images.nan_to_num().clamp(-1, 1) + 1) / 2  # a picture that is no number shows in every other loss
    if order is None:
        order = symmetry_score(images.detach())[:, 1:].argmax(dim=1) + 2
    return symmetry_loss(images, order.tolist())
