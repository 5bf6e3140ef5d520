"""report.json: the machine, an estimate of the energy that is honest about itself, and what a model came from."""

import json
import subprocess
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

from sharingan_hub import hub
from training import report
from training.report import base_report, before, cost, cpu_name, origins, power_limit, run_report


@dataclass
class Settings:
    train_data: str = "someone/pictures"
    base_model: str | None = None
    generator: str = "one"


def fake_gpu(monkeypatch: pytest.MonkeyPatch, answer: str | Exception) -> None:
    def run(*args, **kwargs):
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(stdout=answer)

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A GPU")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1-2-3"))
    monkeypatch.setattr(subprocess, "run", run)
    power_limit.cache_clear()


def test_the_energy_of_cores_is_their_number_times_what_is_assumed_for_one(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(report.os, "cpu_count", lambda: 64)
    found = cost(torch.device("cpu"), processes=3, minutes=30)
    assert found["hardware"] == {"kind": "cpu", "name": cpu_name(), "count": 6} and cpu_name()
    assert found["energy_wh"] == 0.5 * 6 * 15
    assert (
        found["energy_estimate"] == "30 minutes of 6 busy cores at 15 W each (assumed, board and power supply included)"
    )
    monkeypatch.setattr(report.os, "cpu_count", lambda: 4)
    assert cost(torch.device("cpu"), 3, 30)["hardware"]["count"] == 4  # threads beyond the cores burn nothing


def test_the_energy_of_a_gpu_is_the_most_that_it_may_draw(monkeypatch):
    fake_gpu(monkeypatch, "700.00\n")
    found = cost(torch.device("cuda:0"), processes=1, minutes=6)
    assert found["hardware"] == {"kind": "cuda", "name": "A GPU", "count": 1} and found["energy_wh"] == 70
    assert found["energy_estimate"] == "6 minutes of 1 GPU at 700 W each (the most that it may draw)"


@pytest.mark.parametrize("answer", ["[N/A]\n", FileNotFoundError(), subprocess.TimeoutExpired("nvidia-smi", 10)])
def test_where_a_gpu_does_not_tell_nothing_is_estimated(monkeypatch, answer):
    fake_gpu(monkeypatch, answer)
    found = cost(torch.device("cuda:0"), 1, 6)
    assert found["energy_wh"] is None and found["energy_estimate"] is None and found["hardware"]["name"] == "A GPU"
    power_limit.cache_clear()


def test_a_report_says_what_the_model_came_from(tmp_path):
    accelerator = SimpleNamespace(num_processes=2, device=torch.device("cpu"))
    found = run_report(Settings(), range(15), accelerator, 7, 112, 90.0)
    assert found["steps"] == 7 and found["images"] == 112 and found["minutes"] == 1.5 and found["processes"] == 2
    assert found["pictures"] == 15 and found["train_data"] == "someone/pictures" and found["base_model"] is None
    assert found["versions"].keys() == {"sharingan_hub", "torch", "diffusers"}
    assert found["recipe"] == {"train_data": "someone/pictures", "base_model": None, "generator": "one"}
    json.dumps(found, allow_nan=False)
    (tmp_path / "eyes").mkdir()
    own = run_report(Settings(str(tmp_path / "eyes"), str(hub.DEFAULT)), range(3), accelerator, 1, 1, 1.0)
    assert own["train_data"] == "eyes" and own["base_model"] == "sharingan_hub/embedded/default"
    assert "generator" not in own["recipe"]  # the base model's is taken
    assert run_report(Settings("emblems:source"), range(9), accelerator, 1, 1, 1.0)["pictures"] is None


@pytest.mark.parametrize(
    ("base", "known"),
    [
        ({"images": 100, "minutes": 3, "base_model": None}, {"images": 100, "minutes": 3}),
        ({"images": 100, "minutes": 3, "base_model": "a/b", "before": {"images": 50, "minutes": 2.5}}, {"images": 150, "minutes": 5.5}),
        ({"images": 100, "minutes": 3, "base_model": "a/b", "before": None}, None),
        ({"images": 100, "minutes": 3, "recipe": {"base_model": "runs/gone"}}, None),
        ({"images": 100, "minutes": 3, "base_model": None, "recipe": {"base_model": "x"}}, {"images": 100, "minutes": 3}),
        ({"images": 100, "minutes": "many"}, None),
        (None, None),
    ],
)  # fmt: skip
def test_what_came_before_counts_where_all_of_it_is_known(tmp_path, base, known):
    if base is not None:
        (tmp_path / "report.json").write_text(json.dumps(base))
    base_report.cache_clear()
    assert before(str(tmp_path)) == known
    assert origins(str(tmp_path), "emblems:source", None)["before"] == known


def test_the_licence_of_converted_weights_is_inherited(tmp_path):
    (tmp_path / "report.json").write_text(json.dumps({"license": "other"}))
    assert origins(str(tmp_path), "emblems:source", None)["license"] == "other"
    assert origins(None, "emblems:source", None)["license"] is None


def test_a_base_that_was_never_fetched_is_not_asked_for():
    assert before("nobody/nothing-at-all") is None
