"""What a lecture on GAN objectives tells, seen: vanishing gradients, clipping against penalty, modes of 25 Gaussians.

    python -m training.experiments.lecture            # about 20 minutes of one core; what is there already is not run again
    python -m training.experiments.lecture --quick    # under 3 minutes

Vanishing gradients (Arjovsky and Bottou 2017, figure 2): a DCGAN is trained for 1, 10 and 25 epochs, its generator is held, a
fresh discriminator learns to tell its pictures, and the gradient that would reach the generator is watched. Pictures go through
the one training loop, in which a generator that is held is one whose turn never comes.

Clipping against penalty (Gulrajani et al. 2017, figures 1 and 2): critics of points in the plane, with fakes that are the
reals and N(0, 1) noise, so that the game does not move while the critic learns.

Modes: a generator of points against a discriminator, under every objective, alone and with R1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training import regularizers
from training.config import TrainConfig
from training.experiments import lecture_report, toy
from training.experiments.results import kept, read_flags
from training.experiments.watched import QUIET, emblem_folder, refuse_interrupted
from training.objectives import OBJECTIVES, Objective
from training.sampling import draw_latents, generate
from training.train import build_trainer


@dataclass(frozen=True)
class Size:
    """How much is run."""

    pictures: int = 800
    epochs: tuple[int, ...] = (1, 10, 25)
    judge_steps: int = 4000
    critic_steps: int = 3000
    toy_steps: int = 4000


QUICK = Size(pictures=128, epochs=(1, 3), judge_steps=100, critic_steps=100, toy_steps=120)

# ---------------------------------------------------------------------------------------------------- vanishing gradients

RESOLUTION, CHANNELS, BATCH = 32, 32, 16
PROBES = 64  # pictures whose loss the generator's gradient is of
POINTS = 20  # where the gradient is looked at, evenly over the logarithm of the steps
DCGAN: dict[str, Any] = {
    "resolution": RESOLUTION,
    "generator": {"class_name": "DCGANGenerator", "channels": CHANNELS},
    "discriminator": {"class_name": "DCGANDiscriminator", "channels": CHANNELS},
    "objective": "non_saturating",
    "regularizers": [],
    "batch_size": BATCH,
    "learning_rate": 2e-4,
    "adam_beta1": 0.5,
    "adam_beta2": 0.999,
    "checkpointing_steps": 10**9,  # networks are watched as they train, and nothing is written
    **QUIET,
}
CLIPPED = {
    "objective": "wasserstein",
    "regularizers": ["weight_clipping"],
    "optimizer": "rmsprop",
    "learning_rate": 5e-5,
}
# Minimax and non-saturating differ in the generator's loss alone, so one discriminator serves both.
JUDGES: list[tuple[tuple[str, ...], dict[str, Any]]] = [
    (("minimax", "non_saturating"), {}),
    (("wasserstein",), CLIPPED),
]


def gradient_norm(loss: Tensor, network: nn.Module) -> float:
    """Norm of a loss' gradient in all weights of a network."""
    return float(
        torch.nn.utils.get_total_norm(torch.autograd.grad(loss, list(network.parameters()), retain_graph=True))
    )


def vanishing_gradients(epochs: int, size: Size, work: Path) -> dict[str, Any]:
    """Train a generator for some epochs and hold it -> its gradient norm under each objective, at `steps` of fresh D's."""
    folder = emblem_folder(work, size.pictures, RESOLUTION)
    common = DCGAN | {"train_data": str(folder), "output_dir": str(work / "unused")}
    last = epochs * size.pictures // BATCH
    trainer = build_trainer(TrainConfig(**common, max_steps=last + 1))
    for _ in trainer.steps():
        if trainer.step == last:
            break  # before anything is written
    refuse_interrupted(trainer)
    state = trainer.generator.state_dict()
    steps = sorted({round(size.judge_steps ** (i / (POINTS - 1))) for i in range(POINTS)})
    norms: dict[str, list[float]] = {}
    for names, changes in JUDGES:
        norms |= watch_held(TrainConfig(**common | changes, **held(steps[-1])), state, names, steps)
    return {"epochs": epochs, "steps": steps, "norms": norms}


def held(steps: int) -> dict[str, Any]:
    """Settings with which the generator's turn would come after these steps of the discriminator, and does not."""
    return {"critic_steps": steps + 1, "max_steps": steps + 1, "seed": 1}


def watch_held(
    config: TrainConfig, state: dict[str, Tensor], names: Sequence[str], steps: Sequence[int]
) -> dict[str, list[float]]:
    """Train a fresh discriminator against a generator that is held at `state` -> the gradient norms that it would have."""
    trainer = build_trainer(config, lambda generator, _: generator.load_state_dict(state))
    latents = draw_latents(trainer.generator, PROBES, config.seed, -1).select(slice(None), trainer.device)
    found: dict[str, list[float]] = {name: [] for name in names}
    for _ in trainer.steps():
        if trainer.step in steps:
            fake = trainer.discriminator(generate(trainer.generator, latents, config.resolution))
            for name in names:
                found[name].append(gradient_norm(OBJECTIVES[name].generator(fake, fake).mean(), trainer.generator))
        if trainer.step == steps[-1]:
            break
    refuse_interrupted(trainer)
    return found


# --------------------------------------------------------------------------------------------------- clipping against penalty

DEPTH = 12  # linear layers of the critic whose gradients are followed
LIMITS = (0.001, 0.01, 0.1)
SURFACES = {"eight Gaussians": toy.gaussians_8, "Swiss roll": toy.swiss_roll}
PENALTY = 10.0  # lambda
REACH, GRID = 2.5, 41  # of the contours
SHOWN = 200  # points under them
WASSERSTEIN = OBJECTIVES["wasserstein"]


def fit_critic(critic: nn.Module, sample: toy.Sampler, limit: float | None, steps: int) -> tuple[Tensor, Tensor]:
    """Train a critic of reals against the same with N(0, 1) noise -> points of both, (N,2,1,1).

    limit: weights are clipped to it; None is the gradient penalty.
    """
    rng = torch.Generator().manual_seed(0)
    chosen = ["gradient_penalty"] if limit is None else []
    optimizer = toy.make_optimizer(critic, limit is not None)
    for _ in range(steps):
        real, fake = against_noise(sample, toy.BATCH, rng)
        optimizer.zero_grad()
        toy.discriminator_loss(critic, WASSERSTEIN, real, fake, chosen, rng, PENALTY)[0].backward()
        optimizer.step()
        if limit is not None:
            regularizers.clip(critic.parameters(), limit)
    return against_noise(sample, toy.BATCH, rng)


def against_noise(sample: toy.Sampler, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Reals, and others with noise."""
    real, other = sample(count, rng), sample(count, rng)
    return real, other + torch.randn(other.shape, generator=rng)


def depth_gradients(critic: nn.Sequential, objective: Objective, real: Tensor, fake: Tensor) -> list[float]:
    """Norm of the gradient of D's loss in what each linear layer gives, the one next to the points first."""
    x, outputs = torch.cat([real, fake]), []
    for layer in critic:
        x = layer(x)
        if isinstance(layer, nn.Linear):
            outputs.append(x)
    loss = objective.discriminator(*x.chunk(2)).mean()
    return [float(gradient.norm()) for gradient in torch.autograd.grad(loss, outputs)]


def clipping_and_penalty(size: Size) -> dict[str, Any]:
    """Gradients through the layers of a deep critic, its weights, and the values of critics over the plane."""
    deep: dict[str, Any] = {}
    for limit in (*LIMITS, None):
        torch.manual_seed(0)
        critic = toy.perceptron(2, 1, DEPTH)
        real, fake = fit_critic(critic, toy.swiss_roll, limit, size.critic_steps)
        weights = torch.cat([w.detach().flatten() for w in critic.parameters() if w.ndim == 2])
        reach = limit or float(weights.abs().max())
        counts = torch.histc(weights, 41, -reach, reach)
        deep[name_of(limit)] = {
            "gradients": depth_gradients(critic, WASSERSTEIN, real, fake),
            "reach": reach,
            "weights": (counts / counts.sum()).tolist(),
            "at_limit": float((weights.abs() >= 0.99 * reach).float().mean()),
        }
    axis = torch.linspace(-REACH, REACH, GRID)
    plane = torch.cartesian_prod(axis, axis)[:, :, None, None]
    surfaces: dict[str, Any] = {}
    for title, sample in SURFACES.items():
        for limit in (0.1, None):
            torch.manual_seed(0)
            critic = toy.perceptron(2, 1, 4)
            real, _ = fit_critic(critic, sample, limit, size.critic_steps)
            with torch.no_grad():
                values = critic(plane).view(GRID, GRID)
            values = (values - values.mean()) / values.std()
            surfaces.setdefault(title, {})[name_of(limit)] = {
                "values": rounded(values),
                "points": rounded(real[:SHOWN].flatten(1)),
            }
    return {"deep": deep, "axis": axis.tolist(), "surfaces": surfaces}


def name_of(limit: float | None) -> str:
    """What a critic of this limit is called; None is the gradient penalty."""
    return "gradient penalty" if limit is None else f"clipped to {limit:g}"


# --------------------------------------------------------------------------------------------------------------- modes

# Wasserstein's critic needs a bound, and BEGAN has its own balance; every other objective plays alone and with R1.
PLAIN = [name for name in OBJECTIVES if name != "wasserstein"]
GAMES = (
    {name: toy.Toy(name) for name in PLAIN}
    | {f"{name}-r1": toy.Toy(name, ("r1", "r2") if name == "relativistic" else ("r1",)) for name in PLAIN}
    | {name: toy.Toy("wasserstein", (name,)) for name in ("weight_clipping", "gradient_penalty")}
    | {"began": toy.Toy("began")}
)
SAMPLES, SHOWN_SAMPLES = 2500, 300
SEEDS = (0,)


def mode_coverage(game: toy.Toy, steps: int, seeds: Sequence[int]) -> dict[str, Any]:
    """Modes that are reached and the share of good samples, for each seed, and some samples of the first."""
    drawn = [toy.play(game, toy.gaussians_25, steps, SAMPLES, seed) for seed in seeds]
    modes, good = zip(*map(toy.count_modes, drawn))
    return {"modes": modes, "good": good, "points": rounded(drawn[0][:SHOWN_SAMPLES])}


def rounded(values: Tensor) -> list[list[float]]:
    """Rows of a matrix, as short as a figure needs them."""
    return [[round(value, 2) for value in row] for row in values.tolist()]


# ------------------------------------------------------------------------------------------------------------- the command


def main(arguments: Sequence[str] | None = None) -> None:
    """The command `python -m training.experiments.lecture`."""
    given = read_flags("lecture", __doc__, arguments)
    size = QUICK if given.quick else Size()
    for epochs in size.epochs:
        file = given.results / "vanishing" / f"{epochs:02d}.json"
        kept(file, partial(vanishing_gradients, epochs, size, given.work_dir))
    kept(given.results / "clipping.json", lambda: clipping_and_penalty(size))
    for name, game in GAMES.items():
        kept(given.results / "modes" / f"{name}.json", partial(mode_coverage, game, size.toy_steps, SEEDS))
    lecture_report.write(given.results, given.docs)


if __name__ == "__main__":
    main()
