"""The settings of a training run: the keys of a recipe, which are the flags of the commands too."""

from dataclasses import dataclass, field
from typing import Any, Literal

from training import augment


@dataclass
class TrainConfig:
    """One training run.

    Args:
        train_data: folder, zip, Hub data set, or emblems:source / emblems:sharingan.
        output_dir: becomes a checkpoint folder that from_pretrained opens; checkpoints/ for resuming lies inside.
        base_model: folder or Hub id to start from; its networks replace the generator and discriminator keys.
        resolution: side of the pictures trained on, a power of two.
        generator: class_name and the arguments of the class.
        discriminator: class_name and the arguments of the class.
        objective: pair of losses.
        regularizers: penalties on the discriminator.
        batch_size: pictures in a step, over all processes and accumulation steps.
        gradient_accumulation_steps: parts in which a process computes its share, to save memory.
        max_steps: steps in all, counted over resumes.
        max_minutes: minutes of training in all, counted over resumes.
        seed: decides everything random.
        learning_rate: Adam's, of the generator.
        discriminator_learning_rate: Adam's, of the discriminator; the generator's where not given.
        rate_factors: parts of the generator that learn faster or slower, by the beginnings of their weights' names.
        cooldown_steps: steps before max_steps over which both learning rates fall to zero, in a line.
        adam_beta1: decay of Adam's mean.
        adam_beta2: decay of Adam's mean square.
        r1_gamma: weight of R1.
        r1_interval: steps from one R1 to the next; its weight grows by as much.
        r1_batch_fraction: part of the batch that R1 looks at.
        teaching_steps: steps at the start in which a RadialGenerator is shown what each of its latents should become, among
            emblems of the source distribution, whatever train_data is; the discriminator waits.
        mapping_steps: how many of them, the first ones, are for the mapping network alone, the rest for the synthesis network;
            they are fast, and over their second half the learning rate falls to zero.
        teaching_weight: weight of the squared difference to those answers after that.
        sharpen: factor on the contrast of a RadialGenerator's masks before the first step. A taught generator draws soft
            edges where it is not sure; sharpened, it decides.
        ema_decay: decay, per step, of the averaged generator that is saved.
        style_mixing: probability that a fake mixes two styles.
        real_rotations: turn training pictures by random quarter turns.
        real_flips: mirror half of the training pictures; leave it off where left and right matter.
        augment: none, diffaugment (always on) or ada (as often as the discriminator over-fits).
        augmentations: any of rotation, scale, shift, flip, color, cutout.
        ada_target: mean sign of D(real) that ada aims for.
        ada_kimg: thousands of pictures in which ada can move from never to always.
        mixed_precision: auto is bf16 on a GPU that has it, else no.
        sample_every: steps between two grids of samples.
        checkpointing_steps: steps between two checkpoints.
        checkpoints_total_limit: checkpoints kept.
        resume_from: a checkpoint folder, or latest, which starts fresh where there is none.
        report_to: tensorboard, trackio or none.
        push_to_hub: publish the result.
        hub_model_id: where to publish it.
        hub_private_repo: publish it privately.
        threads: CPU threads; torch decides where not given.
    """

    train_data: str
    output_dir: str
    base_model: str | None = None
    resolution: int = 64
    generator: dict[str, Any] = field(default_factory=lambda: {"class_name": "RadialGenerator"})
    discriminator: dict[str, Any] = field(default_factory=lambda: {"class_name": "StyleGAN2Discriminator"})
    objective: Literal["non_saturating"] = "non_saturating"
    regularizers: list[Literal["r1"]] = field(default_factory=lambda: ["r1"])
    batch_size: int = 16
    gradient_accumulation_steps: int = 1
    max_steps: int | None = None
    max_minutes: float | None = None
    seed: int = 0
    learning_rate: float = 2.5e-3
    discriminator_learning_rate: float | None = None
    rate_factors: dict[str, float] = field(default_factory=dict)
    cooldown_steps: int = 0
    adam_beta1: float = 0.0
    adam_beta2: float = 0.99
    r1_gamma: float = 0.1
    r1_interval: int = 16
    r1_batch_fraction: float = 0.5
    teaching_steps: int = 0
    mapping_steps: int = 0
    teaching_weight: float = 0.0
    sharpen: float = 1.0
    ema_decay: float = 0.998
    style_mixing: float = 0.0
    real_rotations: bool = True
    real_flips: bool = True
    augment: Literal["none", "diffaugment", "ada"] = "none"
    augmentations: list[str] = field(default_factory=lambda: ["rotation", "scale", "shift", "cutout"])
    ada_target: float = 0.6
    ada_kimg: float = 100.0
    mixed_precision: Literal["auto", "no", "bf16"] = "auto"
    sample_every: int = 500
    checkpointing_steps: int = 1000
    checkpoints_total_limit: int = 3
    resume_from: str | None = None
    report_to: Literal["tensorboard", "trackio", "none"] = "tensorboard"
    push_to_hub: bool = False
    hub_model_id: str | None = None
    hub_private_repo: bool = False
    threads: int | None = None

    def __post_init__(self) -> None:
        positive = (
            "resolution batch_size gradient_accumulation_steps max_steps max_minutes learning_rate "
            "discriminator_learning_rate sharpen r1_interval ada_kimg sample_every checkpointing_steps "
            "checkpoints_total_limit threads"
        )
        for name in positive.split():
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}.")
        for name in ("adam_beta1", "adam_beta2", "ema_decay", "style_mixing", "r1_batch_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, got {getattr(self, name)}.")
        for name in ("r1_gamma", "cooldown_steps", "teaching_steps", "mapping_steps", "teaching_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}.")
        if self.mapping_steps > self.teaching_steps:
            raise ValueError(
                f"mapping_steps are the first of teaching_steps, {self.teaching_steps}; got {self.mapping_steps}."
            )
        for beginning, factor in self.rate_factors.items():
            if not factor > 0:
                raise ValueError(f"rate_factors must be above 0, got {factor} for {beginning!r}.")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be from 0 to 2**63 - 1, got {self.seed}.")
        if self.max_steps is None and self.max_minutes is None:
            raise ValueError("max_steps or max_minutes must be given, or the run would not end.")
        if self.cooldown_steps and self.max_steps is None:
            raise ValueError("cooldown_steps needs max_steps, which says when the run ends.")
        if self.push_to_hub and not self.hub_model_id:
            raise ValueError("hub_model_id must be given with push_to_hub.")
        augment.check_transforms(self.augmentations)
