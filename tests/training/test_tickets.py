"""The experiment on lottery tickets: what it runs, what it keeps, how it sums up and what it draws."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from sharingan_hub import RadialGenerator, SharinganPipeline
from training import trainer
from training.discriminators import StyleGAN2Discriminator
from training.experiments import tickets
from training.metrics import Estimate
from training.prune import PruneConfig, prune

COMMON = {
    "resolution": 16,
    "batch_size": 4,
    "max_steps": 1,
    "sample_every": 1000,
    "checkpointing_steps": 1000,
    "report_to": "none",
}


@pytest.fixture
def searched(tmp_path):
    """A search of two rounds from a small base, on two pictures."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(2):
        Image.effect_noise((20, 20), 90).convert("RGB").save(pictures / f"{i}.png")
    torch.manual_seed(0)
    generator = RadialGenerator(z_dim=8, w_dim=8, channels=(8,), base_radius=4, base_angle=8, mapping_width=8)
    SharinganPipeline(generator).save_pretrained(tmp_path / "base")
    judge = StyleGAN2Discriminator(resolution=16, channel_base=64, channel_max=8, mbstd_group_size=2)
    judge.save_pretrained(tmp_path / "base" / "discriminator")
    own = {"train_data": str(pictures), "base_model": str(tmp_path / "base"), "output_dir": str(tmp_path / "search")}
    return prune(PruneConfig(**COMMON | own, rounds=2))


def brightness(folder):
    """Stands in for the metrics."""
    images = SharinganPipeline.from_pretrained(folder)(seeds=range(4), output_size=16, output_type="np").images
    return {"kid": [float(images.mean()), 0.01], "recall": [0.5, None], "fid": [None, None]}


def test_a_cell_adapts_the_ticket_and_is_run_once(searched, tmp_path):
    settings = COMMON | {"train_data": str(tmp_path / "pictures")}
    measured = []

    def measure(folder):
        measured.append(folder)
        assert (folder / "ticket.safetensors").is_file()
        return brightness(folder)

    file = tmp_path / "results" / "cell.json"
    found = tickets.run_cell(searched / "round_2", 3, file, settings, tmp_path / "work", measure)
    assert found["sparsity"] == pytest.approx(0.75, abs=0.01) and found["seed"] == 3 and found["steps"] == 1
    assert found["criterion"] == "magnitude" and json.loads(file.read_text()) == found
    assert not (tmp_path / "work").exists()
    assert tickets.run_cell(searched / "round_2", 3, file, settings, tmp_path / "work", measure) == found
    assert len(measured) == 1


def test_the_command_writes_cells_table_and_figure(searched, tmp_path, monkeypatch):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("learning_rate: 0.01\nmax_steps: 100\nbatch_size: 4\n")
    monkeypatch.setattr(tickets, "measure_with", lambda *settings: brightness)
    monkeypatch.setattr(trainer, "now", trainer.now)  # the command sets it, and the test puts it back
    flags = ["--searches", str(searched), "--recipe", str(recipe), "--train_data", str(tmp_path / "pictures")]
    flags += ["--seeds", "0", "--minutes", "1e-6", "--resolution", "16"]
    folders = {name: str(tmp_path / name) for name in ("results", "docs", "work_dir")}
    tickets.main([*flags, *(part for name, folder in folders.items() for part in (f"--{name}", folder))])
    cells = sorted((tmp_path / "results").glob("*.json"))
    assert [cell.name for cell in cells] == [f"search-round_{k}-0.json" for k in range(3)]
    assert [json.loads(cell.read_text())["sparsity"] for cell in cells] == pytest.approx([0, 0.5, 0.75], abs=0.01)
    table = (tmp_path / "docs" / "results.md").read_text()
    assert table.count("\n| magnitude") == 3 and "| magnitude, 75.0 % sparse |" in table
    with Image.open(tmp_path / "docs" / "pictures" / "tickets.png") as figure:
        assert np.asarray(figure.convert("RGB")).std() > 5


def test_a_folder_with_no_rounds_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        tickets.main(["--searches", str(tmp_path)])
    assert stopped.value.code == 2 and "finished no round" in capsys.readouterr().err


def result(round_name, sparsity, kid, error=0.0, criterion="magnitude"):
    return {"criterion": criterion, "round": round_name, "sparsity": sparsity, "metrics": {"kid": [kid, error]}}


def test_rounds_of_one_criterion_are_averaged_over_seeds():
    cells = [result("round_0", 0.0, kid) for kid in (1.0, 2.0, 6.0)]
    cells += [result("round_1", 0.5, 9.0, 0.25, "random"), result("round_1", 0.5, None, None, "layer_magnitude")]
    table = tickets.summary(cells)
    found = table["magnitude"][0.0]["kid"]
    assert found.value == 3.0 and found.error == pytest.approx(np.std([1, 2, 6], ddof=1) / math.sqrt(3))
    assert table["random"][0.5]["kid"] == Estimate(9.0, 0.25)
    assert math.isnan(table["layer_magnitude"][0.5]["kid"].value)


def test_the_figure_has_a_line_for_each_criterion_and_the_dense_band(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(tickets, "save_figure", lambda figure, path: drawn.append(figure))
    cells = [result("round_0", 0.0, 1.0, 0.1), result("round_1", 0.5, 1.2, 0.1)]
    cells += [result("round_1", 0.5, 2.0, 0.3, "random")]
    tickets.draw(tickets.summary(cells), tmp_path / "figure.png")
    (axes,) = drawn[0].axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}
    assert lines == {"magnitude": [[0.0, 1.0], [50.0, 1.2]], "random": [[50.0, 2.0]]}
    assert "dense" in [text.get_text() for text in axes.get_legend().get_texts()]
