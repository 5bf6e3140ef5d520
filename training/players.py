"""The two players of the game: the networks of a run, how they draw and judge a part of a batch, and their optimisers.

Losses are sums over samples divided by the global batch, and gradients are summed over processes in one explicit reduction
for each network. DistributedDataParallel would be in the way here: the discriminator runs several times in a step, once with
its weights frozen, and R1 differentiates twice.
"""

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from fnmatch import fnmatchcase
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.config import TrainConfig
from training.correspondence import GROUP, style_layers
from training.data import PictureSet
from training.discriminators.patch import PatchHead
from training.low_rank import merged
from training.process import open_accelerator
from training.regularizers import normalize_spectrum
from training.sampling import Latents, draw_pictures, seeded, styles, takes_noise

WHOLE = {"picture": 1.0}  # judged by the discriminator itself, no patch head
MOMENTUM = 0.9
MATCHING_RATE = 2.5  # of G at the first of statistics_steps, falling to 1


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
        raise ValueError(
            f"{key} names {pattern!r}, which fits no weight in training; name some of {parts}, or leave {key} out."
        )
    return chosen


class Players:
    """A generator, its average and a discriminator, with their optimisers; both networks are changed in place.

    Parameters of the discriminator that do not require a gradient stay as they are (FreezeD).

    Args:
        dataset_b: of a generator of pairs, the second domain.

    Raises:
        ValueError: the batch cannot be split evenly, or the config does not fit the networks.
    """

    def __init__(
        self,
        config: TrainConfig,
        dataset: PictureSet,
        generator: Any,
        discriminator: Any,
        dataset_b: PictureSet | None = None,
    ) -> None:
        self.config, self.dataset = config, dataset
        self.domains = {"": dataset} if dataset_b is None else {"": dataset, " b": dataset_b}
        self.output = Path(config.output_dir)
        self.accelerator = open_accelerator(config)
        self.device = self.accelerator.device
        self._split_batch(discriminator.config.get("mbstd_group_size", 1))

        layout = {"device": self.device, "memory_format": torch.channels_last}
        self.generator = generator.to(**layout).train()
        self.discriminator = discriminator.to(**layout).train()
        self.normalized: list[list[Any]] = [[], []]  # layers of G and of D
        if "spectral_norm" in config.regularizers:
            self.normalized = [normalize_spectrum(network) for network in (self.generator, self.discriminator)]
            self.average = merged(self.generator).eval().requires_grad_(False)  # of the divided weights
        else:
            self.average = deepcopy(self.generator).eval().requires_grad_(False)
        # Looked up once: walking through the modules at each step would take longer than averaging does.
        named = [*self.average.named_parameters(), *self.average.named_buffers()]
        self.averaged = [(averaged, attrgetter(name)) for name, averaged in named]
        self.noisy = takes_noise(generator)
        self.patch_head: PatchHead | None = None
        if config.patch_level is not None:
            rng = seeded(config.seed, 0, "patch head")
            self.patch_head = PatchHead(discriminator, config.patch_level, config.patch_size, rng).to(self.device)
        # The source model and its activations; the run begins from it also where it is resumed later.
        self.source = deepcopy(self.average) if config.correspondence_weight > 0 else None
        self.layers = [] if self.source is None else style_layers(self.generator)
        self.path_on = "path_length" in config.regularizers
        if self.path_on and "output_size" in generator.conditions:
            raise ValueError(
                f"path_length is not for {type(generator).__name__}: its resampling differentiates only once."
            )

        self.g_weights = [p for p in self.generator.parameters() if p.requires_grad]
        factors = self._rate_factors()
        judges = [self.discriminator, *([] if self.patch_head is None else [self.patch_head])]
        self.d_weights = [p for judge in judges for p in judge.parameters() if p.requires_grad]
        # Lazy regularisation takes one step more in every interval (Karras et al. 2020, appendix B).
        g_lazy, d_lazy = (
            interval / (interval + 1) if on else 1.0
            for on, interval in ((self.path_on, config.path_length_interval), (self.r1_on, config.r1_interval))
        )
        d_rate = config.discriminator_learning_rate or config.learning_rate
        self.g_optimizer = self._optimizer(self.g_weights, config.learning_rate, g_lazy, factors)
        self.d_optimizer = self._optimizer(self.d_weights, d_rate, d_lazy, [1.0] * len(self.d_weights))

        self.step = 0
        self.clock = 0.0  # seconds trained before the last step, over resumes, and the same in all processes

    def _split_batch(self, group: int) -> None:
        """Which pictures of the batch this process has, which go through the networks at once, and which R1 looks at.

        group: of the discriminator's minibatch-std layer, which is never split.
        """
        config, processes = self.config, self.accelerator.num_processes
        self.group = group
        parts = processes * config.gradient_accumulation_steps
        if config.batch_size % (parts * group):
            raise ValueError(
                f"batch_size must be a multiple of processes x gradient_accumulation_steps x minibatch-std group = "
                f"{processes} x {config.gradient_accumulation_steps} x {group}, got {config.batch_size}."
            )
        for name in ("correspondence_weight", "statistics_weight"):
            if getattr(config, name) > 0 and config.batch_size % (parts * GROUP):
                raise ValueError(
                    f"batch_size must be a multiple of processes x gradient_accumulation_steps x {GROUP} = "
                    f"{parts * GROUP} with {name}, which compares fakes in groups of {GROUP}; got {config.batch_size}."
                )
        share, size = config.batch_size // processes, config.batch_size // parts
        first = share * self.accelerator.process_index
        self.share = slice(first, first + share)
        self.parts = [slice(start, start + size) for start in range(first, first + share, size)]
        # R1 takes whole minibatch-std groups, spread evenly, so that every way to split the batch picks the same ones.
        groups = torch.arange(config.batch_size) // group
        fraction = config.r1_batch_fraction
        self.penalized = ((groups + 1) * fraction).floor() > (groups * fraction).floor()
        self.r1_on = bool({"r1", "r2"} & set(config.regularizers)) and config.r1_gamma > 0
        if self.r1_on and not self.penalized.any():
            raise ValueError(
                f"r1_batch_fraction must be at least {group / config.batch_size:g}, one group of {group} in a batch of "
                f"{config.batch_size}, or batch_size larger; got {fraction}."
            )

    def _rate_factors(self) -> list[float]:
        """Of each of g_weights. Raises ValueError where rate_factors names no weight."""
        factors = {name: 1.0 for name, weight in self.generator.named_parameters() if weight.requires_grad}
        for beginning, factor in self.config.rate_factors.items():
            factors.update(dict.fromkeys(weights_of("rate_factors", beginning, list(factors)), factor))
        return list(factors.values())

    def _optimizer(
        self, weights: list[nn.Parameter], rate: float, lazy: float, factors: list[float]
    ) -> torch.optim.Optimizer:
        config = self.config
        groups = [
            {
                "params": [w for w, own in zip(weights, factors) if own == factor],
                "factor": factor,
                "lr": rate * lazy * factor,
            }
            for factor in dict.fromkeys(factors)
        ]
        if config.optimizer == "adam":
            betas = (config.adam_beta1**lazy, config.adam_beta2**lazy)
            return torch.optim.Adam(groups, lr=rate * lazy, betas=betas, eps=1e-8, fused=True)
        if config.optimizer == "rmsprop":
            return torch.optim.RMSprop(groups, lr=rate * lazy)
        if config.optimizer == "adagrad":
            return torch.optim.Adagrad(groups, lr=rate * lazy)
        return torch.optim.SGD(groups, lr=rate * lazy, momentum=MOMENTUM if config.optimizer == "momentum" else 0.0)

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

    def _near_anchors(self) -> bool:
        every = self.config.anchor_every
        return every > 0 and self.step % every == 0

    def _heads(self) -> dict[str, float]:
        """The heads that judge in this step, and the share of each in the losses."""
        if self.patch_head is None or self._near_anchors():
            return WHOLE
        share = self.config.patch_share
        return {"patch": 1.0} if share == 1 else {"picture": 1 - share, "patch": share}

    def _draw(
        self, latents: Latents, part: slice, generator: Any = None, size: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Styles and pictures of a part of the batch, by the generator in training unless another is given."""
        generator = generator or self.generator
        noise = [
            seeded(self.config.seed, self.step, f"noise {i}", self.device)
            for i in range(part.start, part.stop)
            if self.noisy
        ]
        with self.accelerator.autocast():
            ws = styles(generator, latents.select(part, self.device))
            if self.path_on and not ws.requires_grad:  # the mapping does not learn, or there is none
                ws.requires_grad_(torch.is_grad_enabled() and generator is self.generator)
            images = draw_pictures(generator, ws, size or self.config.resolution, noise or None)
        return ws, images.float()

    def _fakes(self, latents: Latents, part: slice, generator: Any = None, size: int | None = None) -> Tensor:
        return self._draw(latents, part, generator, size)[1]

    def _real_pictures(self, choose: Callable[[str, int], Sequence[int]]) -> Tensor:
        """Pictures of each domain, as channels side by side: (N,3,S,S), or (N,6,S,S) where there are two.

        choose: a domain's name and its number of pictures -> indices. No picture of one domain belongs to one of the other.
        """
        parts = [data.batch(choose(name, len(data)))[0] for name, data in self.domains.items()]
        return torch.cat(parts, dim=1)

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
        for averaged, current in self.averaged:
            if averaged.is_floating_point():
                averaged.lerp_(current(self.generator), 1 - self.config.ema_decay)
            else:
                averaged.copy_(current(self.generator))
