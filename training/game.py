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
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from copy import deepcopy
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from training import augment
from training.config import TrainConfig
from training.correspondence import (
    GROUP,
    correspondence_loss,
    draw_layers,
    draw_near_anchors,
    recorded,
    style_layers,
)
from training.discriminators.patch import PatchHead
from training.emblems import render
from training.fisher import Consolidation, Filters, information
from training.objectives import OBJECTIVES
from training.radial_statistics import Wanted, statistics_loss, wanted_of
from training.regularizers import r1
from training.sampling import Latents, draw_latents, generate, real_indices, seeded, takes_noise, turn
from training.symmetry import asymmetry
from training.teacher import MAPPING_FACTOR, Teacher, answers, check_teachable, difference

PROBE_STEP = -3  # the step that Fisher information's latents are drawn for; training's steps begin at 0
MATCHING_RATE = 2.5  # of G at the first of statistics_steps, falling to 1
MOST_STATISTICS = 256  # pictures whose radial statistics are matched
WHOLE = {"picture": 1.0}  # judged by the discriminator itself, no patch head


class PictureData(Protocol):
    """What the loop needs of a data set; see training/data.py."""

    order_probs: list[float] | None

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Pictures (N,3,S,S) in [-1,1] and orders (N,)."""
        ...


def weights_of(key: str, pattern: str, names: Sequence[str]) -> list[str]:
    """Those of the weights' names that begin so, or fit a pattern as file names do ("*.affine.*"); | parts alternatives.

    Raises:
        ValueError: none does; it speaks of the setting `key`.
    """
    alternatives = pattern.split("|")
    chosen = [
        n for n in names if any(n.startswith(beginning) or fnmatchcase(n, beginning) for beginning in alternatives)
    ]
    if not chosen:
        parts = ", ".join(dict.fromkeys(name.partition(".")[0] for name in names))
        raise ValueError(f"{key} names {pattern!r}, which fits no weight in training; there are {parts}.")
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


def open_accelerator(config: Any) -> Accelerator:
    """Accelerate as a run's settings ask for it, and the settings of the process that go with it."""
    precision = config.mixed_precision
    if precision == "auto":
        precision = "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # or several CPU processes would not find one another
        mixed_precision=precision,
        log_with=None if config.report_to == "none" else config.report_to,
        project_dir=str(Path(config.output_dir) / "logs"),
    )
    if accelerator.device.type == "cpu":
        quicken_cpu()
    if config.threads:
        torch.set_num_threads(config.threads)
    return accelerator


class Game:
    """A generator, a discriminator and their optimisers, with one step of training; both networks are changed in place.

    Parameters of the discriminator that do not require a gradient stay as they are (FreezeD).

    Raises:
        ValueError: the batch cannot be split evenly, the generator cannot be taught, or a method of adaptation does not
            fit the networks.
    """

    def __init__(self, config: TrainConfig, dataset: PictureData, generator: Any, discriminator: Any) -> None:
        self.config, self.dataset = config, dataset
        self.output = Path(config.output_dir)
        self.accelerator = open_accelerator(config)
        self.device = self.accelerator.device

        parts = self.accelerator.num_processes * config.gradient_accumulation_steps
        self.group = group = discriminator.config.get("mbstd_group_size", 1)
        if config.batch_size % (parts * group):
            raise ValueError(
                f"batch_size must be a multiple of processes x gradient_accumulation_steps x minibatch-std group = "
                f"{self.accelerator.num_processes} x {config.gradient_accumulation_steps} x {group}, "
                f"got {config.batch_size}."
            )
        for name in ("correspondence_weight", "statistics_weight"):
            if getattr(config, name) > 0 and config.batch_size % (parts * GROUP):
                raise ValueError(
                    f"batch_size must be a multiple of processes x gradient_accumulation_steps x {GROUP} = "
                    f"{parts * GROUP} with {name}, which compares fakes in groups of {GROUP}; got {config.batch_size}."
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
        self.patch_head: PatchHead | None = None
        if config.patch_level is not None:
            rng = seeded(config.seed, 0, "patch head")
            self.patch_head = PatchHead(discriminator, config.patch_level, config.patch_size, rng).to(self.device)
        # The source model and its activations; the run begins from it also where it is resumed later.
        self.source = deepcopy(self.average) if config.correspondence_weight > 0 else None
        self.layers = [] if self.source is None else style_layers(self.generator)
        self.g_weights = [p for p in self.generator.parameters() if p.requires_grad]
        factors = self._rate_factors()
        judges = [self.discriminator, *([] if self.patch_head is None else [self.patch_head])]
        self.d_weights = [p for judge in judges for p in judge.parameters() if p.requires_grad]
        # Lazy regularisation takes one step more in every r1_interval (Karras et al. 2020, appendix B).
        lazy = config.r1_interval / (config.r1_interval + 1) if self.r1_on else 1.0
        d_rate = config.discriminator_learning_rate or config.learning_rate
        self.g_optimizer = self._adam(self.g_weights, config.learning_rate, 1.0, factors)
        self.d_optimizer = self._adam(self.d_weights, d_rate, lazy, [1.0] * len(self.d_weights))

        self.consolidation = Consolidation(self.g_weights) if config.ewc_weight > 0 else None
        self.statistics: Wanted | None = None  # of the real pictures
        if config.statistics_weight > 0:
            some = dataset.batch(range(min(len(dataset), MOST_STATISTICS)))[0]
            self.statistics = wanted_of(some.to(self.device))
        choosing = config.fisher_freeze < 1 or config.fisher_zero > 0
        self.filters = [Filters(self.generator), Filters(self.discriminator)] if choosing else []

        self.step = 0
        self.seconds = 0.0  # trained, over resumes
        self.clock = 0.0  # the same before the last step, and the same in all processes
        self.probability = {"none": 0.0, "diffaugment": 1.0, "ada": 0.0}[config.augment]
        self.signs: list[float] = []  # of D(real), since p last moved
        self.interrupted = False  # by a signal

    def _begin(self) -> None:
        """What is estimated from the base model before the first step of all; a resumed run has it in its state."""
        if self.consolidation is not None:
            self.consolidation.information = self._information(self.g_weights, self._probe_generator)
        if self.filters:
            self._choose_filters(self.config.fisher_zero)
            self.average.load_state_dict(self.generator.state_dict())  # what is removed is gone from there too

    def _choose_filters(self, zero: float = 0.0) -> None:
        probes = (self._probe_generator, self._probe_discriminator)
        known = [self._information(filters.weights, probe) for filters, probe in zip(self.filters, probes)]
        for filters, values, optimizer in zip(self.filters, known, (self.g_optimizer, self.d_optimizer)):
            filters.choose(values, self.config.fisher_freeze, zero)
            filters.clear(optimizer)

    def _information(self, weights: list[nn.Parameter], probe: Callable[[Latents, slice], Tensor]) -> list[Tensor]:
        """Fisher information of weights, from fakes judged as in training: one minibatch-std group at a time.

        A group's derivative is the sum of independent ones, whose squares are expected to add up to its own.
        """
        size, processes = self.group, self.accelerator.num_processes
        count = math.ceil(self.config.fisher_samples / size)
        latents = draw_latents(self.generator, size * count, self.config.seed, PROBE_STEP)
        parts = (slice(size * i, size * (i + 1)) for i in range(self.accelerator.process_index, count, processes))
        found = information(weights, (probe(latents, part).sum() for part in parts))
        self._add_up(found)
        return [values / (size * count) for values in found]

    def _probe_generator(self, latents: Latents, part: slice) -> Tensor:
        return self.objective.generator(self._judge(self._fakes(latents, part), WHOLE)["picture"])

    def _probe_discriminator(self, latents: Latents, part: slice) -> Tensor:
        with torch.no_grad():
            fakes = self._fakes(latents, part)
        indices = [i % len(self.dataset) for i in range(part.start, part.stop)]
        reals = self.dataset.batch(indices)[0].to(self.device)
        real, fake = (self._judge(images, WHOLE)["picture"] for images in (reals, fakes))
        return self.objective.discriminator_real(real) + self.objective.discriminator_fake(fake)

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
        elif self.step < config.statistics_steps:
            factor = MATCHING_RATE + (1 - MATCHING_RATE) * self.step / config.statistics_steps
        elif config.cooldown:
            done = max(self.step / (config.max_steps or math.inf), self.clock / (60 * (config.max_minutes or math.inf)))
            factor = min(1, max(0, 1 - done) / config.cooldown)
        for optimizer in (self.g_optimizer, self.d_optimizer):
            for group in optimizer.param_groups:
                group["lr"] = optimizer.defaults["lr"] * group["factor"] * factor

    def _reals(self, step: int) -> Tensor:
        """This process's share of the real pictures of a step. Runs in the loading thread."""
        config = self.config
        if step < max(config.teaching_steps, config.statistics_steps):
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
                losses = teacher.drawing_losses(self.generator, own, config.resolution, rng, count, part)
            means = {name: loss.sum() / count for name, loss in losses.items()}
            for name, mean in means.items():
                sums[name] += mean.detach()
            torch.stack(list(means.values())).sum().backward()
        return self._step_generator(sums)

    def _match_step(self) -> dict[str, float]:
        """One update of G, and of the average, towards the real pictures' radial statistics alone; returns their distance."""
        config = self.config
        assert self.statistics is not None
        sums: defaultdict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.device))
        latents = self._draw_latents()
        self.g_optimizer.zero_grad(set_to_none=True)
        for part in self.parts:
            loss = statistics_loss(self._fakes(latents, part), self.statistics).sum() / config.batch_size
            sums["statistics"] += loss.detach()
            (config.statistics_weight * loss).backward()
        return self._step_generator(sums)

    def _step_generator(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """Add gradients and statistics up over processes, update G and the average; the statistics as numbers."""
        sums["clock"] += self.seconds / self.accelerator.num_processes
        sums["stop"] += float(self.interrupted or self.seconds >= 60 * (self.config.max_minutes or math.inf))
        statistics = torch.stack(list(sums.values()))
        self._add_up([p.grad for p in self.g_weights if p.grad is not None] + [statistics])
        for filters in self.filters[:1]:
            filters.mask_gradients()
        norm = self._gradient_norm(self.g_weights)
        self.g_optimizer.step()
        self._average()
        return dict(zip([*sums, "gradient_g"], torch.cat([statistics, norm[None]]).tolist()))

    def _train_step(self, reals: Tensor) -> dict[str, float]:
        """One update of D, of G and of the average, from this process's share of the real pictures.

        Returns statistics of the whole batch.
        """
        config, seed, step = self.config, self.config.seed, self.step
        if step > 0 and config.fisher_interval and step % config.fisher_interval == 0:
            self._choose_filters()
        heads = self._heads()
        latents = self._draw_latents()
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
            with torch.set_grad_enabled(keep), recorded(self.layers if keep else []) as outputs:
                fakes = self._fakes(latents, part)
                changed = fake_change[part](fakes)
            self._learn_reals(real_change[part](reals[own]), self.penalized[part], heads, sums)
            loss = self._loss(self.objective.discriminator_fake, self._judge(changed.detach(), heads), heads)
            loss.backward()
            sums["loss_d"] += loss.detach()
        self._add_up([p.grad for p in self.d_weights if p.grad is not None])
        for filters in self.filters[1:]:
            filters.mask_gradients()
        # Every process has the same gradient now, and statistics are summed.
        sums["gradient_d"] += self._gradient_norm(self.d_weights) / self.accelerator.num_processes
        self.d_optimizer.step()

        # Generator, through a discriminator whose weights need no gradient now.
        self.g_optimizer.zero_grad(set_to_none=True)
        for weight in self.d_weights:
            weight.requires_grad_(False)
        for part in self.parts:
            if not keep:
                with recorded(self.layers) as outputs:
                    fakes = self._fakes(latents, part)
                changed = fake_change[part](fakes)
            loss = self._loss(self.objective.generator, self._judge(changed, heads), heads)
            sums["loss_g"] += loss.detach()
            for name, weight, term in self._terms(latents, part, fakes, outputs):
                sums[name] += term.detach()
                loss = loss + weight * term
            loss.backward()
        for weight in self.d_weights:
            weight.requires_grad_(True)
        return self._step_generator(sums)

    def _terms(
        self, latents: Latents, part: slice, fakes: Tensor, outputs: list[Tensor]
    ) -> Iterator[tuple[str, float, Tensor]]:
        """What else the generator minimises: name, weight, and this part's share of the mean over the batch.

        outputs: of the style layers, where they are recorded.
        """
        config = self.config
        if config.teaching_weight > 0:
            pictures = render(answers(latents.select(part, self.device)), config.resolution, self.device)
            yield "difference", config.teaching_weight, difference(fakes, pictures).sum() / config.batch_size
        if config.symmetry_weight > 0:
            order = latents.conditions.get("order")
            losses = asymmetry(fakes, None if order is None else order[part])
            yield "symmetry", config.symmetry_weight, losses.sum() / config.batch_size
        if self.statistics is not None:
            losses = statistics_loss(fakes, self.statistics)
            yield "statistics", config.statistics_weight, losses.sum() / config.batch_size
        if self.source is not None:
            # At one pixel where the size is free: the activations do not depend on it. Nothing here needs a gradient.
            with recorded(style_layers(self.source)) as wanted:
                self._fakes(latents, part, self.source, 1)
            layer = draw_layers(config.batch_size, len(self.layers), config.seed, self.step)[part]
            losses = correspondence_loss(outputs, wanted, layer)
            yield "correspondence", config.correspondence_weight, losses.sum() / config.batch_size
        if self.consolidation is not None:
            yield "ewc", config.ewc_weight, self.consolidation.penalty() * (len(fakes) / config.batch_size)

    def _near_anchors(self) -> bool:
        every = self.config.anchor_every
        return every > 0 and self.step % every == 0

    def _draw_latents(self) -> Latents:
        config = self.config
        if self._near_anchors():
            return draw_near_anchors(self.generator, config.anchors, config.batch_size, config.seed, self.step)
        return draw_latents(self.generator, config.batch_size, config.seed, self.step, config.style_mixing)

    def _heads(self) -> dict[str, float]:
        """The heads that judge in this step, and the share of each in the losses."""
        if self.patch_head is None or self._near_anchors():
            return WHOLE
        share = self.config.patch_share
        return {"patch": 1.0} if share == 1 else {"picture": 1 - share, "patch": share}

    def _penalizing(self) -> bool:
        """Whether it is R1's turn: every r1_interval-th of the steps that the same heads judge, so that each gets it."""
        every, own = self.config.anchor_every, self.step
        if every > 0:
            own = self.step // every if self._near_anchors() else self.step - self.step // every - 1
        return self.r1_on and own % self.config.r1_interval == 0

    def _fakes(self, latents: Latents, part: slice, generator: Any = None, size: int | None = None) -> Tensor:
        """Pictures of a part of the batch, by the generator in training unless another is given."""
        generator = generator or self.generator
        noise = [
            seeded(self.config.seed, self.step, f"noise {i}", self.device)
            for i in range(part.start, part.stop)
            if self.noisy
        ]
        with self.accelerator.autocast():
            own = latents.select(part, self.device)
            images = generate(generator, own, size or self.config.resolution, noise or None)
        return images.float()

    def _judge(self, images: Tensor, heads: dict[str, float]) -> dict[str, Tensor]:
        """Logits (N,M) of each of the heads: M is 1 for whole pictures, the number of patches for the patch head."""
        with self.accelerator.autocast():
            if self.patch_head is None or "patch" not in heads:
                return {"picture": self.discriminator(images).float()}
            features = self.discriminator.features(images, self.patch_head.level)
            logits = {"patch": self.patch_head(features).float()}
            if "picture" in heads:
                logits["picture"] = self.discriminator.logits(features).float()
            return logits

    def _loss(self, loss: Callable[[Tensor], Tensor], judged: dict[str, Tensor], heads: dict[str, float]) -> Tensor:
        """A loss of the objective, this part's share of the mean over the batch; a sample's is the mean over its patches."""
        terms = [heads[name] * loss(logits).mean(dim=1).sum() for name, logits in judged.items()]
        return torch.stack(terms).sum() / self.config.batch_size

    def _learn_reals(self, reals: Tensor, penalized: Tensor, heads: dict[str, float], sums: dict[str, Tensor]) -> None:
        """Gradients of D at real pictures; where it is R1's turn, the pictures it looks at serve both terms at once."""
        config = self.config
        if not self._penalizing():
            penalized = torch.zeros_like(penalized)
        loss = torch.zeros((), device=self.device)
        for images, penalize in ((reals[~penalized], False), (reals[penalized], True)):
            if len(images) == 0:
                continue
            images = images.detach().requires_grad_(penalize)
            judged = self._judge(images, heads)
            term = self._loss(self.objective.discriminator_real, judged, heads)
            sums["loss_d"] += term.detach()
            for name, logits in judged.items():
                sums["sign_real"] += heads[name] * logits.detach().sign().mean(dim=1).sum() / config.batch_size
                if penalize:
                    # The patches' logits are added up as independent ones are, so that R1 is the mean of the patches' own.
                    one = logits.sum(dim=1, keepdim=True) / math.sqrt(logits.shape[1])
                    penalty = heads[name] * r1(images, one).sum() / int(self.penalized.sum())
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
