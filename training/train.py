"""Train a generator from scratch, or go on from a base model.

    accelerate launch training/train.py --config training/recipes/train_radial.yaml --output_dir runs/radial

Every key of a recipe is also a flag, and a flag wins over the recipe: see --help.
"""

import logging
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

if __package__ in (None, ""):  # run as a file: Python put training/ on the path, the rooms are one folder up
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from accelerate import PartialState

import sharingan_hub
from sharingan_hub import hub
from training.config import TrainConfig
from training.discriminators import DISCRIMINATORS
from training.publishing import Publishing, publish
from training.trainer import Trainer, TrainingError

logger = logging.getLogger("training")

Config = TypeVar("Config")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `train.py`. Exit code 2 and one sentence on wrong input, 1 where training cannot go on."""
    run(parse(TrainConfig, arguments), train)


def train(
    config: TrainConfig,
    prepare: Callable[[Any, Any], None] | None = None,
    complete: Callable[[Path], None] | None = None,
) -> Path:
    """Train as a config says; returns the checkpoint folder.

    prepare: called with generator and discriminator before the first step, to freeze parts of them.
    complete: called with the folder by the process that wrote it, before it is published.

    Raises:
        ValueError: the config does not fit the data or the base model.
        TrainingError: training cannot go on, or its result could not be published.
    """
    check_publishing(config)
    folder = build_trainer(config, prepare).train()
    if complete is not None and PartialState().is_main_process:  # the others may be here before it is written
        complete(folder)
    publish_result(config, folder)
    return folder


def build_trainer(config: TrainConfig, prepare: Callable[[Any, Any], None] | None = None) -> Trainer:
    """The data and networks of a config, ready to train; `prepare` as for `train`.

    Raises:
        ValueError: the config does not fit the data or the base model.
    """
    dataset = load_data(config)
    torch.manual_seed(config.seed)
    generator, discriminator = build_networks(config, with_prior(dataset.order_probs, len(dataset), config.order_prior))
    if config.sharpen != 1:
        sharpen(generator, config.sharpen)
    if prepare is not None:
        prepare(generator, discriminator)
    return Trainer(config, dataset, generator, discriminator, load_second_domain(config, dataset, generator))


def sharpen(generator: Any, factor: float) -> None:
    """Multiply the contrast of a RadialGenerator's masks, whatever the size they are drawn at.

    Raises:
        ValueError: the generator draws no masks.
    """
    if not hasattr(generator, "log_temperature"):
        raise ValueError(f"sharpen must be 1 with {type(generator).__name__}, which draws no masks; got {factor:g}.")
    with torch.no_grad():
        generator.log_temperature += math.log(factor)


def parse(config_class: type[Config], arguments: Sequence[str] | None = None) -> Config:
    """A config from --config files and flags; ends the process with code 2 where they are wrong."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        description=config_class.__doc__ and config_class.__doc__.splitlines()[0], exit_on_error=False
    )
    parser.add_argument("--config", action="config", help="recipe, a YAML file; several are laid over one another")
    parser.add_class_arguments(config_class, None)
    try:
        values = parser.parse_args(list(sys.argv[1:] if arguments is None else arguments)).as_dict()
        values.pop("config")
        return config_class(**values)
    except Exception as error:  # jsonargparse raises its own, argparse's and YAML's
        refuse(error)


def refuse(error: Exception) -> NoReturn:
    """End the process with code 2 and one sentence."""
    print("error: " + " ".join(str(error).split()), file=sys.stderr)
    raise SystemExit(2)


def run(config: Config, command: Callable[[Config], Path]) -> None:
    """Run a command, turning its errors into one sentence and an exit code."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("training").setLevel(logging.INFO)
    try:
        command(config)
    except (ValueError, hub.HubError) as error:
        refuse(error)
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def load_data(config: TrainConfig) -> Any:
    """The data set that train_data names, at the run's resolution."""
    from training.data import load_pictures

    return load_pictures(config.train_data, config.resolution)


def load_second_domain(config: TrainConfig, dataset: Any, generator: Any) -> Any:
    """The data set of domain B for a generator of pairs: what train_data_b names, or the edges in the pictures of A; else None.

    Raises:
        ValueError: train_data_b is given and the generator has one domain.
    """
    from training.data import load_pictures
    from training.edges import EdgePictures

    if not hasattr(generator, "pairs"):
        if config.train_data_b is not None:
            raise ValueError(f"train_data_b must not be given with {type(generator).__name__}, which has one domain.")
        return None
    if config.train_data_b is None:
        return EdgePictures(dataset, config.resolution)
    return load_pictures(config.train_data_b, config.resolution)


def publish_result(config: Publishing, folder: Path, message: str = "Training is complete") -> None:
    """Publish what a run came to, where its config asks for it. Of several processes one does.

    Raises:
        TrainingError: it could not be published. The folder is complete.
    """
    if not config.push_to_hub or not PartialState().is_main_process:
        return
    try:
        done = publish(config, folder, message)
    except hub.HubError as error:
        raise TrainingError(
            f"{error}. The model is complete in {folder}; publish it later: sharingan publish {folder} {config.hub_model_id}"
        ) from error
    logger.info("Published: %s", done.url)


def check_publishing(config: Publishing) -> None:
    """Find out before the work whether its result could be published.

    Raises:
        AccessError: nobody is logged in, or the token is not valid.
    """
    if not config.push_to_hub or int(os.environ.get("RANK", 0)) > 0:  # Accelerate has not begun yet
        return
    try:
        hub.check_login()
    except hub.UnreachableError as error:
        logger.warning("%s. The run begins all the same; publishing is tried again as it goes on.", error)


def build_networks(config: TrainConfig, order_probs: list[float] | None) -> tuple[Any, Any]:
    """Generator and discriminator: those of base_model where one is given, fresh ones otherwise.

    order_probs: the orders' mix in the training data, kept in the config of a generator that has orders.

    Raises:
        ValueError: an unknown class, arguments it does not take, or a base model that does not fit.
    """
    if config.base_model is None:
        generator: Any = build(config.generator, generator_class, "generator", config.resolution)
        discriminator = build(config.discriminator, discriminator_class, "discriminator", config.resolution)
    else:
        folder = hub.locate(config.base_model)
        generator = hub.read_generator(folder)
        discriminator = grow_discriminator(config, folder / "discriminator")
    if "order" in generator.conditions:
        generator.register_to_config(order_probs=known_orders(order_probs, generator.config.max_order))
    channels = 6 if hasattr(generator, "pairs") else 3
    if discriminator.num_channels != channels:
        raise ValueError(
            f"discriminator.class_name must be one of pictures with {channels} channels, which {type(generator).__name__} "
            f"draws; {type(discriminator).__name__} takes {discriminator.num_channels}."
        )
    if config.style_mixing and generator.style_ws == 1:
        raise ValueError(f"style_mixing must be 0 with {type(generator).__name__}, whose style is in a single row.")
    if "output_size" not in generator.conditions and generator.resolution != config.resolution:
        raise ValueError(f"resolution must be {generator.resolution} with this generator, got {config.resolution}.")
    return generator, discriminator


def with_prior(order_probs: list[float] | None, count: int, prior: float) -> list[float] | None:
    """A mix of orders estimated from `count` pictures, as if there were `prior` pictures more of each order that they have.

    With a prior of 1 it is the mean of what the mix may be (Laplace's rule of succession among the orders seen).
    """
    if order_probs is None:
        return None
    counts = [share * count + (prior if share > 0 else 0.0) for share in order_probs]
    return [share / sum(counts) for share in counts]


def known_orders(order_probs: list[float] | None, max_order: int) -> list[float] | None:
    """The mix of orders as one of 1 to max_order.

    Raises:
        ValueError: the mix has a higher one.
    """
    if order_probs is None:
        return None
    highest = max(order for order, share in enumerate(order_probs, 1) if share > 0)
    if highest > max_order:
        raise ValueError(
            f"train_data has pictures of order {highest}, and the generator knows orders 1 to {max_order}: leave those out, "
            "or take another base_model or a higher generator.max_order."
        )
    return [*order_probs, *[0.0] * max_order][:max_order]


def generator_class(name: str) -> Any:
    """A generator's class by name."""
    if name not in hub.KNOWN_GENERATORS:
        raise ValueError(f"generator.class_name must be one of {', '.join(hub.KNOWN_GENERATORS)}, got {name!r}.")
    return getattr(sharingan_hub, name)


def discriminator_class(name: str) -> Any:
    """A discriminator's class by name."""
    if name not in DISCRIMINATORS:
        raise ValueError(f"discriminator.class_name must be one of {', '.join(DISCRIMINATORS)}, got {name!r}.")
    return DISCRIMINATORS[name]


def build(settings: dict[str, Any], find: Callable[[str], Any], key: str, resolution: int) -> Any:
    """A fresh network from the recipe's class_name and arguments, at the run's resolution if it has a fixed one."""
    arguments = dict(settings)
    network = find(arguments.pop("class_name", ""))
    if "output_size" not in getattr(network, "conditions", ()):
        arguments.setdefault("resolution", resolution)
    try:
        return network(**arguments)
    except TypeError as error:
        raise ValueError(f"{key}: {error}.") from None


def grow_discriminator(config: TrainConfig, folder: Path) -> Any:
    """The base model's discriminator at the run's resolution; a fresh one where it has none."""
    if not folder.is_dir():
        logger.info("base_model has no discriminator: a fresh one.")
        return build(config.discriminator, discriminator_class, "discriminator", config.resolution)
    settings = hub.read_json(folder / "config.json")
    kind = discriminator_class(settings.get("_class_name", ""))
    settings = {key: value for key, value in settings.items() if not key.startswith("_")}
    with torch.device("meta"):  # no memory is taken until the file is known to hold what its settings ask for
        expected = kind(**settings).state_dict()
    weights = hub.read_weights(folder / hub.WEIGHTS, expected)
    base = kind(**settings)
    base.load_state_dict(weights)
    if base.config.resolution != config.resolution:
        logger.info("The discriminator goes from %d to %d px.", base.config.resolution, config.resolution)
    return base.at_resolution(config.resolution)


if __name__ == "__main__":
    main()
