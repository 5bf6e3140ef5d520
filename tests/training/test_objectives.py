"""Every objective against its definition, its known optimum, and what it is known to minimise."""

import math

import pytest
import torch

from training.objectives import OBJECTIVES, accuracy, began, convergence, next_k

LOGITS = torch.linspace(-8, 8, 33, dtype=torch.float64)[:, None]


def sigmoid(x):
    return 1 / (1 + torch.exp(-x))


# D's loss at a real, at a fake, and G's, as the papers write them.
DEFINITIONS = {
    "minimax": (
        lambda r: -torch.log(sigmoid(r)),
        lambda f: -torch.log(1 - sigmoid(f)),
        lambda f: torch.log(1 - sigmoid(f)),
    ),
    "non_saturating": (
        lambda r: -torch.log(sigmoid(r)),
        lambda f: -torch.log(1 - sigmoid(f)),
        lambda f: -torch.log(sigmoid(f)),
    ),
    "wasserstein": (lambda r: -r, lambda f: f, lambda f: -f),
    "least_squares": (lambda r: (r - 1) ** 2, lambda f: f**2, lambda f: (f - 1) ** 2),
    "least_squares_signed": (lambda r: (r - 1) ** 2, lambda f: (f + 1) ** 2, lambda f: f**2),
    "hinge": (lambda r: (1 - r).clamp(min=0), lambda f: (1 + f).clamp(min=0), lambda f: -f),
    "mse": (lambda r: (sigmoid(r) - 1) ** 2, lambda f: sigmoid(f) ** 2, lambda f: (sigmoid(f) - 1) ** 2),
}


@pytest.mark.parametrize("name", DEFINITIONS)
def test_losses_are_those_of_the_papers(name):
    real, fake, generator = DEFINITIONS[name]
    others = LOGITS.flip(0) / 3
    torch.testing.assert_close(OBJECTIVES[name].discriminator(LOGITS, others), real(LOGITS) + fake(others))
    torch.testing.assert_close(OBJECTIVES[name].generator(LOGITS, others), generator(LOGITS))
    assert not OBJECTIVES[name].paired


def test_relativistic_losses_are_of_the_differences_of_pairs():
    pair, other = OBJECTIVES["relativistic"], LOGITS.flip(0) / 3 + 1
    torch.testing.assert_close(pair.discriminator(LOGITS, other), -torch.log(sigmoid(LOGITS - other)))
    torch.testing.assert_close(pair.generator(LOGITS, other), -torch.log(sigmoid(LOGITS - other)))
    assert pair.paired and set(OBJECTIVES) == {*DEFINITIONS, "relativistic"}
    # A common shift changes nothing, and where D sees no difference both lose log 2.
    torch.testing.assert_close(pair.discriminator(LOGITS + 7, other + 7), pair.discriminator(LOGITS, other))
    torch.testing.assert_close(pair.generator(LOGITS, LOGITS), torch.full_like(LOGITS, math.log(2)))


def test_where_the_discriminator_is_sure_one_gradient_vanishes_and_the_other_does_not():
    gradients = {}
    for name in ("minimax", "non_saturating", "wasserstein"):
        logit = torch.tensor([[-50.0]], requires_grad=True)
        OBJECTIVES[name].generator(logit, logit.detach()).sum().backward()
        gradients[name] = logit.grad.item()
        assert OBJECTIVES[name].generator(torch.tensor([[-1e4]]), logit).isfinite().all()
    assert gradients["non_saturating"] == gradients["wasserstein"] == -1.0
    assert -1e-20 < gradients["minimax"] < 0


# Two distributions on two points: p real, q fake.
P, Q = torch.tensor([0.7, 0.3], dtype=torch.float64), torch.tensor([0.2, 0.8], dtype=torch.float64)


def best_logits(objective, p=P, q=Q):
    """Minimise D's loss over one logit for each point; pairs are drawn independently."""
    logits = torch.zeros(len(p), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], line_search_fn="strong_wolfe", tolerance_grad=1e-10)

    def loss():
        optimizer.zero_grad()
        value = (p[:, None] * q * objective.discriminator(logits[:, None], logits[None])).sum()
        value.backward()
        return value

    for _ in range(20):
        optimizer.step(loss)
    return logits.detach(), loss().item()


def test_best_discriminator_is_the_log_ratio_and_its_loss_the_jensen_shannon_divergence():
    """Goodfellow et al. 2014, proposition 1 and theorem 1: D* = p/(p + q), and the value is -log 4 + 2 JSD."""
    mean = (P + Q) / 2
    divergence = float((P * (P / mean).log() + Q * (Q / mean).log()).sum() / 2)
    for name in ("minimax", "non_saturating"):
        logits, loss = best_logits(OBJECTIVES[name])
        torch.testing.assert_close(logits, (P / Q).log(), atol=1e-4, rtol=0)
        assert loss == pytest.approx(math.log(4) - 2 * divergence, abs=1e-8)
    logits, loss = best_logits(OBJECTIVES["mse"])
    torch.testing.assert_close(sigmoid(logits), P / (P + Q), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "a", "b"), [("least_squares", 0, 1), ("least_squares_signed", -1, 1)])
def test_best_least_squares_discriminator_is_the_mean_code(name, a, b):
    """Mao et al. 2017, equation 5."""
    logits, _ = best_logits(OBJECTIVES[name])
    torch.testing.assert_close(logits, (b * P + a * Q) / (P + Q), atol=1e-6, rtol=0)


def test_signed_least_squares_minimise_pearsons_chi_squared():
    """Mao et al. 2017, equation 7: G's loss, with the term at reals that G cannot change, is chi^2(p + q || 2 q)."""
    objective = OBJECTIVES["least_squares_signed"]
    logits, _ = best_logits(objective)
    own = ((P + Q) * objective.generator(logits, logits)).sum()
    torch.testing.assert_close(own, ((2 * Q - (P + Q)).square() / (P + Q)).sum(), atol=1e-8, rtol=0)


def test_best_hinge_discriminator_is_the_sign_and_its_loss_the_total_variation():
    """Lim and Ye 2017: -1 or 1 by which of p and q is larger; the loss is 2 (1 - total variation)."""
    logits, loss = best_logits(OBJECTIVES["hinge"])
    assert logits[0] >= 1 - 1e-6 and logits[1] <= -1 + 1e-6
    assert loss == pytest.approx(2 - float((P - Q).abs().sum()), abs=1e-8)


def test_best_relativistic_discriminator_solves_its_equation():
    """D's difference d of two points appears once as d and once as -d: softplus(-d) p1 q2 + softplus(d) p2 q1."""
    logits, _ = best_logits(OBJECTIVES["relativistic"])
    wanted = math.log(float(P[0] * Q[1] / (P[1] * Q[0])))
    assert float(logits[0] - logits[1]) == pytest.approx(wanted, abs=1e-3)


# BEGAN.


def test_began_weighs_the_fakes_reconstruction_by_k():
    pair = began(0.25)
    real, fake = torch.tensor([[2.0], [3.0]]), torch.tensor([[1.0], [8.0]])
    assert pair.discriminator(real, fake).tolist() == [[1.75], [1.0]]
    assert pair.generator(fake, real).tolist() == [[1.0], [8.0]]


def test_k_obeys_its_rule_and_stays_between_0_and_1():
    assert next_k(0.2, 0.5, 0.1, real=2.0, fake=0.4) == pytest.approx(0.2 + 0.1 * (0.5 * 2.0 - 0.4))
    assert next_k(0.2, 0.5, 0.1, real=2.0, fake=9.0) == 0.0
    assert next_k(0.99, 0.5, 0.1, real=9.0, fake=0.0) == 1.0
    assert convergence(0.5, real=2.0, fake=0.4) == pytest.approx(2.6)
    assert convergence(0.5, real=2.0, fake=1.6) == pytest.approx(2.6)


def test_k_brings_the_fakes_error_to_gamma_times_that_of_reals():
    """A D that reconstructs fakes the worse the larger k is: the loop closes where L(G(z)) = gamma L(x)."""
    k, real, gamma = 0.0, 1.0, 0.4
    for _ in range(2000):
        fake = 0.1 + k
        k = next_k(k, gamma, 0.01, real, fake)
    assert 0.1 + k == pytest.approx(gamma * real, abs=1e-6) and convergence(gamma, real, 0.1 + k) == pytest.approx(real)


# Accuracy.


@pytest.mark.parametrize("name", [*OBJECTIVES, "began"])
def test_accuracy_is_the_share_of_pairs_told_apart(name):
    real, fake = torch.tensor([[0.5], [0.2], [-0.4], [0.3]]), torch.tensor([[0.1], [0.7], [-0.9], [0.3]])
    objective = OBJECTIVES.get(name) or began(0.3)
    told = accuracy(objective, real, fake).flatten().tolist()
    assert told == ([0, 1, 0, 0.5] if name == "began" else [1, 0, 1, 0.5])
