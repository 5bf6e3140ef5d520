"""One step of the game: what the discriminator, the generator and its average learn from one batch.

Two decisions carry the rest; a third is told in players.py.

- All randomness of a step comes from generators seeded by (seed, step, purpose) and is drawn for the global batch, then
  sliced by process. So a resumed run, and a run on more processes, sees the same numbers with no state to keep.
- A step makes its fakes once: the discriminator learns from their detached copy, then the generator learns through the
  same graph from the updated discriminator. (With gradient accumulation they are made twice, to keep memory low.)
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from training import augment, regularizers
from training.config import TrainConfig
from training.correspondence import correspondence_loss, draw_layers, draw_near_anchors, recorded, style_layers
from training.data import PictureSet
from training.designs import check_masks, match_designs
from training.emblems import render
from training.fisher import Consolidation, Filters, information
from training.objectives import OBJECTIVES, Loss, Objective, accuracy, began
from training.players import WHOLE, Players
from training.radial_statistics import Wanted, statistics_loss, wanted_of
from training.sampling import Latents, draw_latents, real_indices, seeded, turn
from training.symmetry import asymmetry
from training.teacher import MAPPING_FACTOR, Teacher, answers, check_teachable, difference

PROBE_STEP = -3  # the step that Fisher information's latents are drawn for; training's steps begin at 0
MOST_STATISTICS = 256  # pictures whose radial statistics are matched
MOST_DESIGNED = 48  # pictures that are compared with designs


class Game(Players):
    """The players, what a method of adaptation keeps of their base models, and one step of training.

    Args: those of Players.

    Raises:
        ValueError: the batch cannot be split evenly, the generator cannot be taught, or a method of adaptation does not
            fit the networks.
    """

    def __init__(
        self,
        config: TrainConfig,
        dataset: PictureSet,
        generator: Any,
        discriminator: Any,
        dataset_b: PictureSet | None = None,
    ) -> None:
        super().__init__(config, dataset, generator, discriminator, dataset_b)
        self.teacher = Teacher(generator) if config.teaching_steps > 0 else None
        if config.teaching_weight > 0:
            check_teachable(generator)
        if config.designs > 0:
            check_masks(generator)
        self.consolidation = Consolidation(self.g_weights) if config.ewc_weight > 0 else None
        self.statistics: Wanted | None = None  # of the real pictures
        if config.statistics_weight > 0:
            some = dataset.batch(range(min(len(dataset), MOST_STATISTICS)))[0]
            self.statistics = wanted_of(some.to(self.device))
        choosing = config.fisher_freeze < 1 or config.fisher_zero > 0
        self.filters = [Filters(self.generator), Filters(self.discriminator)] if choosing else []

        self.seconds = 0.0  # trained, over resumes
        self.probability = {"none": 0.0, "diffaugment": 1.0, "ada": 0.0}[config.augment]
        self.signs: list[float] = []  # of D(real), since p last moved
        self.k = 0.0  # BEGAN's
        self.path_length = 0.0  # its running mean
        self.interrupted = False  # by a signal

    @property
    def objective(self) -> Objective:
        return began(self.k) if self.config.objective == "began" else OBJECTIVES[self.config.objective]

    def _begin(self) -> None:
        """What is found out before the first step of all; a resumed run has it in its state."""
        if self.config.designs > 0:
            self._match_designs()
        if self.consolidation is not None:
            self.consolidation.information = self._information(self.g_weights, self._probe_generator)
        if self.filters:
            self._choose_filters()
            self.average.load_state_dict(self.generator.state_dict())  # what is removed is gone from there too

    def _match_designs(self) -> None:
        every = -(-len(self.dataset) // MOST_DESIGNED)
        pictures, orders = self.dataset.batch(range(0, len(self.dataset), every))
        count, steps = self.config.designs, self.config.designs_steps
        match_designs(self.generator, pictures.to(self.device), orders, count, steps, self.config.seed)
        changed = [*self.generator.fc.parameters(), *self.generator.palette_head.parameters()]
        self._add_up([weight.data for weight in changed])  # the same in all processes
        for weight in changed:
            weight.data /= self.accelerator.num_processes
        self.average.load_state_dict(self.generator.state_dict())

    def _choose_filters(self) -> None:
        probes = (self._probe_generator, self._probe_discriminator)
        known = [self._information(filters.weights, probe) for filters, probe in zip(self.filters, probes)]
        for filters, values, optimizer in zip(self.filters, known, (self.g_optimizer, self.d_optimizer)):
            filters.choose(values, self.config.fisher_freeze, self.config.fisher_zero)
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
        fake = self._judge(self._fakes(latents, part), WHOLE)["picture"]
        return self.objective.generator(fake, self._probe_reals(part) if self.objective.paired else fake)

    def _probe_discriminator(self, latents: Latents, part: slice) -> Tensor:
        with torch.no_grad():
            fakes = self._fakes(latents, part)
        return self.objective.discriminator(self._probe_reals(part), self._judge(fakes, WHOLE)["picture"])

    def _probe_reals(self, part: slice) -> Tensor:
        reals = self._real_pictures(lambda _, length: [i % length for i in range(part.start, part.stop)])
        return self._judge(reals.to(self.device), WHOLE)["picture"]

    def _reals(self, step: int) -> Tensor:
        """This process's share of the real pictures of a step. Runs in the loading thread."""
        config = self.config
        if step < max(config.teaching_steps, config.statistics_steps):
            return torch.empty(0)
        images = self._real_pictures(
            lambda domain, length: real_indices(config.seed, step, config.batch_size, length, domain)[self.share]
        )
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
            loss = statistics_loss(self._fakes(latents, part)[:, :3], self.statistics).sum() / config.batch_size
            sums["statistics"] += loss.detach()
            (config.statistics_weight * loss).backward()
        return self._step_generator(sums)

    def _step_generator(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """Add gradients and statistics up over processes, update G and the average; the statistics as numbers."""
        statistics = self._add_up_statistics(sums, self.g_weights)
        for filters in self.filters[:1]:
            filters.mask_gradients()
        norm = self._gradient_norm(self.g_weights)
        self.g_optimizer.step()
        self._average()
        return dict(zip([*sums, "gradient_g"], torch.cat([statistics, norm[None]]).tolist()))

    def _add_up_statistics(self, sums: dict[str, Tensor], weights: list[nn.Parameter]) -> Tensor:
        """Statistics, and with them the gradients of weights in place, added up over processes."""
        sums["clock"] += self.seconds / self.accelerator.num_processes
        sums["stop"] += float(self.interrupted or self.seconds >= 60 * (self.config.max_minutes or math.inf))
        statistics = torch.stack(list(sums.values()))
        self._add_up([p.grad for p in weights if p.grad is not None] + [statistics])
        return statistics

    def _train_step(self, reals: Tensor) -> dict[str, float]:
        """One update of D from this process's share of the real pictures, and where it is their turn of G and the average.

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
        learning = (step + 1) % config.critic_steps == 0  # G
        keep = learning and len(self.parts) == 1
        local = [slice(part.start - self.share.start, part.stop - self.share.start) for part in self.parts]
        for layers in self.normalized:
            regularizers.estimate_spectrum(layers)

        # Discriminator.
        self.d_optimizer.zero_grad(set_to_none=True)
        for part, own in zip(self.parts, local):
            with torch.set_grad_enabled(keep), recorded(self.layers if keep else []) as outputs:
                ws, fakes = self._draw(latents, part)
                changed = fake_change[part](fakes)
            loss = self._discriminator_loss(real_change[part](reals[own]), changed.detach(), part, heads, sums)
            if "distance_d" in config.regularizers:
                loss = loss + self._distance(fakes.detach(), reals[own])
            sums["loss_d"] += loss.detach()
            loss.backward()
        self._step_discriminator(sums)
        if not learning:
            return dict(zip(sums, self._add_up_statistics(sums, []).tolist()))

        # Generator, through a discriminator whose weights need no gradient now.
        self.g_optimizer.zero_grad(set_to_none=True)
        for weight in self.d_weights:
            weight.requires_grad_(False)
        for part, own in zip(self.parts, local):
            if not keep:
                with recorded(self.layers) as outputs:
                    ws, fakes = self._draw(latents, part)
                changed = fake_change[part](fakes)
            fake = real = self._judge(changed, heads)
            if self.objective.paired:
                real = self._judge(real_change[part](reals[own]), heads)
            loss = self._loss(self.objective.generator, fake, real, heads)
            sums["loss_g"] += loss.detach()
            if "distance_g" in config.regularizers:
                loss = loss + self._distance(fakes, reals[own])
            if self.path_on and step // config.critic_steps % config.path_length_interval == 0:
                loss = loss + self._path_penalty(ws, fakes, part, sums)
            for name, weight, term in self._terms(latents, part, fakes, outputs):
                sums[name] += term.detach()
                loss = loss + weight * term
            loss.backward()
        for weight in self.d_weights:
            weight.requires_grad_(True)
        return self._step_generator(sums)

    def _discriminator_loss(
        self, reals: Tensor, fakes: Tensor, part: slice, heads: dict[str, float], sums: dict[str, Tensor]
    ) -> Tensor:
        """What D minimises in a part of the batch, penalties included; where it is R1's turn, one pass serves both."""
        config, chosen = self.config, self.config.regularizers
        penalizing = self._penalizing()
        judged, penalties = {}, []
        for name, images in (("r1", reals), ("r2", fakes)):
            on = penalizing and name in chosen
            judged[name], penalty = self._judge_parts(images, self.penalized[part] & on, heads)
            if on:
                penalty = penalty / int(self.penalized.sum())
                sums[name] += penalty.detach()
                # Lazy: as many times the weight as there are steps without it.
                penalties.append(penalty * (config.r1_gamma / 2 * config.r1_interval))
        if "gradient_penalty" in chosen:
            share = torch.rand(config.batch_size, 1, 1, 1, generator=seeded(config.seed, self.step, "interpolation"))
            between = fakes.lerp(reals, share[part].to(self.device)).requires_grad_()
            logits = self._judge(between, heads)
            penalty = self._penalty(regularizers.gradient_penalty, between, logits, heads) / config.batch_size
            sums["gradient_penalty"] += penalty.detach()
            penalties.append(penalty * config.gradient_penalty_weight)
        real, fake = judged["r1"], judged["r2"]
        for name, weight in heads.items():
            shares = {
                "sign_real": real[name].detach().sign(),
                "score_real": real[name].detach(),
                "score_fake": fake[name].detach(),
                "accuracy": accuracy(self.objective, real[name].detach(), fake[name].detach()),
            }
            for key, values in shares.items():
                sums[key] += weight * values.mean(dim=1).sum() / config.batch_size
        return torch.stack([self._loss(self.objective.discriminator, real, fake, heads), *penalties]).sum()

    def _judge_parts(
        self, images: Tensor, penalized: Tensor, heads: dict[str, float]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Logits of pictures, in their order, and the sum of R1 or R2 over those that are penalized (N,)."""
        parts, total = [], torch.zeros((), device=self.device)
        if not penalized.any():  # most steps: nothing to take apart
            return self._judge(images, heads), total
        for some, penalize in ((~penalized, False), (penalized, True)):
            if not some.any():
                continue
            own = images[some].detach().requires_grad_(penalize)
            logits = self._judge(own, heads)
            parts.append(logits)
            if penalize:
                total = self._penalty(regularizers.r1, own, logits, heads)
        back = penalized.to(torch.uint8).argsort(stable=True).argsort()
        return {name: torch.cat([logits[name] for logits in parts])[back] for name in heads}, total

    @staticmethod
    def _penalty(kind: Loss, images: Tensor, judged: dict[str, Tensor], heads: dict[str, float]) -> Tensor:
        """Sum over pictures of a penalty on D's gradient at them, each head having its share.

        The patches' logits are added up as independent ones are, so that R1 is the mean of the patches' own.
        """
        ones = {name: logits.sum(dim=1, keepdim=True) / math.sqrt(logits.shape[1]) for name, logits in judged.items()}
        return torch.stack([heads[name] * kind(images, one).sum() for name, one in ones.items()]).sum()

    def _step_discriminator(self, sums: dict[str, Tensor]) -> None:
        """Update D from its gradients, added up over processes."""
        config = self.config
        self._add_up([p.grad for p in self.d_weights if p.grad is not None])
        for filters in self.filters[1:]:
            filters.mask_gradients()
        norm = self._gradient_norm(self.d_weights)
        # Every process has the same gradient now, and statistics are summed.
        sums["gradient_d"] += norm / self.accelerator.num_processes
        if config.clip_gradient_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.d_weights, config.clip_gradient_norm, norm)
        self.d_optimizer.step()
        if "weight_clipping" in config.regularizers:
            regularizers.clip(self.d_weights, config.clip_value)

    def _distance(self, fakes: Tensor, reals: Tensor) -> Tensor:
        return regularizers.distance(fakes, reals).sum() * (self.config.distance_weight / self.config.batch_size)

    def _path_penalty(self, ws: Tensor, fakes: Tensor, part: slice, sums: dict[str, Tensor]) -> Tensor:
        """This part's share of path length regularisation, lazy as R1. The mean is the one before this step."""
        config = self.config
        rngs = (seeded(config.seed, self.step, f"path {i}", self.device) for i in range(part.start, part.stop))
        noise = torch.stack([torch.randn(fakes.shape[1:], generator=rng, device=self.device) for rng in rngs])
        lengths = regularizers.path_lengths(ws, fakes, noise)
        sums["path_length"] += lengths.detach().sum() / config.batch_size
        penalty = (lengths - self.path_length).square().sum() / config.batch_size
        return penalty * (config.path_length_weight * config.path_length_interval)

    def _terms(
        self, latents: Latents, part: slice, fakes: Tensor, outputs: list[Tensor]
    ) -> Iterator[tuple[str, float, Tensor]]:
        """What else the generator minimises: name, weight, and this part's share of the mean over the batch.

        outputs: of the style layers, where they are recorded.
        """
        config, shown = self.config, fakes[:, :3]  # of a pair, the first
        if config.teaching_weight > 0:
            pictures = render(answers(latents.select(part, self.device)), config.resolution, self.device)
            yield "difference", config.teaching_weight, difference(shown, pictures).sum() / config.batch_size
        if config.symmetry_weight > 0:
            order = latents.conditions.get("order")
            losses = asymmetry(shown, None if order is None else order[part])
            yield "symmetry", config.symmetry_weight, losses.sum() / config.batch_size
        if self.statistics is not None:
            losses = statistics_loss(shown, self.statistics)
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

    def _draw_latents(self) -> Latents:
        config = self.config
        if self._near_anchors():
            return draw_near_anchors(self.generator, config.anchors, config.batch_size, config.seed, self.step)
        return draw_latents(self.generator, config.batch_size, config.seed, self.step, config.style_mixing)

    def _penalizing(self) -> bool:
        """Whether it is R1's turn: every r1_interval-th of the steps that the same heads judge, so that each gets it."""
        every, own = self.config.anchor_every, self.step
        if every > 0:
            own = self.step // every if self._near_anchors() else self.step - self.step // every - 1
        return self.r1_on and own % self.config.r1_interval == 0

    def _loss(self, loss: Loss, first: dict[str, Tensor], second: dict[str, Tensor], heads: dict[str, float]) -> Tensor:
        """A loss of the objective, this part's share of the mean over the batch; a sample's is the mean over its patches."""
        terms = [share * loss(first[name], second[name]).mean(dim=1).sum() for name, share in heads.items()]
        return torch.stack(terms).sum() / self.config.batch_size
