"""`sharingan publish | info`: models on the Hub and in folders. Nothing heavy is imported until one runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any


def add_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the two commands; `command(name, summary, example, more)` makes one."""
    publish = command(
        "publish",
        "put a model on the Hugging Face Hub",
        "sharingan publish out user/my-sharingan --private\n"
        "  sharingan publish out someone/their-sharingan --create-pr",
        "Log in with `hf auth login` before,\nor set HF_TOKEN. Published again, only what has changed is sent, in one commit.",
    )
    publish.set_defaults(run=_publish)
    publish.add_argument("folder", metavar="FOLDER", help="local folder of a model or an adapter")
    publish.add_argument("repo_id", metavar="USER/NAME", help="repository on the Hub, made if missing")
    publish.add_argument("--private", action="store_true", help="make the repository a private one")
    publish.add_argument("--create-pr", action="store_true", help="propose the changes as a pull request")
    publish.add_argument("--revision", metavar="BRANCH", help="made if missing (default: main)")

    info = command(
        "info",
        "say what a model is, or what an old checkpoint holds",
        "sharingan info someone/their-sharingan\n  sharingan info stylegan2-ffhq-config-f.pkl",
        "Nothing that a pickle holds is run.",
    )
    info.set_defaults(run=_info)
    info.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="local folder, Hub id, or a pickle or .pt file of an old StyleGAN2 program "
        "(default: the model that came with the package)",
    )


def _publish(arguments: argparse.Namespace) -> None:
    from sharingan_hub.hub import publish

    done = publish(
        arguments.folder,
        arguments.repo_id,
        private=arguments.private,
        create_pr=arguments.create_pr,
        revision=arguments.revision,
    )
    print(done.url)


def _info(arguments: argparse.Namespace) -> None:
    if arguments.model is not None and Path(arguments.model).is_file():
        from sharingan_hub.convert.contents import describe

        _print(describe(arguments.model))
        return
    from sharingan_hub import cli
    from sharingan_hub.checkpoints.adapters import is_adapter
    from sharingan_hub.checkpoints.strict import printable
    from sharingan_hub.hub import locate

    folder = locate(arguments.model, with_weights=False)
    facts = {"model": printable(cli._model_name(arguments.model), 200)}
    facts |= _adapter_facts(folder) if is_adapter(folder) else _generator_facts(folder)
    _print({**facts, **_card_facts(folder)})


def _print(facts: dict[str, str]) -> None:
    """Names and values in two columns."""
    for name, value in facts.items():
        print(f"{name + ':':<12}" + value.replace("\n", "\n" + " " * 12))


def _generator_facts(folder: Path) -> dict[str, str]:
    """What the configuration says of a generator."""
    from sharingan_hub.checkpoints.folder import outline

    generator: Any = outline(folder)
    config = generator.config
    facts = {
        "class": type(generator).__name__,
        "parameters": f"{sum(parameter.numel() for parameter in generator.parameters()):,}",
        "resolution": f"{generator.resolution} px"
        + (", or any other" if "output_size" in generator.conditions else ""),
    }
    if "order" in generator.conditions:
        facts["orders"] = f"1 to {config['max_order']}"
        probs = config.get("order_probs")
        if probs:
            mix = [f"{order}: {p / sum(probs):.0%}" for order, p in enumerate(probs, 1) if p > 0]
            facts["order mix"] = ", ".join(mix)
    if "num_masks" in config:
        facts["masks"] = str(config["num_masks"])
    return facts


def _adapter_facts(folder: Path) -> dict[str, str]:
    """What the configuration says of an adapter."""
    from sharingan_hub.cards import plain_text
    from sharingan_hub.checkpoints.adapters import read_config

    config = read_config(folder)
    return {
        "class": f"adapter for a {plain_text(config['base_class'])}",
        "base": plain_text(config["base_model"] or "") or "not named",
        "changes": f"{len(config['tensors'])} tensors",
    }


def _card_facts(folder: Path) -> dict[str, str]:
    """Title and licence from a model's README.md, as far as it has them."""
    from sharingan_hub.cards import plain_text, read_card

    metadata, text = read_card(folder)
    heading = next((line for line in text.splitlines() if line.startswith("# ")), "")
    facts = {"title": plain_text(heading)}
    if isinstance(metadata.get("license"), str):
        facts["licence"] = plain_text(metadata["license"])
    return {name: value for name, value in facts.items() if value}
