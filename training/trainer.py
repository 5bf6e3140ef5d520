"""The one training loop, on Accelerate: steps, statistics, samples, checkpoints, resuming. A step is in game.py."""

import importlib.util
import io
import json
import logging
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from tqdm.auto import tqdm

from sharingan_hub.cards import write_card
from sharingan_hub.checkpoints.ticket import remove_masks
from sharingan_hub.pipeline_sharingan import SharinganPipeline
from training import augment
from training.checkpoints import (
    checkpoint_name,
    list_checkpoints,
    picture_grid,
    replaced_folder,
    save_picture,
    write_json,
    write_previews,
)
from training.config import TrainConfig
from training.data import PictureSet
from training.game import Game
from training.low_rank import merged
from training.monitor import Monitor
from training.objectives import convergence, next_k
from training.process import stopped_by_signals
from training.publishing import CheckpointPublisher
from training.regularizers import PATH_DECAY
from training.report import run_report
from training.sampling import center_styles, draw_latents, generate

logger = logging.getLogger(__name__)

LOG_EVERY = 50  # steps between two rows in the tracker
SAMPLE_COLUMNS, SAMPLE_ROWS = 8, 4
CHECKED, CHECKED_SIDE = 32, 64  # pictures at which a collapse would show, and their side where it may be any


def now() -> float:
    """Seconds on the clock of max_minutes."""
    return time.monotonic()


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what to do."""


class Trainer(Game):
    """Trains a generator against a discriminator as a config says; both are changed in place.

    Parameters of the discriminator that do not require a gradient stay as they are (FreezeD).

    Args: those of Players.

    Raises:
        ValueError: the batch cannot be split evenly, or output_dir holds checkpoints and resume_from is not given.
    """

    def __init__(
        self,
        config: TrainConfig,
        dataset: PictureSet,
        generator: Any,
        discriminator: Any,
        dataset_b: PictureSet | None = None,
    ) -> None:
        if config.report_to != "none" and importlib.util.find_spec(config.report_to) is None:
            raise ValueError(f"report_to {config.report_to} needs a package: pip install {config.report_to}.")
        super().__init__(config, dataset, generator, discriminator, dataset_b)
        self.saved = -1  # step of the last checkpoint
        self.stopping = False
        publishing = config.push_to_hub and self.accelerator.is_main_process
        self.publisher = CheckpointPublisher(config) if publishing else None
        self.monitor = Monitor(dataset)
        self.samples = draw_latents(self.average, SAMPLE_COLUMNS * SAMPLE_ROWS, config.seed, -1)
        if "order" in self.samples.conditions:
            self.samples.conditions["order"] = (
                torch.arange(SAMPLE_COLUMNS * SAMPLE_ROWS) % generator.config.max_order + 1
            )
        if "phase" in self.samples.conditions:
            self.samples.conditions["phase"].zero_()
        self.checked = draw_latents(self.average, CHECKED, config.seed, -2)  # they differ in z alone
        for condition in self.checked.conditions.values():
            condition.copy_(condition[0].clone())

    def train(self) -> Path:
        """Train to max_steps, to max_minutes, or to SIGINT or SIGTERM; write the checkpoint folder and return it.

        Raises:
            TrainingError: a step was not finite, or a write failed. Earlier checkpoints are intact.
        """
        for _ in self.steps():
            pass
        return self.output

    def steps(self) -> Iterator[dict[str, float]]:
        """What `train` does, step by step -> after each, its losses.

        Set `interrupted` and it ends after the next step, like on SIGINT. Closed earlier, it writes nothing more.
        """
        config, main = self.config, self.accelerator.is_main_process
        self._start()
        if config.report_to != "none":
            settings = {name: value for name, value in asdict(config).items() if isinstance(value, (int, float, str))}
            self.accelerator.init_trackers("sharingan_hub", config=settings)
        if self.seconds >= 60 * (config.max_minutes or math.inf) or self.given_up():
            self.stopping = True
        begun = now() - self.seconds
        if self.saved < 0:
            self._begin()
        shown, window = now(), {}  # type: float, dict[str, list[float]]
        bar = tqdm(
            total=config.max_steps and config.max_steps * config.batch_size,
            initial=self.step * config.batch_size,
            unit="img",
            unit_scale=True,
            mininterval=0.5 if sys.stderr.isatty() else 30,
            disable=not main,
        )
        with stopped_by_signals(self._interrupt), ThreadPoolExecutor(1, "pictures") as loader, bar:
            coming: Future[Tensor] = loader.submit(self._reals, self.step)
            while not self._ended():
                reals = coming.result()
                coming = loader.submit(self._reals, self.step + 1)
                self._set_rates()
                if self.step < config.teaching_steps:
                    values = self._teach_step()
                elif self.step < config.statistics_steps:
                    values = self._match_step()
                else:
                    values = self._train_step(reals.to(self.device, non_blocking=True))
                self.step += 1
                self.seconds = now() - begun
                self._check(values)
                self._adapt(values)
                self.clock = values.pop("clock", self.seconds)
                if values.pop("stop") > 0:
                    self.stopping = True
                for name, value in values.items():
                    window.setdefault(name, []).append(value)
                bar.update(config.batch_size)
                if self.step % LOG_EVERY == 0:
                    moment = now()
                    row = {name: sum(seen) / len(seen) for name, seen in window.items()}
                    count = max(map(len, window.values()))
                    row |= {"p": self.probability, "images_per_second": count * config.batch_size / (moment - shown)}
                    shown, window = moment, {}
                    self.accelerator.log(row, step=self.step)
                    self.monitor.rows.append({"step": self.step, **row})
                    bar.set_postfix_str(self._summary(row), refresh=False)
                if main and self.step % config.sample_every == 0:
                    self._write_samples()
                if self.step % config.checkpointing_steps == 0:
                    self._save()
                    if self.publisher is not None:
                        self.publisher.send(self.output)
                yield values
        self._finish()

    def _interrupt(self) -> None:
        logger.info("Stopping after this step; a checkpoint is written.")
        self.interrupted = True

    def _ended(self) -> bool:
        return self.stopping or (self.config.max_steps is not None and self.step >= self.config.max_steps)

    def _summary(self, row: dict[str, float]) -> str:
        short = {
            "loss_d": "D {:.3f}",
            "loss_g": "G {:.3f}",
            "sign_real": "D(real)>0 {:+.2f}",
            "mapping": "mapping {:.3f}",
            "masks": "masks {:.3f}",
            "statistics": "statistics {:.3f}",
            "difference": "difference {:.4f}",
        }
        text = " ".join(form.format(row[name]) for name, form in short.items() if name in row)
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

    def _adapt(self, values: dict[str, float]) -> None:
        """Move what follows the statistics of a step: ADA's p, BEGAN's k, the mean path length."""
        config = self.config
        self.signs.append(values.get("sign_real", 0.0))
        if len(self.signs) == augment.ADA_INTERVAL:
            if config.augment == "ada":
                sign = sum(self.signs) / len(self.signs)
                self.probability = augment.adapt_probability(
                    self.probability, sign, config.ada_target, config.batch_size, config.ada_kimg
                )
            self.signs = []
        if config.objective == "began" and "score_real" in values:
            real, fake = values["score_real"], values["score_fake"]
            self.k = next_k(self.k, config.began_gamma, config.began_rate, real, fake)
            values |= {"k": self.k, "convergence": convergence(config.began_gamma, real, fake)}
        if "path_length" in values:
            self.path_length += PATH_DECAY * (values["path_length"] - self.path_length)

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
            self.monitor.load_state_dict(self._load(source).get("monitor", self.monitor.state_dict()))
            logger.info("Resuming from %s.", source)

    def _load(self, checkpoint: Path) -> dict[str, Any]:
        """Take over a checkpoint's state -> its progress.json."""
        state = torch.load(checkpoint / "state.pt", map_location="cpu", weights_only=True)
        parts = self._stateful()
        if state.keys() != parts.keys():
            raise ValueError(
                f"patch_level, ewc_weight, fisher_freeze and fisher_zero must be on or off as in the run that made "
                f"{checkpoint}, which keeps {', '.join(state)}."
            )
        for name, part in parts.items():
            if isinstance(part, torch.optim.Optimizer):  # its settings are this run's, not the checkpoint's
                groups = part.state_dict()["param_groups"]
                if [g["params"] for g in groups] != [g["params"] for g in state[name]["param_groups"]]:
                    raise ValueError(
                        f"rate_factors must be those of the run that made {checkpoint}, and so must what is frozen."
                    )
                if [g.keys() for g in groups] != [g.keys() for g in state[name]["param_groups"]]:
                    raise ValueError(f"optimizer must be that of the run that made {checkpoint}.")
                state[name]["param_groups"] = groups
            try:
                part.load_state_dict(state[name])
            except RuntimeError as error:
                raise ValueError(
                    f"The networks, spectral_norm and patch_size must be those of the run that made {checkpoint}: its {name} does not fit."
                ) from error
        progress: dict[str, Any] = json.loads((checkpoint / "progress.json").read_text())
        self.step, self.seconds = progress["step"], progress["seconds"]
        self.clock = self.seconds
        self.saved = self.step
        self.probability, self.signs = progress["probability"], progress["signs"]
        self.k, self.path_length = progress.get("k", 0.0), progress.get("path_length", 0.0)
        return progress

    def _stateful(self) -> dict[str, Any]:
        parts: dict[str, Any] = {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "average": self.average,
            "g_optimizer": self.g_optimizer,
            "d_optimizer": self.d_optimizer,
        }
        if self.patch_head is not None:
            parts["patch_head"] = self.patch_head
        if self.consolidation is not None:
            parts["consolidation"] = self.consolidation
        for name, filters in zip(("g_filters", "d_filters"), self.filters):
            parts[name] = filters
        return parts

    def _save(self) -> None:
        """Write a checkpoint for resuming and the checkpoint folder that others open, each whole or not at all.

        The state is our own and not Accelerate's: there are no random states to keep, so a run may go on with another
        number of processes. It stays on this machine and is read back with weights_only.
        """
        if not self.accelerator.is_main_process:
            return
        self._watch()
        folder = self.output / "checkpoints"
        progress = {
            "step": self.step,
            "seconds": self.seconds,
            "probability": self.probability,
            "signs": self.signs,
            "k": self.k,
            "path_length": self.path_length,
            "monitor": self.monitor.state_dict(),
            "config": asdict(self.config),
        }
        with self._writing():
            with replaced_folder(folder / checkpoint_name(self.step)) as temporary:
                state = io.BytesIO()  # torch.save would report a full disk as a wrong position in its file
                torch.save({name: part.state_dict() for name, part in self._stateful().items()}, state)
                with open(temporary / "state.pt", "wb") as file:
                    file.write(state.getbuffer())
                    file.flush()
                    os.fsync(file.fileno())
                (temporary / "progress.json").write_text(json.dumps(progress))
            for old in list_checkpoints(folder)[: -self.config.checkpoints_total_limit]:
                if old.name != checkpoint_name(self.monitor.best):
                    shutil.rmtree(old)
            self._export()
        self.saved = self.step

    def _watch(self) -> None:
        """Look for a collapse, once the game has begun."""
        if self.step > max(self.config.teaching_steps, self.config.statistics_steps):
            size = min(CHECKED_SIDE, self.config.resolution)
            with torch.no_grad():
                fakes = generate(self.average, self.checked.select(slice(None), self.device), size)
            self.monitor.check(self.step, fakes[:, :3].float().cpu(), self.config.stop_on_collapse)
            self.interrupted |= self.given_up()

    def given_up(self) -> bool:
        """Whether a collapse ended, or would end, this run."""
        return self.config.stop_on_collapse and self.monitor.collapsed is not None

    def _export(self) -> None:
        """The averaged generator as a pipeline, the discriminator beside it, report.json, the card, a row of the preview."""
        config = self.config
        generator, discriminator = (
            copy.to("cpu", memory_format=torch.contiguous_format)
            for copy in (merged(self.average), merged(self.discriminator))
        )
        remove_masks(generator)  # of a run that prunes; without masks it does nothing
        center_styles(generator, config.seed)
        SharinganPipeline(generator_model=generator).save_pretrained(self.output)
        if self.step > config.teaching_steps:  # before that it has learnt nothing
            with replaced_folder(self.output / "discriminator") as temporary:
                discriminator.save_pretrained(temporary)
        preview = self.output / "checkpoints" / "previews" / f"{self.step:08d}.png"
        save_picture(picture_grid(self.sample(SAMPLE_COLUMNS), SAMPLE_COLUMNS), preview)
        images = max(0, self.step - config.mapping_steps) * config.batch_size
        report = run_report(config, self.dataset, self.accelerator, self.step, images, self.seconds)
        write_json(report, self.output / "report.json")
        write_card(self.output)

    def _finish(self) -> None:
        """Write what is not yet written, the preview strip and the film among it; after a collapse go back first."""
        if self.accelerator.is_main_process:
            if self.saved != self.step:
                self._save()
            last, best = self.step, self.monitor.best
            if self.given_up() and best is not None:
                self._load(self.output / "checkpoints" / checkpoint_name(best))
                logger.info("Going back to step %d, which has the lowest KID.", best)
            with self._writing():
                self._export()  # again: the run may have been killed between a checkpoint and its export
                write_previews(self.output / "checkpoints" / "previews", last, self.output / "samples")
                self._write_samples()
                write_card(self.output)  # again: it shows those pictures
            logger.info("Step %d after %.1f minutes: %s is complete.", self.step, self.seconds / 60, self.output)
            if self.publisher is not None:
                self.publisher.close()
        self.accelerator.end_training()

    @torch.no_grad()
    def sample(self, count: int) -> Tensor:
        """The first `count` pictures of the fixed latents, by the averaged generator, as draw_pictures has them."""
        parts = [slice(i, min(i + SAMPLE_COLUMNS, count)) for i in range(0, count, SAMPLE_COLUMNS)]
        size = self.config.resolution
        return torch.cat([generate(self.average, self.samples.select(part, self.device), size).cpu() for part in parts])

    def _write_samples(self) -> None:
        with self._writing():
            picture = picture_grid(self.sample(SAMPLE_COLUMNS * SAMPLE_ROWS), SAMPLE_COLUMNS)
            save_picture(picture, self.output / "samples" / f"step_{self.step:08d}.png")
            self.monitor.draw(self.output / "samples" / "training.png")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, SafetensorError) as error:
            raise TrainingError(
                f"Writing to {self.output} at step {self.step} failed ({error}): make room, then go on with "
                f"--resume_from latest; earlier checkpoints are intact."
            ) from error
