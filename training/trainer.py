"""The one training loop, on Accelerate.

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
import importlib.util
import io
import json
import logging
import math
import os
import shutil
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn
from tqdm.auto import tqdm

from sharingan_hub import hub
from sharingan_hub.pipeline_sharingan import SharinganPipeline
from training import augment
from training.checkpoints import list_checkpoints, picture_grid, replaced_folder, save_picture
from training.config import TrainConfig
from training.objectives import OBJECTIVES
from training.regularizers import r1
from training.sampling import Latents, center_styles, draw_latents, generate, real_indices, seeded, takes_noise, turn

logger = logging.getLogger(__name__)

LOG_EVERY = 50  # steps between two rows in the tracker
SAMPLE_COLUMNS, SAMPLE_ROWS = 8, 4
PREVIEW_ROWS = 12  # at most, in the strip written at the end


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what to do."""


class PictureData(Protocol):
    """What the loop needs of a data set; see training/data.py."""

    order_probs: list[float] | None

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Pictures (N,3,S,S) in [-1,1] and orders (N,)."""
        ...


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


class Trainer:
    """Trains a generator against a discriminator as a config says; both are changed in place.

    Parameters of the discriminator that do not require a gradient stay as they are (FreezeD).

    Raises:
        ValueError: the batch cannot be split evenly, or output_dir holds checkpoints and resume_from is not given.
    """

    def __init__(self, config: TrainConfig, dataset: PictureData, generator: Any, discriminator: Any) -> None:
        self.config, self.dataset = config, dataset
        precision = config.mixed_precision
        if precision == "auto":
            precision = "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"
        self.output = Path(config.output_dir)
        if config.report_to != "none" and importlib.util.find_spec(config.report_to) is None:
            raise ValueError(f"report_to {config.report_to} needs a package: pip install {config.report_to}.")
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
        self.noisy = takes_noise(generator)
        self.objective = OBJECTIVES[config.objective]
        self.g_weights = [p for p in self.generator.parameters() if p.requires_grad]
        self.d_weights = [p for p in self.discriminator.parameters() if p.requires_grad]
        # Lazy regularisation takes one step more in every r1_interval (Karras et al. 2020, appendix B).
        lazy = config.r1_interval / (config.r1_interval + 1) if self.r1_on else 1.0
        d_rate = config.discriminator_learning_rate or config.learning_rate
        self.g_optimizer = self._adam(self.g_weights, config.learning_rate, 1.0)
        self.d_optimizer = self._adam(self.d_weights, d_rate, lazy)

        self.step = 0
        self.seconds = 0.0  # trained, over resumes
        self.probability = {"none": 0.0, "diffaugment": 1.0, "ada": 0.0}[config.augment]
        self.signs: list[float] = []  # of D(real), since p last moved
        self.saved = -1  # step of the last checkpoint
        self.stopping = self.interrupted = False
        self.samples = draw_latents(self.average, SAMPLE_COLUMNS * SAMPLE_ROWS, config.seed, -1)
        if "order" in self.samples.conditions:
            self.samples.conditions["order"] = (
                torch.arange(SAMPLE_COLUMNS * SAMPLE_ROWS) % generator.config.max_order + 1
            )
        if "phase" in self.samples.conditions:
            self.samples.conditions["phase"].zero_()

    def _adam(self, weights: list[nn.Parameter], rate: float, lazy: float) -> torch.optim.Adam:
        betas = (self.config.adam_beta1**lazy, self.config.adam_beta2**lazy)
        return torch.optim.Adam(weights, lr=rate * lazy, betas=betas, eps=1e-8, fused=True)

    def train(self) -> Path:
        """Train to max_steps, to max_minutes, or to SIGINT or SIGTERM; write the checkpoint folder and return it.

        Raises:
            TrainingError: a step was not finite, or a write failed. Earlier checkpoints are intact.
        """
        config, main = self.config, self.accelerator.is_main_process
        self._start()
        if config.report_to != "none":
            settings = {name: value for name, value in asdict(config).items() if isinstance(value, (int, float, str))}
            self.accelerator.init_trackers("sharingan_hub", config=settings)
        if self.seconds >= 60 * (config.max_minutes or math.inf):
            self.stopping = True
        begun = time.monotonic() - self.seconds
        shown, window = begun + self.seconds, {}  # type: float, dict[str, list[float]]
        bar = tqdm(
            total=config.max_steps and config.max_steps * config.batch_size,
            initial=self.step * config.batch_size,
            unit="img",
            unit_scale=True,
            mininterval=0.5 if sys.stderr.isatty() else 30,
            disable=not main,
        )
        with self._signals(), ThreadPoolExecutor(1, "pictures") as loader, bar:
            coming: Future[Tensor] = loader.submit(self._reals, self.step)
            while not self._ended():
                reals = coming.result()
                coming = loader.submit(self._reals, self.step + 1)
                values = self._train_step(reals.to(self.device, non_blocking=True))
                self.step += 1
                self.seconds = time.monotonic() - begun
                self._check(values)
                self._adapt(values["sign_real"])
                if values.pop("stop") > 0:
                    self.stopping = True
                for name, value in values.items():
                    window.setdefault(name, []).append(value)
                bar.update(config.batch_size)
                if self.step % LOG_EVERY == 0:
                    now = time.monotonic()
                    row = {name: sum(seen) / len(seen) for name, seen in window.items()}
                    row |= {
                        "p": self.probability,
                        "images_per_second": len(window["loss_d"]) * config.batch_size / (now - shown),
                    }
                    shown, window = now, {}
                    self.accelerator.log(row, step=self.step)
                    bar.set_postfix_str(self._summary(row), refresh=False)
                if main and self.step % config.sample_every == 0:
                    self._write_samples()
                if self.step % config.checkpointing_steps == 0:
                    self._save()
        self._finish()
        return self.output

    def _ended(self) -> bool:
        return self.stopping or (self.config.max_steps is not None and self.step >= self.config.max_steps)

    def _summary(self, row: dict[str, float]) -> str:
        text = f"D {row['loss_d']:.3f} G {row['loss_g']:.3f} D(real)>0 {row['sign_real']:+.2f}"
        if self.config.augment == "ada":
            text += f" p {self.probability:.2f}"
        if self.config.max_minutes is not None:
            text += f" {max(0.0, self.config.max_minutes - self.seconds / 60):.0f} min left"
        return text

    def _check(self, values: dict[str, float]) -> None:
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            precise = "" if self.accelerator.mixed_precision == "no" else ", or set mixed_precision to no"
            raise TrainingError(
                f"Step {self.step} was not finite ({', '.join(bad)}): lower learning_rate or r1_gamma{precise}; "
                f"earlier checkpoints are intact, and --resume_from latest goes on from the last one."
            )

    def _adapt(self, sign: float) -> None:
        self.signs.append(sign)
        if len(self.signs) == augment.ADA_INTERVAL:
            if self.config.augment == "ada":
                self.probability = augment.adapt_probability(
                    self.probability,
                    sum(self.signs) / len(self.signs),
                    self.config.ada_target,
                    self.config.batch_size,
                    self.config.ada_kimg,
                )
            self.signs = []

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Stop after the step on SIGINT or SIGTERM; a second signal acts at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def stop(number: int, frame: Any) -> None:
            logger.info("Stopping after this step; a checkpoint is written.")
            self.interrupted = True
            signal.signal(number, before[signal.Signals(number)])

        for number in before:
            signal.signal(number, stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    # One step.

    def _reals(self, step: int) -> Tensor:
        """This process's share of the real pictures of a step. Runs in the loading thread."""
        config = self.config
        indices = real_indices(config.seed, step, config.batch_size, len(self.dataset))
        images, _ = self.dataset.batch(indices[self.share])
        rng = seeded(config.seed, step, "turns")
        quarters = torch.randint(4 if config.real_rotations else 1, (config.batch_size,), generator=rng)
        flips = (torch.rand(config.batch_size, generator=rng) < 0.5) & config.real_flips
        images = turn(images, quarters[self.share], flips[self.share])
        return images.pin_memory() if self.device.type == "cuda" else images

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

        # Discriminator.
        self.d_optimizer.zero_grad(set_to_none=True)
        for part in self.parts:
            with torch.set_grad_enabled(keep):
                fakes = self._fakes(latents, part)
                fakes = fake_change[part](fakes)
            local = slice(part.start - self.share.start, part.stop - self.share.start)
            self._learn_reals(real_change[part](reals[local]), self.penalized[part], sums)
            loss = self.objective.discriminator_fake(self._judge(fakes.detach())).sum() / config.batch_size
            loss.backward()
            sums["loss_d"] += loss.detach()
        self._add_up([p.grad for p in self.d_weights if p.grad is not None])
        norm_d = self._gradient_norm(self.d_weights)
        self.d_optimizer.step()

        # Generator, through a discriminator whose weights need no gradient now.
        self.g_optimizer.zero_grad(set_to_none=True)
        for weight in self.d_weights:
            weight.requires_grad_(False)
        for part in self.parts:
            if not keep:
                fakes = self._fakes(latents, part)
                fakes = fake_change[part](fakes)
            loss = self.objective.generator(self._judge(fakes)).sum() / config.batch_size
            loss.backward()
            sums["loss_g"] += loss.detach()
        for weight in self.d_weights:
            weight.requires_grad_(True)
        sums["stop"] += float(self.interrupted or self.seconds >= 60 * (config.max_minutes or math.inf))
        statistics = torch.stack(list(sums.values()))
        self._add_up([p.grad for p in self.g_weights if p.grad is not None] + [statistics])
        norm_g = self._gradient_norm(self.g_weights)
        self.g_optimizer.step()

        self._average()
        statistics = torch.cat([statistics, torch.stack([norm_d, norm_g])])
        return dict(zip([*sums, "gradient_d", "gradient_g"], statistics.tolist()))

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

    # Files. Only the main process writes.

    def _start(self) -> None:
        """Load what resume_from asks for, and clear away what an interrupted write left."""
        config, folder = self.config, self.output / "checkpoints"
        complete = list_checkpoints(folder)
        source: Path | None = None
        if config.resume_from == "latest":
            source = complete[-1] if complete else None
            if source is None:
                logger.info("No checkpoint in %s yet: starting fresh.", folder)
        elif config.resume_from is not None:
            source = Path(config.resume_from)
            if not (source / "state.pt").is_file():
                raise ValueError(f"resume_from must be a checkpoint folder or 'latest', and {source} is no checkpoint.")
        elif complete:
            raise ValueError(
                f"output_dir {self.output} holds checkpoints of an earlier run: "
                f"give --resume_from latest to go on, or another output_dir."
            )
        if source is not None and [p for p in complete if p.name > source.name and p.parent.samefile(source.parent)]:
            raise ValueError(f"resume_from {source} is older than other checkpoints in {folder}: remove those first.")
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            folder.mkdir(parents=True, exist_ok=True)
            for left_over in folder.glob(".*.tmp"):
                shutil.rmtree(left_over)
        if source is not None:
            self._load(source)
            logger.info("Resuming from %s.", source)

    def _load(self, checkpoint: Path) -> None:
        state = torch.load(checkpoint / "state.pt", map_location="cpu", weights_only=True)
        for name, part in self._stateful().items():
            if isinstance(part, torch.optim.Optimizer):  # its settings are this run's, not the checkpoint's
                state[name]["param_groups"] = part.state_dict()["param_groups"]
            part.load_state_dict(state[name])
        progress = json.loads((checkpoint / "progress.json").read_text())
        self.step, self.seconds = progress["step"], progress["seconds"]
        self.saved = self.step
        self.probability, self.signs = progress["probability"], progress["signs"]

    def _stateful(self) -> dict[str, Any]:
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "average": self.average,
            "g_optimizer": self.g_optimizer,
            "d_optimizer": self.d_optimizer,
        }

    def _save(self) -> None:
        """Write a checkpoint for resuming and the checkpoint folder that others open, each whole or not at all.

        The state is our own and not Accelerate's: there are no random states to keep, so a run may go on with another
        number of processes. It stays on this machine and is read back with weights_only.
        """
        if not self.accelerator.is_main_process:
            return
        folder = self.output / "checkpoints"
        progress = {
            "step": self.step,
            "seconds": self.seconds,
            "probability": self.probability,
            "signs": self.signs,
            "config": asdict(self.config),
        }
        with self._writing():
            with replaced_folder(folder / f"step_{self.step:08d}") as temporary:
                state = io.BytesIO()  # torch.save would report a full disk as a wrong position in its file
                torch.save({name: part.state_dict() for name, part in self._stateful().items()}, state)
                with open(temporary / "state.pt", "wb") as file:
                    file.write(state.getbuffer())
                    file.flush()
                    os.fsync(file.fileno())
                (temporary / "progress.json").write_text(json.dumps(progress))
            for old in list_checkpoints(folder)[: -self.config.checkpoints_total_limit]:
                shutil.rmtree(old)
            self._export()
        self.saved = self.step

    def _export(self) -> None:
        """The averaged generator as a pipeline, the discriminator beside it, report.json, and a row of the preview."""
        report = {
            "steps": self.step,
            "images": self.step * self.config.batch_size,
            "minutes": round(self.seconds / 60, 2),
            "processes": self.accelerator.num_processes,
            "recipe": asdict(self.config),
        }
        generator, discriminator = (
            deepcopy(network).to("cpu", memory_format=torch.contiguous_format)
            for network in (self.average, self.discriminator)
        )
        center_styles(generator, self.config.seed)
        SharinganPipeline(generator_model=generator).save_pretrained(self.output)
        with replaced_folder(self.output / "discriminator") as temporary:
            discriminator.save_pretrained(temporary)
        preview = self.output / "checkpoints" / "previews" / f"{self.step:08d}.png"
        save_picture(picture_grid(self._sample(SAMPLE_COLUMNS), SAMPLE_COLUMNS), preview)
        draft = self.output / ".report.json.tmp"
        draft.write_text(json.dumps(report, indent=2) + "\n")
        os.replace(draft, self.output / "report.json")

    def _finish(self) -> None:
        """Write what is not yet written, the preview strip among it, and publish."""
        if self.accelerator.is_main_process:
            if self.saved != self.step:
                self._save()
            with self._writing():
                self._export()  # again: the run may have been killed between a checkpoint and its export
                rows = sorted((self.output / "checkpoints" / "previews").glob("????????.png"))
                rows = [path for path in rows if int(path.stem) <= self.step]
                chosen = [rows[i * (len(rows) - 1) // max(1, PREVIEW_ROWS - 1)] for i in range(PREVIEW_ROWS)]
                pictures = [Image.open(path) for path in dict.fromkeys(chosen)]
                width = max(picture.width for picture in pictures)
                strip = Image.new("RGB", (width, sum(picture.height for picture in pictures)), "white")
                top = 0
                for picture in pictures:
                    strip.paste(picture, (0, top))
                    top += picture.height
                save_picture(strip, self.output / "samples" / "preview.png")
                self._write_samples()
            logger.info("Step %d after %.1f minutes: %s is complete.", self.step, self.seconds / 60, self.output)
            if self.config.push_to_hub:
                publish = getattr(hub, "publish", None)  # checked before training began
                assert publish is not None
                publish(self.output, self.config.hub_model_id, private=self.config.hub_private_repo)
        self.accelerator.end_training()

    @torch.no_grad()
    def _sample(self, count: int) -> Tensor:
        """The first `count` pictures of the fixed latents, by the averaged generator: (count,3,S,S)."""
        parts = [slice(i, min(i + SAMPLE_COLUMNS, count)) for i in range(0, count, SAMPLE_COLUMNS)]
        size = self.config.resolution
        return torch.cat([generate(self.average, self.samples.select(part, self.device), size).cpu() for part in parts])

    def _write_samples(self) -> None:
        with self._writing():
            picture = picture_grid(self._sample(SAMPLE_COLUMNS * SAMPLE_ROWS), SAMPLE_COLUMNS)
            save_picture(picture, self.output / "samples" / f"step_{self.step:08d}.png")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, SafetensorError) as error:
            raise TrainingError(
                f"Writing to {self.output} at step {self.step} failed ({error}): make room, then go on with "
                f"--resume_from latest; earlier checkpoints are intact."
            ) from error
