"""R1 against closed forms."""

import torch

from training.regularizers import r1


def test_linear_discriminator_has_its_squared_weight():
    weight = torch.randn(3, 4, 4, dtype=torch.float64, requires_grad=True)
    images = torch.randn(5, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    penalty = r1(images, (images * weight).sum(dim=(1, 2, 3), keepdim=False)[:, None])
    torch.testing.assert_close(penalty, weight.square().sum().expand(5))
    penalty.sum().backward()
    torch.testing.assert_close(weight.grad, 10 * weight)  # d/dw of 5 |w|^2


def test_each_picture_has_its_own_gradient():
    images = torch.randn(4, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    penalty = r1(images, images.square().sum(dim=(1, 2, 3))[:, None])
    torch.testing.assert_close(penalty, 4 * images.square().sum(dim=(1, 2, 3)))
