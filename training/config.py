"""The settings of a training run: the keys of a recipe, which are the flags of the commands too."""

from dataclasses import dataclass, field
from typing import Any, Literal

from training import augment

UNSIGNED = ("wasserstein", "least_squares", "relativistic", "began")  # objectives whose D is not undecided at 0


def check_positive(config: Any, names: str) -> None:
    """Raise ValueError where a setting that is given, of those named, is not above 0."""
    for name in names.split():
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}.")


@dataclass
class TrainConfig:
    """One training run.

    Args:
        train_data: folder, zip, Hub data set, or emblems:source / emblems:sharingan.
        train_data_b: likewise, pictures of the second domain for a generator of pairs (CoGAN), none of which need belong to one
            of the first; where not given, the edges in the pictures of the first.
        output_dir: becomes a checkpoint folder that from_pretrained opens; checkpoints/ for resuming lies inside.
        base_model: folder or Hub id to start from; its networks replace the generator and discriminator keys.
        resolution: side of the pictures trained on, a power of two.
        generator: class_name and the arguments of the class.
        discriminator: class_name and the arguments of the class.
        objective: pair of losses; see objectives.py.
        regularizers: any of r1, r2 (the same on fakes), gradient_penalty (WGAN-GP), weight_clipping (WGAN), spectral_norm (on
            both networks), path_length (on the generator), and distance_d or distance_g, the squared distance of each fake
            from the real picture beside it, added to the discriminator's loss, where it has no gradient (Nazeri), or to the
            generator's, where it has. None is [].
        batch_size: pictures in a step, over all processes and accumulation steps.
        gradient_accumulation_steps: parts in which a process computes its share, to save memory.
        max_steps: steps in all, counted over resumes.
        max_minutes: minutes of training in all, counted over resumes.
        seed: decides everything random.
        optimizer: of both networks; momentum is sgd with a momentum of 0.9.
        critic_steps: steps of the discriminator for each one of the generator. All counts of steps are the discriminator's.
        learning_rate: the optimiser's, of the generator.
        discriminator_learning_rate: the optimiser's, of the discriminator; the generator's where not given.
        rate_factors: parts of the generator that learn faster or slower, by the beginnings of their weights' names.
        cooldown: the last part of the run, by steps or by minutes, over which both learning rates fall to zero, in a line.
        adam_beta1: decay of Adam's mean.
        adam_beta2: decay of Adam's mean square.
        r1_gamma: weight of R1, and of R2.
        r1_interval: steps from one R1, or R2, to the next; its weight grows by as much.
        r1_batch_fraction: part of the batch that R1 and R2 look at.
        gradient_penalty_weight: lambda of WGAN-GP.
        clip_value: weight clipping's limit, either way.
        clip_gradient_norm: the longest gradient of the discriminator; a longer one is cut to it. Any where not given.
        path_length_weight: weight of path length regularisation.
        path_length_interval: steps of the generator from one to the next; its weight grows by as much.
        distance_weight: Nazeri's beta.
        began_gamma: BEGAN's balance of fakes' reconstruction errors to reals'; the lower, the less varied and the sharper.
        began_rate: how fast BEGAN's k moves.
        teaching_steps: steps at the start in which a RadialGenerator or StyleGAN2Generator is shown what each of its latents
            should become, among emblems of the source distribution, whatever train_data is; the discriminator waits.
        mapping_steps: how many of them, the first ones, are for the mapping network alone, the rest for the synthesis network;
            they are fast, and over their second half the learning rate falls to zero.
        teaching_weight: weight of the squared difference to those answers after that.
        sharpen: factor on the contrast of a RadialGenerator's masks before the first step. A taught generator draws soft
            edges where it is not sure; sharpened, it decides.
        patch_level: side of the discriminator's features that a patch head reads, one of 4, 8, ... resolution; there is no
            patch head where not given.
        patch_size: height and width of a patch, in those features: [3, 3], or a strip such as [1, 5].
        patch_share: the patch head's part in the loss; the rest is the whole picture's. 1 judges patches alone.
        anchor_every: every so many steps the fakes lie near fixed latents and whole pictures are judged; with 0, never.
        anchors: how many such latents there are: best as many as training pictures.
        correspondence_weight: weight of keeping what is alike alike, as in the base model (CDC; 1000 is usual).
        ewc_weight: weight of keeping each of the base model's weights, by its Fisher information (EWC).
        fisher_freeze: filters whose Fisher information is above this quantile are frozen (RICK); with 1, none.
        fisher_zero: filters below this quantile are made zero at each choice, and stay so; with 0, none.
        fisher_interval: steps from one choice of filters to the next; there is only one, before the first step, where not given.
        fisher_samples: fakes from which Fisher information is estimated.
        symmetry_weight: weight of the share of a fake's energy that rotational symmetry forbids: of its own order where the
            generator is asked for one, else of the order from 2 to 8 that it is nearest to.
        statistics_weight: weight of the distance of the fakes' radial statistics from the training pictures'.
        statistics_steps: steps at the start in which nothing else is learnt, and at a higher rate; the discriminator waits.
        designs: source designs from which a network learns, before the first step, to read off a picture which style it has, so
            that a RadialGenerator's mapping and palette begin near the training pictures; with 0, none. See designs.py.
        designs_steps: steps of the mapping network alone, before the first step of all, towards designs that are like them.
        order_prior: pictures added to each order that training pictures have, when the mix of orders is taken from them.
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
        stop_on_collapse: where at two checkpoints running the fakes are all but alike, stop, and go back to the checkpoint
            with the lowest KID. Without it there is a warning.
        resume_from: a checkpoint folder, or latest, which starts fresh where there is none.
        report_to: tensorboard, trackio or none.
        push_to_hub: publish each checkpoint in the background, and the result.
        hub_model_id: where to publish it.
        hub_private_repo: publish it privately.
        threads: CPU threads; torch decides where not given.
    """

    train_data: str
    output_dir: str
    train_data_b: str | None = None
    base_model: str | None = None
    resolution: int = 64
    generator: dict[str, Any] = field(default_factory=lambda: {"class_name": "RadialGenerator"})
    discriminator: dict[str, Any] = field(default_factory=lambda: {"class_name": "StyleGAN2Discriminator"})
    objective: Literal[
        "minimax",
        "non_saturating",
        "wasserstein",
        "least_squares",
        "least_squares_signed",
        "hinge",
        "relativistic",
        "began",
        "mse",
    ] = "non_saturating"
    regularizers: list[
        Literal[
            "r1",
            "r2",
            "gradient_penalty",
            "weight_clipping",
            "spectral_norm",
            "path_length",
            "distance_d",
            "distance_g",
        ]
    ] = field(default_factory=lambda: ["r1"])
    batch_size: int = 16
    gradient_accumulation_steps: int = 1
    max_steps: int | None = None
    max_minutes: float | None = None
    seed: int = 0
    optimizer: Literal["adam", "rmsprop", "adagrad", "sgd", "momentum"] = "adam"
    critic_steps: int = 1
    learning_rate: float = 2.5e-3
    discriminator_learning_rate: float | None = None
    rate_factors: dict[str, float] = field(default_factory=dict)
    cooldown: float = 0.0
    adam_beta1: float = 0.0
    adam_beta2: float = 0.99
    r1_gamma: float = 0.1
    r1_interval: int = 16
    r1_batch_fraction: float = 0.5
    gradient_penalty_weight: float = 10.0
    clip_value: float = 0.01
    clip_gradient_norm: float | None = None
    path_length_weight: float = 2.0
    path_length_interval: int = 4
    distance_weight: float = 0.01
    began_gamma: float = 0.5
    began_rate: float = 0.001
    teaching_steps: int = 0
    mapping_steps: int = 0
    teaching_weight: float = 0.0
    sharpen: float = 1.0
    patch_level: int | None = None
    patch_size: list[int] = field(default_factory=lambda: [3, 3])
    patch_share: float = 1.0
    anchor_every: int = 0
    anchors: int = 10
    correspondence_weight: float = 0.0
    ewc_weight: float = 0.0
    fisher_freeze: float = 1.0
    fisher_zero: float = 0.0
    fisher_interval: int | None = None
    fisher_samples: int = 256
    symmetry_weight: float = 0.0
    statistics_weight: float = 0.0
    statistics_steps: int = 0
    designs: int = 0
    designs_steps: int = 400
    order_prior: float = 0.0
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
    stop_on_collapse: bool = False
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
            "checkpoints_total_limit threads patch_level patch_share anchors fisher_interval fisher_samples critic_steps "
            "gradient_penalty_weight clip_value clip_gradient_norm path_length_weight path_length_interval "
            "distance_weight began_rate"
        )
        check_positive(self, positive)
        shares = ("cooldown", "patch_share", "fisher_freeze", "fisher_zero", "began_gamma")
        for name in ("adam_beta1", "adam_beta2", "ema_decay", "style_mixing", "r1_batch_fraction", *shares):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, got {getattr(self, name)}.")
        weights = ("correspondence_weight", "ewc_weight", "symmetry_weight", "statistics_weight", "anchor_every")
        counts = ("teaching_steps", "mapping_steps", "statistics_steps", "designs", "designs_steps", "order_prior")
        for name in ("r1_gamma", "teaching_weight", *counts, *weights):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}.")
        if self.statistics_steps and not self.statistics_weight:
            raise ValueError(f"statistics_steps is {self.statistics_steps}; they need a statistics_weight above 0.")
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
        if self.style_mixing and self.teaching_weight:
            raise ValueError("style_mixing must be 0 with teaching_weight: of a mixed style no answer is known.")
        if self.push_to_hub and not self.hub_model_id:
            raise ValueError("hub_model_id must be given with push_to_hub.")
        if self.augment == "ada" and self.objective in UNSIGNED:
            raise ValueError(f"augment must not be ada with {self.objective}, where the sign of D(real) says nothing.")
        augment.check_transforms(self.augmentations)
        self._check_methods()

    def _check_methods(self) -> None:
        """Settings of few-shot adaptation that do not go together."""
        if len(self.patch_size) != 2 or min(self.patch_size) < 1:
            raise ValueError(f"patch_size must be a height and a width, each at least 1; got {self.patch_size}.")
        if self.anchor_every == 1:
            raise ValueError("anchor_every must be 0 or at least 2: at 1, no step would be left for the patch head.")
        if self.anchor_every and self.patch_level is None:
            raise ValueError("anchor_every needs patch_level, for a patch head that judges the other steps.")
        if self.anchor_every and self.critic_steps > 1:
            raise ValueError("anchor_every needs critic_steps 1, or the generator would miss some of its turns.")
        if self.fisher_zero > self.fisher_freeze:
            raise ValueError(
                f"fisher_zero must not be above fisher_freeze, {self.fisher_freeze}; got {self.fisher_zero}."
            )
        for name, off in (("correspondence_weight", 0), ("ewc_weight", 0), ("fisher_freeze", 1), ("fisher_zero", 0)):
            if getattr(self, name) != off and self.base_model is None:
                raise ValueError(f"{name} must be {off} without a base_model, of which it would keep something.")
        if self.fisher_interval and self.fisher_freeze == 1 and self.fisher_zero == 0:
            raise ValueError(
                "fisher_interval needs fisher_freeze below 1 or fisher_zero: there is nothing to choose again."
            )
