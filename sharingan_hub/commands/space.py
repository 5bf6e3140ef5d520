"""`sharingan space`: the page on this computer, or on the Hub. Nothing heavy is imported until it runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable

HOST, PORT = "127.0.0.1", 7860


def add_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command; `command(name, summary, example, more)` makes one."""
    space = command(
        "space",
        "run the Space on this computer, or make one of your own on the Hub",
        "sharingan space --port 8000\n  sharingan space user/my-sharingan-space --model user/my-sharingan",
        "With USER/NAME the page goes to the\nHub, in one commit; again, only what has changed does. Log in with `hf auth login` before, or set\n"
        "HF_TOKEN. From a checkout it has the tab for training too.",
    )
    space.set_defaults(run=_run)
    space.add_argument(
        "repo_id", nargs="?", metavar="USER/NAME", help="Space on the Hub, made if missing (default: run it here)"
    )
    space.add_argument(
        "--model",
        help="Hub id of the model that it starts with, or, here, its folder (default: the one in the package)",
    )
    space.add_argument("--private", action="store_true", help="make the Space on the Hub a private one")
    space.add_argument("--port", type=_parse_port, help=f"to run it here (default: {PORT})")
    space.add_argument("--host", help=f"to run it here; 0.0.0.0 lets other computers in (default: {HOST})")


def _parse_port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and 1 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to 65535, got {text[:80]!r}")
    return int(text)


def _run(arguments: argparse.Namespace) -> None:
    if arguments.repo_id is None:
        if arguments.private:
            raise ValueError(
                "--private is for a Space on the Hub: say which, as in `sharingan space user/name --private`"
            )
        return _serve(arguments)
    if arguments.port or arguments.host:
        raise ValueError("--port and --host are for a Space on this computer: leave out either them or USER/NAME")
    from sharingan_hub.hub import publish_space

    print(publish_space(arguments.repo_id, arguments.model, arguments.private).url)


def _serve(arguments: argparse.Namespace) -> None:
    from sharingan_hub.space import build_demo
    from sharingan_hub.space.style import LAUNCH

    host, port = arguments.host or HOST, arguments.port or PORT
    build_demo(arguments.model).launch(server_name=host, server_port=port, **LAUNCH)
