"""The non-saturating logistic pair against its definition."""

import math

import numpy as np
import torch

from training.objectives import OBJECTIVES

PAIR = OBJECTIVES["non_saturating"]


def test_losses_are_negative_log_likelihoods():
    logits = torch.linspace(-8, 8, 33, dtype=torch.float64)[:, None]
    probability = 1 / (1 + np.exp(-logits.numpy()))
    np.testing.assert_allclose(PAIR.discriminator_real(logits).numpy(), -np.log(probability))
    np.testing.assert_allclose(PAIR.discriminator_fake(logits).numpy(), -np.log(1 - probability))
    np.testing.assert_allclose(PAIR.generator(logits).numpy(), -np.log(probability))


def test_gradient_does_not_saturate_when_the_discriminator_is_sure():
    logit = torch.tensor([[-50.0]], requires_grad=True)
    PAIR.generator(logit).sum().backward()
    assert logit.grad.item() == -1.0
    assert torch.isfinite(PAIR.generator(torch.tensor([[-1e4]]))).all()


def test_best_discriminator_is_the_log_ratio():
    """Goodfellow et al. 2014, proposition 1: D* = p/(p + q), whose logit is log(p/q)."""
    p, q = 0.3, 0.1
    logit = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logit], line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = (p * PAIR.discriminator_real(logit) + q * PAIR.discriminator_fake(logit)).sum()
        value.backward()
        return value

    for _ in range(10):
        optimizer.step(loss)
    assert math.isclose(logit.item(), math.log(p / q), abs_tol=1e-5)
