"""What a run says of itself in report.json, and so on its card: how far it came, from what, on what, and what that took."""

import functools
import os
import platform
import subprocess
from collections.abc import Sized
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

import sharingan_hub
from sharingan_hub import hub
from sharingan_hub.cards.facts import number, told_name

# Of a busy core, with its share of memory, board and power supply: more than most take, for an estimate should not flatter.
WATTS_PER_CORE = 15.0


def run_report(
    config: Any, dataset: Sized, accelerator: Accelerator, steps: int, images: int, seconds: float
) -> dict[str, Any]:
    """Everything that report.json says of a run.

    config: its dataclass of settings. steps, images, seconds: steps taken, pictures seen and time trained, over resumes.
    """
    minutes, processes = round(seconds / 60, 2), accelerator.num_processes
    pictures = None if config.train_data.startswith("emblems:") else len(dataset)
    return {
        "steps": steps,
        "images": images,
        "minutes": minutes,
        "processes": processes,
        **cost(accelerator.device, processes, minutes),
        "versions": {"sharingan_hub": sharingan_hub.__version__}
        | {name: version(name) for name in ("torch", "diffusers")},
        **origins(config.base_model, config.train_data, pictures),
        "recipe": recipe_of(config),
    }


def recipe_of(config: Any) -> dict[str, Any]:
    """The settings of a run, without those that its base model replaced."""
    replaced = ("generator", "discriminator") if config.base_model else ()
    return {key: value for key, value in asdict(config).items() if key not in replaced}


def origins(base_model: str | None, train_data: str, pictures: int | None) -> dict[str, Any]:
    """What a model came from, by the names that others are told. pictures: how many there are; None without end."""
    return {
        "base_model": base_model and told_name(base_model),
        "train_data": told_name(train_data),
        "pictures": pictures,
        "before": base_model and before(base_model),
        # of weights that others trained, and what was trained further from them
        "license": base_model and base_report(base_model).get("license"),
    }


@functools.cache
def base_report(base_model: str) -> dict[str, Any]:
    """report.json of a base model; empty where there is none."""
    try:
        return hub.read_json(hub.locate(base_model, local_files_only=True) / "report.json")
    except hub.HubError:
        return {}


def before(base_model: str) -> dict[str, float] | None:
    """Pictures seen and minutes taken by a base model and those that it came from itself; None where that is not known."""
    report = base_report(base_model)
    recipe, earlier = report.get("recipe"), report.get("before")
    told = report if "base_model" in report or not isinstance(recipe, dict) else recipe  # an older report's recipe
    if not isinstance(earlier, dict):
        earlier = {} if told.get("base_model") else {"images": 0, "minutes": 0}
    totals = {}
    for name in ("images", "minutes"):
        own, rest = number(report.get(name)), number(earlier.get(name))
        if own is None or rest is None:
            return None
        totals[name] = round(own + rest, 2)
    return totals


def cost(device: torch.device, processes: int, minutes: float) -> dict[str, Any]:
    """The machine, and an estimate of the energy in watt-hours, with how it was come by; None where nothing is known.

    CPU: WATTS_PER_CORE for each core in use. GPU: as much as it may draw at most, and nothing for what is around it.
    """
    if device.type == "cpu":
        count = min(processes * torch.get_num_threads(), os.cpu_count() or 1)
        name, watts = cpu_name(), WATTS_PER_CORE
        each = f"busy core{'' if count == 1 else 's'} at {watts:g} W each (assumed, board and power supply included)"
    else:
        count, watts = processes, None
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        if device.type == "cuda":
            watts = power_limit(str(torch.cuda.get_device_properties(device).uuid))
        each = f"GPU{'' if count == 1 else 's'} at {watts or 0:g} W each (the most that it may draw)"
    return {
        "hardware": {"kind": device.type, "name": name, "count": count},
        "energy_wh": None if watts is None else round(minutes / 60 * count * watts, 2),
        "energy_estimate": None if watts is None else f"{minutes:g} minutes of {count} {each}",
    }


@functools.cache
def cpu_name() -> str:
    """What the processor calls itself, as far as the operating system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


@functools.cache
def power_limit(uuid: str) -> float | None:
    """Watts that an NVIDIA GPU may draw; None where its driver does not tell."""
    command = ["nvidia-smi", "-i", f"GPU-{uuid}", "--query-gpu=power.limit", "--format=csv,noheader,nounits"]
    try:
        return float(subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
