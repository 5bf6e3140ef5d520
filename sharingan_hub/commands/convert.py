"""`sharingan convert`: old StyleGAN2 checkpoints to folders, and back. Nothing heavy is imported until it runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path


def add_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command; `command(name, summary, example, more)` makes one."""
    convert = command(
        "convert",
        "make a model of an old StyleGAN2 checkpoint, or such a file of a model",
        "sharingan convert network.pkl --output-dir out --with-discriminator\n"
        "  sharingan convert out --to rosinality --output out.pt",
        "Takes\nfiles of NVIDIA's PyTorch and TensorFlow programs and of rosinality's, whatever they are called,\n"
        "and runs nothing that is in them. Weights keep their author's licence.",
    )
    convert.set_defaults(run=_convert)
    convert.add_argument("input", metavar="IN", help="checkpoint file; with --to a local folder of a model")
    convert.add_argument("--output-dir", type=Path, metavar="FOLDER", help="made; must be missing or empty")
    convert.add_argument(
        "--which", choices=("ema", "raw"), default="ema", help="averaged or raw generator (default: %(default)s)"
    )
    convert.add_argument("--with-discriminator", action="store_true", help="too, for adaptation to begin from")
    convert.add_argument("--push-to-hub", metavar="USER/NAME", help="publish the folder, too")
    convert.add_argument("--to", choices=("rosinality", "nvidia"), help="the other way: write a file of that layout")
    convert.add_argument(
        "--output", type=Path, metavar="FILE", help="with --to: .pt for rosinality, .safetensors for nvidia"
    )


def _convert(arguments: argparse.Namespace) -> None:
    if arguments.to is None:
        if arguments.output_dir is None or arguments.output is not None:
            raise ValueError("--output-dir says where the folder goes; --output goes with --to")
        _to_folder(arguments)
        return
    if arguments.output is None or arguments.output_dir is not None or arguments.push_to_hub is not None:
        raise ValueError("--to goes with --output, and with neither --output-dir nor --push-to-hub")
    from sharingan_hub.convert import export

    print(f"{export(arguments.input, arguments.output, arguments.to)} written")


def _to_folder(arguments: argparse.Namespace) -> None:
    import diffusers

    from sharingan_hub.convert import convert

    diffusers.utils.logging.disable_progress_bar()
    folder = convert(arguments.input, arguments.output_dir, arguments.which, arguments.with_discriminator)
    print(f"{folder} written; look up the licence of these weights before you share them")
    if arguments.push_to_hub is not None:
        from sharingan_hub.hub import publish

        print(publish(folder, arguments.push_to_hub, commit_message=f"Converted from {Path(arguments.input).name}").url)
