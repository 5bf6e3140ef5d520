"""Stopping and going on: killed, interrupted and failed runs lose nothing, and end with the same bits."""

import errno
import json
import math
import os
import signal
import subprocess
import sys
import textwrap

import pytest
import torch

from sharingan_hub import SharinganPipeline
from tests.training.runs import (
    ROOT,
    STYLEGAN2,
    Pictures,
    assert_same_bits,
    environment,
    make,
    state,
    weights,
)
from training import trainer
from training.checkpoints import list_checkpoints
from training.trainer import TrainingError

CHILD = """
import os, sys
sys.path.insert(0, {root!r})
import torch
torch.set_num_threads(1)
from tests.training import runs, test_resuming

def announce(number, images):
    print("batch", flush=True)

fsync = os.fsync
def announced_fsync(file):
    print("writing", flush=True)
    if {hang}:
        sys.stdin.read()  # killed here, in the middle of a checkpoint
    fsync(file)
os.fsync = announced_fsync

runs.make({folder!r}, runs.Pictures(event=announce), **test_resuming.RESUMED, resume_from="latest").train()
print("done", flush=True)
"""
RESUMED = {
    "augment": "ada",
    "ada_kimg": 0.1,
    "ada_target": -1.0,  # always below the mean sign of D(real): p rises
    "augmentations": ["rotation", "cutout"],
    "checkpointing_steps": 3,
    "max_steps": 13,
    "style_mixing": 0.5,
    "generator": STYLEGAN2,
}


def run_and_kill(folder, line, count, hang=False):
    """Train in another process and SIGKILL it when it has said `line` `count` times."""
    script = textwrap.dedent(CHILD).format(root=str(ROOT), folder=str(folder), hang=hang)
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, env=environment()
    )
    for said in child.stdout:
        count -= said.strip() == line
        if count == 0:
            break
    child.kill()
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()
    child.stdin.close()


def test_killed_runs_end_with_the_same_bits(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    make(tmp_path / "whole", **RESUMED).train()
    folder = tmp_path / "killed"
    run_and_kill(folder, "batch", 2)  # before there is a checkpoint
    assert list_checkpoints(folder / "checkpoints") == []
    run_and_kill(folder, "writing", 1, hang=True)  # while the first one is written
    assert list_checkpoints(folder / "checkpoints") == []
    assert list((folder / "checkpoints").glob(".*.tmp"))
    run_and_kill(folder, "batch", 9)  # somewhere after the first or second one
    assert list_checkpoints(folder / "checkpoints")
    make(folder, **RESUMED, resume_from="latest").train()
    torch.set_num_threads(threads)
    assert not list((folder / "checkpoints").glob(".*.tmp"))
    assert_same_bits(state(folder), state(tmp_path / "whole"))
    first, second = weights(folder), weights(tmp_path / "whole")
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_interrupt_saves_and_the_run_goes_on(tmp_path):
    def interrupt(number, images):
        if number == 4:
            os.kill(os.getpid(), signal.SIGINT)

    make(tmp_path / "whole").train()
    handler = signal.getsignal(signal.SIGINT)
    make(tmp_path / "stopped", Pictures(event=interrupt)).train()
    assert signal.getsignal(signal.SIGINT) is handler
    report = json.loads((tmp_path / "stopped" / "report.json").read_text())
    assert 0 < report["steps"] < 6
    SharinganPipeline.from_pretrained(tmp_path / "stopped")
    make(tmp_path / "stopped", resume_from="latest").train()
    assert_same_bits(state(tmp_path / "stopped"), state(tmp_path / "whole"))


def test_minutes_count_over_resumes(tmp_path, monkeypatch):
    now = [0.0]

    def tick(number, images):
        now[0] += 10.0

    monkeypatch.setattr(trainer.time, "monotonic", lambda: now[0])
    limits = {"max_steps": None, "checkpointing_steps": 2}
    make(tmp_path, Pictures(event=tick), max_minutes=1, **limits).train()
    first = json.loads((tmp_path / "report.json").read_text())
    assert 1 <= first["minutes"] < 1.5
    now[0] = 5000.0  # another day
    make(tmp_path, Pictures(event=tick), max_minutes=2, resume_from="latest", **limits).train()
    second = json.loads((tmp_path / "report.json").read_text())
    assert 2 <= second["minutes"] < 2.5 and second["steps"] > first["steps"]


def test_old_checkpoints_make_room(tmp_path):
    make(tmp_path, checkpointing_steps=1, checkpoints_total_limit=2, max_steps=5).train()
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["step_00000004", "step_00000005"]


def test_starting_over_an_earlier_run_is_refused(tmp_path):
    make(tmp_path, max_steps=2, checkpointing_steps=1).train()
    with pytest.raises(ValueError, match="resume_from latest"):
        make(tmp_path).train()
    with pytest.raises(ValueError, match="older than other checkpoints"):
        make(tmp_path, resume_from=str(tmp_path / "checkpoints" / "step_00000001")).train()
    with pytest.raises(ValueError, match="no checkpoint"):
        make(tmp_path / "other", resume_from=str(tmp_path)).train()


def test_full_disk_keeps_earlier_checkpoints(tmp_path, monkeypatch):
    written = []

    def fill(file):
        written.append(file)
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    make(tmp_path / "whole", checkpointing_steps=1).train()
    monkeypatch.setattr(trainer.os, "fsync", fill)
    with pytest.raises(TrainingError, match="No space left on device.*make room"):
        make(tmp_path / "full", checkpointing_steps=1).train()
    names = [path.name for path in (tmp_path / "full" / "checkpoints").glob("*step*")]
    assert sorted(names) == ["step_00000001", "step_00000002"]
    monkeypatch.undo()
    make(tmp_path / "full", checkpointing_steps=1, resume_from="latest").train()
    assert_same_bits(state(tmp_path / "full"), state(tmp_path / "whole"))


def test_nan_stops_with_a_sentence_and_keeps_earlier_checkpoints(tmp_path):
    def poison(number, images):
        if number == 4:
            images[0, 0, 0, 0] = math.nan

    with pytest.raises(TrainingError, match="Step 4 was not finite.*lower learning_rate or r1_gamma"):
        make(tmp_path, Pictures(event=poison), checkpointing_steps=1).train()
    last = list_checkpoints(tmp_path / "checkpoints")[-1]
    assert last.name == "step_00000003"
    assert all(value.isfinite().all() for value in weights(tmp_path).values())


def test_infinite_gradient_stops_too(tmp_path):
    ours = make(tmp_path)
    ours.generator.const.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(TrainingError, match="gradient_g"):
        ours.train()
