"""One step of the game: what the discriminator, the generator and its average learn from one batch.

Three decisions carry the rest:

- All randomness of a step comes from generators seeded by (seed, step, purpose) and is drawn for the global batch, then
  sliced by process. So a resumed run, and a run on more processes, sees the same numbers with no state to keep.
- Losses are sums over samples divided by the global batch, and gradients are summed over processes in one explicit
  reduction for each network. DistributedDataParallel would be in the way here: the discriminator runs several times in
  a step, once with its weights frozen, and R1 differentiates twice.
- A step makes its fakes once: the discriminator learns from their detached copy, then the generator learns through the
  same graph from the updated discriminator. (With gradient accumulation they are made twice, to keep memory low.)
"""

import ctypes
import math
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from training import augment
from training.config import TrainConfig
from training.emblems import render
from training.objectives import OBJECTIVES
from training.regularizers import r1
from training.sampling import Latents, draw_latents, generate, real_indices, seeded, takes_noise, turn
from training.teacher import MAPPING_FACTOR, Teacher, answers, check_teachable, difference


class PictureData(Protocol):
    """What the loop needs of a data set; see training/data.py."""

    order_probs: list[float] | None

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Pictures (N,3,S,S) in [-1,1] and orders (N,)."""
        ...


def weights_of(key: str, beginning: str, names: Sequence[str]) -> list[str]:
    """Those of the weights' names that begin so; ValueError, in the name of the setting `key`, where none does."""
    chosen = [name for name in names if name.startswith(beginning)]
    if not chosen:
        parts = ", ".join(dict.fromkeys(name.partition(".")[0] for name in names))
        raise ValueError(f"{key} names {beginning!r}, which fits no weight in training; there are {parts}.")
    return chosen


def quicken_cpu() -> None:
    """Two settings of the process that make a step on the CPU faster.

    Numbers below 1e-38, of which softmax makes many, count as zero: each would cost a hundred cycles. And where the
    allocator is glibc's, it keeps freed memory instead of fetching every large tensor anew from the kernel.
    """
    torch.set_flush_denormal(True)
    with suppress(OSError, AttributeError, TypeError):  # another operating system or another allocator
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: no tensor gets pages of its own
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: freed memory stays


class Game:
    """A generator, a discriminator and their optimisers, with one step of training; both networks are changed in place.

    Parameters of the discriminator that do not require a gradient stay as they are (FreezeD).

    Raises:
        ValueError: the batch cannot be split evenly, or the generator cannot be taught.
    """

    def __init__(self, config: TrainConfig, dataset: PictureData, generator: Any, discriminator: Any) -> None:
        self.config, self.dataset = config, dataset
        precision = config.mixed_precision
        if precision == "auto":
            precision = "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"
        self.output = Path(config.output_dir)
        self.accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(),  # or several CPU processes would not find one another
            mixed_precision=precision,
            log_with=None if config.report_to == "none" else config.report_to,
            project_dir=str(self.output / "logs"),
        )
        self.device = self.accelerator.device
        if self.device.type == "cpu":
            quicken_cpu()
        if config.threads:
            torch.set_num_threads(config.threads)

        parts = self.accelerator.num_processes * config.gradient_accumulation_steps
        group = discriminator.config.get("mbstd_group_size", 1)
        if config.batch_size % (parts * group):
            raise ValueError(
                f"batch_size must be a multiple of processes x gradient_accumulation_steps x minibatch-std group = "
                f"{self.accelerator.num_processes} x {config.gradient_accumulation_steps} x {group}, "
                f"got {config.batch_size}."
            )
        share = config.batch_size // self.accelerator.num_processes
        first = share * self.accelerator.process_index
        self.share = slice(first, first + share)
        size = config.batch_size // parts
        self.parts = [slice(start, start + size) for start in range(first, first + share, size)]
        # R1 takes whole minibatch-std groups, spread evenly, so that every way to split the batch picks the same ones.
        groups = torch.arange(config.batch_size) // group
        fraction = config.r1_batch_fraction
        self.penalized = ((groups + 1) * fraction).floor() > (groups * fraction).floor()
        self.r1_on = "r1" in config.regularizers and config.r1_gamma > 0
        if self.r1_on and not self.penalized.any():
            raise ValueError(f"r1_batch_fraction leaves no group of {group} in a batch of {config.batch_size}.")

        layout = {"device": self.device, "memory_format": torch.channels_last}
        self.generator = generator.to(**layout).train()
        self.discriminator = discriminator.to(**layout).train()
        self.average = deepcopy(self.generator).eval().requires_grad_(False)
        self.teacher = Teacher(generator) if config.teaching_steps > 0 else None
        if config.teaching_weight > 0:
            check_teachable(generator)
        self.noisy = takes_noise(generator)
        self.objective = OBJECTIVES[config.objective]
        self.g_weights = [p for p in self.generator.parameters() if p.requires_grad]
        factors = self._rate_factors()
        self.d_weights = [p for p in self.discriminator.parameters() if p.requires_grad]
        # Lazy regularisation takes one step more in every r1_interval (Karras et al. 2020, appendix B).
        lazy = config.r1_interval / (config.r1_interval + 1) if self.r1_on else 1.0
        d_rate = config.discriminator_learning_rate or config.learning_rate
        self.g_optimizer = self._adam(self.g_weights, config.learning_rate, 1.0, factors)
        self.d_optimizer = self._adam(self.d_weights, d_rate, lazy, [1.0] * len(self.d_weights))

        self.step = 0
        self.seconds = 0.0  # trained, over resumes
        self.probability = {"none": 0.0, "diffaugment": 1.0, "ada": 0.0}[config.augment]
        self.signs: list[float] = []  # of D(real), since p last moved
        self.interrupted = False  # by a signal

    def _rate_factors(self) -> list[float]:
        """Of each of g_weights. Raises ValueError where rate_factors names no weight."""
        factors = {name: 1.0 for name, weight in self.generator.named_parameters() if weight.requires_grad}
        for beginning, factor in self.config.rate_factors.items():
            factors.update(dict.fromkeys(weights_of("rate_factors", beginning, list(factors)), factor))
        return list(factors.values())

    def _adam(self, weights: list[nn.Parameter], rate: float, lazy: float, factors: list[float]) -> torch.optim.Adam:
        betas = (self.config.adam_beta1**lazy, self.config.adam_beta2**lazy)
        groups = [
            {
                "params": [w for w, own in zip(weights, factors) if own == factor],
                "factor": factor,
                "lr": rate * lazy * factor,
            }
            for factor in dict.fromkeys(factors)
        ]
        return torch.optim.Adam(groups, lr=rate * lazy, betas=betas, eps=1e-8, fused=True)

    def _set_rates(self) -> None:
        config, factor = self.config, 1.0
        if self.step < config.mapping_steps:
            factor = min(1, 2 * (1 - self.step / config.mapping_steps))
        elif config.cooldown_steps and config.max_steps is not None:
            factor = min(1, (config.max_steps - self.step) / config.cooldown_steps)
        for optimizer in (self.g_optimizer, self.d_optimizer):
            for group in optimizer.param_groups:
                group["lr"] = optimizer.defaults["lr"] * group["factor"] * factor

    def _reals(self, step: int) -> Tensor:
        """This process's share of the real pictures of a step. Runs in the loading thread."""
        config = self.config
        if step < config.teaching_steps:
            return torch.empty(0)
        indices = real_indices(config.seed, step, config.batch_size, len(self.dataset))
        images, _ = self.dataset.batch(indices[self.share])
        rng = seeded(config.seed, step, "turns")
        quarters = torch.randint(4 if config.real_rotations else 1, (config.batch_size,), generator=rng)
        flips = (torch.rand(config.batch_size, generator=rng) < 0.5) & config.real_flips
        images = turn(images, quarters[self.share], flips[self.share])
        return images.pin_memory() if self.device.type == "cuda" else images

    def _teach_step(self) -> dict[str, float]:
        """One update of G, and of the average, towards the known answers. Returns statistics of the whole batch."""
        config, seed, step, teacher = self.config, self.config.seed, self.step, self.teacher
        assert teacher is not None
        sums: defaultdict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.device))
        drawing = step >= config.mapping_steps
        latents = draw_latents(self.generator, config.batch_size, seed, step) if drawing else None
        self.g_optimizer.zero_grad(set_to_none=True)
        for part in self.parts:
            if latents is None:
                count = MAPPING_FACTOR * config.batch_size
                some = slice(MAPPING_FACTOR * part.start, MAPPING_FACTOR * part.stop)
                losses = {"mapping": teacher.mapping_loss(self.generator, seeded(seed, step, "mapping"), count, some)}
            else:
                own, count, rng = latents.select(part, self.device), config.batch_size, seeded(seed, step, "styles")
                masks, pictures = teacher.drawing_losses(self.generator, own, config.resolution, rng, count, part)
                losses = {"masks": masks, "difference": pictures}
            means = {name: loss.sum() / count for name, loss in losses.items()}
            for name, mean in means.items():
                sums[name] += mean.detach()
            torch.stack(list(means.values())).sum().backward()
        return self._step_generator(sums)

    def _step_generator(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """Add gradients and statistics up over processes, update G and the average; the statistics as numbers."""
        sums["stop"] += float(self.interrupted or self.seconds >= 60 * (self.config.max_minutes or math.inf))
        statistics = torch.stack(list(sums.values()))
        self._add_up([p.grad for p in self.g_weights if p.grad is not None] + [statistics])
        norm = self._gradient_norm(self.g_weights)
        self.g_optimizer.step()
        self._average()
        return dict(zip([*sums, "gradient_g"], torch.cat([statistics, norm[None]]).tolist()))

    def _train_step(self, reals: Tensor) -> dict[str, float]:
        """One update of D, of G and of the average, from this process's share of the real pictures.

        Returns statistics of the whole batch.
        """
        config, seed, step = self.config, self.config.seed, self.step
        latents = draw_latents(self.generator, config.batch_size, seed, step, config.style_mixing)
        real_change, fake_change = (
            augment.draw(config.batch_size, config.augmentations, self.probability, seeded(seed, step, purpose))
            for purpose in ("augment reals", "augment fakes")
        )
        sums: defaultdict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.device))
        keep = len(self.parts) == 1
        local = [slice(part.start - self.share.start, part.stop - self.share.start) for part in self.parts]

        # Discriminator.
        self.d_optimizer.zero_grad(set_to_none=True)
        for part, own in zip(self.parts, local):
            with torch.set_grad_enabled(keep):
                fakes = self._fakes(latents, part)
                changed = fake_change[part](fakes)
            self._learn_reals(real_change[part](reals[own]), self.penalized[part], sums)
            loss = self.objective.discriminator_fake(self._judge(changed.detach())).sum() / config.batch_size
            loss.backward()
            sums["loss_d"] += loss.detach()
        self._add_up([p.grad for p in self.d_weights if p.grad is not None])
        # Every process has the same gradient now, and statistics are summed.
        sums["gradient_d"] += self._gradient_norm(self.d_weights) / self.accelerator.num_processes
        self.d_optimizer.step()

        # Generator, through a discriminator whose weights need no gradient now.
        self.g_optimizer.zero_grad(set_to_none=True)
        for weight in self.d_weights:
            weight.requires_grad_(False)
        for part in self.parts:
            if not keep:
                fakes = self._fakes(latents, part)
                changed = fake_change[part](fakes)
            loss = self.objective.generator(self._judge(changed)).sum() / config.batch_size
            sums["loss_g"] += loss.detach()
            if config.teaching_weight > 0:
                pictures = render(answers(latents.select(part, self.device)), config.resolution, self.device)
                lesson = difference(fakes, pictures).sum() / config.batch_size
                sums["difference"] += lesson.detach()
                loss = loss + config.teaching_weight * lesson
            loss.backward()
        for weight in self.d_weights:
            weight.requires_grad_(True)
        return self._step_generator(sums)

    def _fakes(self, latents: Latents, part: slice) -> Tensor:
        noise = [
            seeded(self.config.seed, self.step, f"noise {i}", self.device)
            for i in range(part.start, part.stop)
            if self.noisy
        ]
        with self.accelerator.autocast():
            images = generate(self.generator, latents.select(part, self.device), self.config.resolution, noise or None)
        return images.float()

    def _judge(self, images: Tensor) -> Tensor:
        with self.accelerator.autocast():
            return self.discriminator(images).float()

    def _learn_reals(self, reals: Tensor, penalized: Tensor, sums: dict[str, Tensor]) -> None:
        """Gradients of D at real pictures; where it is R1's turn, the pictures it looks at serve both terms at once."""
        config = self.config
        if not (self.r1_on and self.step % config.r1_interval == 0):
            penalized = torch.zeros_like(penalized)
        loss = torch.zeros((), device=self.device)
        for images, penalize in ((reals[~penalized], False), (reals[penalized], True)):
            if len(images) == 0:
                continue
            images = images.detach().requires_grad_(penalize)
            logits = self._judge(images)
            term = self.objective.discriminator_real(logits).sum() / config.batch_size
            sums["loss_d"] += term.detach()
            sums["sign_real"] += logits.detach().sign().sum() / config.batch_size
            if penalize:
                penalty = r1(images, logits).sum() / int(self.penalized.sum())
                sums["r1"] += penalty.detach()
                # Lazy: as many times the weight as there are steps without it.
                term = term + penalty * (config.r1_gamma / 2 * config.r1_interval)
            loss = loss + term
        loss.backward()

    def _add_up(self, tensors: list[Tensor]) -> None:
        """Sum each tensor over all processes, in place, in one reduction."""
        if self.accelerator.num_processes > 1:
            flat = self.accelerator.reduce(torch.cat([tensor.flatten() for tensor in tensors]), "sum")
            for tensor, summed in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
                tensor.copy_(summed.view_as(tensor))

    @staticmethod
    def _gradient_norm(weights: list[nn.Parameter]) -> Tensor:
        return torch.nn.utils.get_total_norm([p.grad for p in weights if p.grad is not None])

    @torch.no_grad()
    def _average(self) -> None:
        """Move the averaged generator, buffers too, towards the generator."""
        for averaged, current in zip(self._tensors(self.average), self._tensors(self.generator)):
            if averaged.is_floating_point():
                averaged.lerp_(current, 1 - self.config.ema_decay)
            else:
                averaged.copy_(current)

    @staticmethod
    def _tensors(module: nn.Module) -> list[Tensor]:
        return [*module.parameters(), *module.buffers()]
