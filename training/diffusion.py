"""Train a small diffusion model on the same pictures: the alternative that a user would otherwise pick.

    accelerate launch training/diffusion.py --config training/recipes/diffusion.yaml \
        --train_data my_pictures --output_dir runs/mine

diffusers' UNet2DModel and DDPMScheduler (Ho et al. 2020; cosine noise of Nichol and Dhariwal 2021; the network predicts
the velocity of Salimans and Ho 2022). The result is a plain DDPMPipeline folder: `DDPMPipeline.from_pretrained` opens it,
and `sample` draws from it in a few DDIM steps. The loop, its files and its resuming are those of trainer.py.
"""

import json
import math
import os
import sys
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

if __package__ in (None, ""):  # run as a file: Python put training/ on the path, the rooms are one folder up
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from torch import Tensor
from tqdm.auto import tqdm

from sharingan_hub import hub
from sharingan_hub.cards import write_card
from training.checkpoints import picture_grid, replaced_folder, save_picture
from training.config import check_positive
from training.data import PictureSet, load_pictures
from training.monitor import Monitor
from training.process import open_accelerator, quicken_cpu
from training.report import run_report
from training.sampling import seeded
from training.train import parse, run
from training.trainer import SAMPLE_COLUMNS, Trainer, TrainingError

PREVIEW_STEPS = 10  # of DDIM, in the pictures drawn while training
SAMPLE_BATCH = 16  # larger ones leave the cache


@dataclass
class DiffusionConfig:
    """One training run of a diffusion model.

    Args:
        train_data: folder, zip, Hub data set, or emblems:source / emblems:sharingan.
        output_dir: becomes a DDPMPipeline folder; checkpoints/ for resuming lies inside.
        base_model: folder of such a run to start from, in place of a fresh network.
        resolution: side of the pictures, a multiple of 2 to the number of channels less one.
        channels: of the U-Net's levels, each half as wide in pixels as the one before; multiples of 8. The level of 8 x 8
            pixels and the one below the last have attention.
        batch_size: pictures in a step, over all processes.
        max_steps: steps in all, counted over resumes.
        max_minutes: minutes of training in all, counted over resumes.
        seed: decides everything random.
        learning_rate: Adam's.
        ema_decay: decay, per step, of the averaged network that is saved; lower in the first steps.
        real_rotations: turn training pictures by random quarter turns.
        real_flips: mirror half of the training pictures; leave it off where left and right matter.
        mixed_precision: auto is bf16 on a GPU that has it, else no.
        sample_every: steps between two grids of samples.
        checkpointing_steps: steps between two checkpoints.
        checkpoints_total_limit: checkpoints kept.
        resume_from: a checkpoint folder, or latest, which starts fresh where there is none.
        report_to: tensorboard, trackio or none.
        threads: CPU threads; torch decides where not given.
    """

    train_data: str
    output_dir: str
    base_model: str | None = None
    resolution: int = 64
    channels: list[int] = field(default_factory=lambda: [8, 16, 32, 64, 96])
    batch_size: int = 16
    max_steps: int | None = None
    max_minutes: float | None = None
    seed: int = 0
    learning_rate: float = 1e-3
    ema_decay: float = 0.999
    real_rotations: bool = True
    real_flips: bool = True
    mixed_precision: Literal["auto", "no", "bf16"] = "auto"
    sample_every: int = 1000
    checkpointing_steps: int = 1000
    checkpoints_total_limit: int = 3
    resume_from: str | None = None
    report_to: Literal["tensorboard", "trackio", "none"] = "tensorboard"
    threads: int | None = None

    # What else the loop asks of a run: nothing of the kind happens here.
    teaching_steps: ClassVar[int] = 0
    statistics_steps: ClassVar[int] = 0
    stop_on_collapse: ClassVar[bool] = False
    push_to_hub: ClassVar[bool] = False

    def __post_init__(self) -> None:
        positive = (
            "resolution batch_size max_steps max_minutes learning_rate sample_every checkpointing_steps "
            "checkpoints_total_limit threads"
        )
        check_positive(self, positive)
        if not 0 <= self.ema_decay <= 1:
            raise ValueError(f"ema_decay must be from 0 to 1, got {self.ema_decay}.")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be from 0 to 2**63 - 1, got {self.seed}.")
        if self.max_steps is None and self.max_minutes is None:
            raise ValueError("max_steps or max_minutes must be given, or the run would not end.")
        if not self.channels or any(width < 8 or width % 8 for width in self.channels):
            raise ValueError(f"channels must be multiples of 8, got {self.channels}.")
        smallest = 2 ** (len(self.channels) - 1)
        if self.resolution % smallest:
            raise ValueError(f"resolution must be a multiple of {smallest} with these channels, got {self.resolution}.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `diffusion.py`. Exit code 2 and one sentence on wrong input, 1 where training cannot go on."""
    run(parse(DiffusionConfig, arguments), train)


def train(config: DiffusionConfig) -> Path:
    """Train as a config says; returns the DDPMPipeline folder.

    Raises:
        ValueError: the config does not fit the data or the base model.
        TrainingError: training cannot go on.
    """
    dataset = load_pictures(config.train_data, config.resolution)
    torch.manual_seed(config.seed)
    if config.base_model is None:
        unet = build_unet(config.resolution, config.channels)
    else:
        unet = read_unet(Path(config.base_model))
        if unet.config.sample_size != config.resolution:
            raise ValueError(
                f"resolution must be {unet.config.sample_size}, the base model's, got {config.resolution}."
            )
    return DiffusionTrainer(config, dataset, unet).train()


def build_unet(resolution: int, channels: Sequence[int]) -> Any:
    """A fresh U-Net, one residual block a level on the way down and two on the way up."""
    attention = [resolution >> level == 8 for level in range(len(channels))]
    return UNet2DModel(
        sample_size=resolution,
        block_out_channels=tuple(channels),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=tuple("AttnDownBlock2D" if here else "DownBlock2D" for here in attention),
        up_block_types=tuple("AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attention)),
    )


def noise_schedule() -> Any:
    """A thousand steps of noise, from none to nothing else."""
    return DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")


def read_unet(folder: Path) -> Any:
    """The U-Net of a DDPMPipeline folder, on the CPU; JSON and safetensors are read, and nothing else.

    Raises:
        CheckpointError: a file is missing or malformed, or the weights do not fit.
    """
    config = hub.read_json(folder / "unet" / "config.json")
    try:
        unet: Any = UNet2DModel.from_config({name: value for name, value in config.items() if not name.startswith("_")})
    except Exception as error:  # whatever a strange value makes the constructor do
        raise hub.CheckpointError(f"unet/config.json does not describe a UNet2DModel: {error}") from error
    unet.load_state_dict(hub.read_weights(folder / "unet" / hub.WEIGHTS, unet.state_dict()))
    return unet.eval()


@torch.no_grad()
def sample(
    folder: Path, pictures: Sequence[int], seed: int = 0, steps: int = 25, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Draw pictures (N,3,S,S) in [-1,1], on the CPU, from a DDPMPipeline folder by DDIM, on a GPU where there is one.

    pictures: which ones; each depends on seed and its own number alone. dtype: of the computation; bfloat16 is faster on a CPU that has it.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        quicken_cpu()
    unet = read_unet(folder).to(device)
    scheduler = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        return denoise(unet, scheduler, first_noise(seed, pictures, unet.config.sample_size), steps)


def first_noise(seed: int, pictures: Sequence[int], size: int) -> Tensor:
    """What sampling starts from: (N,3,size,size), each picture with its own seed."""
    return torch.stack([torch.randn(3, size, size, generator=seeded(seed, i, "sample")) for i in pictures])


@torch.no_grad()
def denoise(unet: Any, scheduler: Any, noise: Tensor, steps: int) -> Tensor:
    """Noise (N,3,S,S) -> pictures in [-1,1] on the CPU, by DDIM (Song et al. 2021, eta 0).

    The steps are spaced from the noisiest one down (Lin et al. 2024), which matters when they are few.
    """
    quick: Any = DDIMScheduler.from_config(scheduler.config, timestep_spacing="trailing")
    quick.set_timesteps(steps)
    pictures = []
    batches = noise.split(SAMPLE_BATCH)
    for x in tqdm(batches, "Drawing", leave=False, disable=None if len(batches) > 2 else True):
        x = x.to(unet.device)
        for time in quick.timesteps:
            x = quick.step(unet(x, time).sample.float(), time, x).prev_sample
        pictures.append(x.clamp(-1, 1).cpu())
    return torch.cat(pictures)


class DiffusionTrainer(Trainer):
    """Trains a U-Net to take noise away, in the loop of `Trainer`; the network is changed in place.

    Raises:
        ValueError: the batch cannot be split evenly, or output_dir holds checkpoints and resume_from is not given.
    """

    def __init__(self, config: Any, dataset: PictureSet, unet: Any) -> None:
        self.config, self.dataset = config, dataset
        self.domains = {"": dataset}
        self.output = Path(config.output_dir)
        self.accelerator = open_accelerator(config)
        self.device = self.accelerator.device
        processes = self.accelerator.num_processes
        if config.batch_size % processes:
            raise ValueError(f"batch_size must be a multiple of the {processes} processes, got {config.batch_size}.")
        size = config.batch_size // processes
        self.share = slice(size * self.accelerator.process_index, size * (self.accelerator.process_index + 1))

        self.unet = unet.to(self.device).train()
        self.scheduler = noise_schedule()
        self.averages = EMAModel(self.unet.parameters(), decay=config.ema_decay, foreach=True)
        self.g_weights = list(self.unet.parameters())
        self.g_optimizer = torch.optim.Adam(self.g_weights, lr=config.learning_rate, fused=True)

        self.step, self.saved, self.seconds = 0, -1, 0.0
        self.stopping = self.interrupted = False
        self.publisher = None  # nothing of ours would open it on the Hub
        self.probability, self.signs = 0.0, []
        self.k = self.path_length = 0.0
        self.monitor = Monitor(dataset)
        self.noise = first_noise(config.seed, range(4 * SAMPLE_COLUMNS), config.resolution)

    def _train_step(self, reals: Tensor) -> dict[str, float]:
        """One update from this process's share of the pictures. Returns statistics of the whole batch.

        The times of a batch are spread evenly (Kingma et al. 2021, appendix I.1), so that its loss varies less.
        """
        batch, rng = self.config.batch_size, seeded(self.config.seed, self.step, "noise")
        shift = torch.rand((), generator=rng) + torch.arange(batch) / batch
        times = (shift % 1 * self.scheduler.config.num_train_timesteps).long()[self.share].to(self.device)
        noise = torch.randn(batch, *reals.shape[1:], generator=rng)[self.share].to(self.device)
        with self.accelerator.autocast():
            velocity = self.unet(self.scheduler.add_noise(reals, noise, times), times).sample.float()
        error = velocity - self.scheduler.get_velocity(reals, noise, times)
        loss = error.square().sum() / (batch * reals[0].numel())
        self.g_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        over = self.interrupted or self.seconds >= 60 * (self.config.max_minutes or math.inf)
        statistics = torch.stack([loss.detach(), torch.tensor(float(over), device=self.device)])
        self._add_up([p.grad for p in self.g_weights if p.grad is not None] + [statistics])
        norm = self._gradient_norm(self.g_weights)
        self.g_optimizer.step()
        self.averages.step(self.g_weights)
        return dict(zip(("loss", "stop", "gradient_g"), [*statistics.tolist(), norm.item()]))

    def _begin(self) -> None:
        """Nothing is estimated from the base model."""

    def _set_rates(self) -> None:
        """The rate stays: the average calms the end of a run."""

    def _adapt(self, values: dict[str, float]) -> None:
        """No augmentation adapts."""

    def _watch(self) -> None:
        """A diffusion model does not collapse."""

    def _check(self, values: dict[str, float]) -> None:
        if not all(torch.tensor(list(values.values())).isfinite()):
            raise TrainingError(
                f"Step {self.step} was not finite: lower learning_rate; earlier checkpoints are intact, and "
                f"--resume_from latest goes on from the last one."
            )

    def _summary(self, row: dict[str, float]) -> str:
        return f"loss {row['loss']:.4f}"

    def _load(self, checkpoint: Path) -> dict[str, Any]:
        progress = super()._load(checkpoint)
        self.averages.to(self.device)
        return progress

    def _stateful(self) -> dict[str, Any]:
        return {"unet": self.unet, "averages": self.averages, "optimizer": self.g_optimizer}

    def _averaged(self) -> Any:
        unet = deepcopy(self.unet).eval()
        self.averages.copy_to(unet.parameters())
        return unet

    def sample(self, count: int) -> Tensor:
        return denoise(self._averaged(), self.scheduler, self.noise[:count], PREVIEW_STEPS)

    def _export(self) -> None:
        """The averaged network and its schedule as a DDPMPipeline, report.json, the card, and a row of the preview."""
        parts = {"unet": self._averaged().cpu(), "scheduler": self.scheduler}
        for name, part in parts.items():
            with replaced_folder(self.output / name) as temporary:
                part.save_pretrained(temporary)
        draft = self.output / ".draft.tmp"
        draft.mkdir(exist_ok=True)
        pipeline: Any = DDPMPipeline(**parts)
        pipeline.save_config(draft)
        images = self.step * self.config.batch_size
        report = run_report(self.config, self.dataset, self.accelerator, self.step, images, self.seconds)
        (draft / "report.json").write_text(json.dumps(report, indent=2) + "\n")
        for path in draft.iterdir():
            os.replace(path, self.output / path.name)
        draft.rmdir()
        write_card(self.output)
        preview = self.output / "checkpoints" / "previews" / f"{self.step:08d}.png"
        save_picture(picture_grid(self.sample(SAMPLE_COLUMNS), SAMPLE_COLUMNS), preview)


if __name__ == "__main__":
    main()
