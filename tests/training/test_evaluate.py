import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from sharingan_hub import RadialGenerator, SharinganPipeline, StyleGAN2Generator
from sharingan_hub.cards import metrics_table
from training import diffusion, evaluate
from training.data import load_pictures
from training.emblems import sample_emblems, write_folder
from training.evaluate import EvaluateConfig
from training.metrics import Estimate

FEW_SHOT = Path(__file__).parents[2] / "training" / "data" / "sharingan15"


@pytest.fixture
def model(tmp_path) -> Path:
    torch.manual_seed(0)
    small = RadialGenerator(z_dim=8, w_dim=8, channels=(8,), base_radius=4, base_angle=8, resolution=64)
    SharinganPipeline(generator_model=small).save_pretrained(tmp_path / "model")
    recipe = {"train_data": str(FEW_SHOT), "base_model": None}
    (tmp_path / "model" / "report.json").write_text(json.dumps({"steps": 7, "recipe": recipe}))
    return tmp_path / "model"


@pytest.fixture(scope="module")
def reference() -> evaluate.Reference:
    draws = evaluate.true_draws("emblems:sharingan", 2000)
    return evaluate.build_reference(evaluate.training_pictures(str(FEW_SHOT)), draws)


def test_floors_and_ceilings_are_what_they_must_be(reference):
    fresh = evaluate.true_draws("emblems:sharingan", 300, evaluate.UNSEEN + 2000)
    rows = evaluate.floors(reference, 300, None, fresh)
    copies, true = rows["training pictures"], rows["true draws"]
    assert copies["copying"].value == 1 and copies["novelty"].value < 0.05 and copies["data_copying"].value < -3
    assert copies["recall"].value < 0.3 and copies["diversity"].value == pytest.approx(0, abs=1e-3)
    assert abs(true["kid"].value) < 4 * true["kid"].error and true["novelty"].value == pytest.approx(1, abs=0.1)
    assert true["copying"].value < 0.05 and true["recall"].value > 0.6 and true["coverage"].value > 0.8
    assert true["kid"].value < rows["training pictures, augmented"]["kid"].value
    assert true["symmetry"].value > 0.8 and true["deformation"].value < 0.3


def test_a_turned_or_mirrored_copy_is_still_a_copy(reference):
    copies = torch.cat([evaluate.rotated(reference.training_pictures, 0.9), reference.training_pictures.flip(3)])
    assert evaluate.measure(copies.repeat(4, 1, 1, 1), reference)["copying"].value > 0.9


def test_turning_is_exact_at_quarters():
    images = torch.rand(2, 3, 16, 16)
    assert torch.allclose(evaluate.rotated(images, math.pi / 2), images.rot90(1, (2, 3)), atol=1e-5) or torch.allclose(
        evaluate.rotated(images, math.pi / 2), images.rot90(-1, (2, 3)), atol=1e-5
    )


def test_the_command_adds_to_the_report_and_draws_the_page(model, capsys):
    arguments = ["--model", str(model), "--samples", "100", "--reference_samples", "200", "--threads", "1"]
    evaluate.main(arguments)
    report = json.loads((model / "report.json").read_text())
    assert report["steps"] == 7
    result = report["evaluation"]
    assert result["reference"] == "emblems:sharingan" and result["samples"] == 100 and result["seeds"] == [0, 99]
    assert set(result["rows"]) == {"this model", "training pictures", "training pictures, augmented", "true draws"}
    own = result["rows"]["this model"]
    assert own["kid"][0] > result["rows"]["true draws"]["kid"][0] and own["kid"][1] > 0
    with Image.open(model / "samples" / "evaluation.png") as page:
        assert page.width > 1000
    card = (model / "README.md").read_text()
    assert metrics_table(result) in card and "(samples/nearest.png)" in card and "(samples/grid.png)" in card
    evaluate.main(arguments)
    assert json.loads((model / "report.json").read_text()) == report  # the same seeds, the same figures


def test_a_diffusion_model_is_measured_alike(tmp_path, capsys):
    common = {"train_data": str(FEW_SHOT), "resolution": 16, "channels": [8, 8], "batch_size": 4, "report_to": "none"}
    for name, base in (("source", None), ("model", str(tmp_path / "source"))):
        changes = {"output_dir": str(tmp_path / name), "base_model": base, "max_steps": 1, "seed": 1}
        diffusion.train(diffusion.DiffusionConfig(**common | changes))
    shutil.rmtree(tmp_path / "model" / "samples")
    arguments = ["--model", str(tmp_path / "model"), "--samples", "100", "--reference_samples", "200", "--threads", "1"]
    evaluate.main(arguments)
    rows = json.loads((tmp_path / "model" / "report.json").read_text())["evaluation"]["rows"]
    images = (diffusion.sample(tmp_path / "model", range(100)) + 1) / 2
    large = torch.nn.functional.interpolate(images, (64, 64), mode="bilinear")
    true = evaluate.true_draws("emblems:sharingan", 200)
    expected = evaluate.measure(large, evaluate.build_reference(evaluate.training_pictures(str(FEW_SHOT)), true))
    for name, estimate in expected.items():
        assert rows["this model"][name][0] == pytest.approx(estimate.value, rel=1e-3, abs=1e-3), name
    assert "source model" in rows
    assert {path.name for path in (tmp_path / "model" / "samples").iterdir()} == {
        "evaluation.png",
        "grid.png",
        "nearest.png",
    }
    with pytest.raises(SystemExit):
        evaluate.main([*arguments, "--truncation_psi", "0.7"])
    assert "truncation_psi must be 1 with a diffusion model, got 0.7" in capsys.readouterr().err


def test_a_source_model_that_is_gone_costs_its_row_alone(model, tmp_path, caplog):
    report = json.loads((model / "report.json").read_text())
    rows = {}
    for base in (model, tmp_path / "gone"):
        report["recipe"]["base_model"] = str(base)
        (model / "report.json").write_text(json.dumps(report))
        evaluate.evaluate(EvaluateConfig(str(model), samples=100, reference_samples=100))
        rows[base] = json.loads((model / "report.json").read_text())["evaluation"]["rows"]
    assert rows[model].pop("source model") == rows[model]["this model"] and rows[model] == rows[tmp_path / "gone"]
    assert "without the source model" in caplog.text and "gone" in caplog.text


def test_the_strip_shows_the_nearest_samples_above_their_training_pictures(model, monkeypatch):
    """Of a model that draws noise, but for eight seeds a training picture, turned, the strip shows those eight."""
    sizes = {
        64: evaluate.training_pictures(str(FEW_SHOT)),
        128: (load_pictures(str(FEW_SHOT), 128).batch(range(15))[0] + 1) / 2,
    }
    shown = {}

    def draw(pipe, seeds, psi, size=64):
        noise = torch.rand(len(seeds), 3, size, size, generator=torch.Generator().manual_seed(0))
        return torch.stack(
            [sizes[size][seed - 40].rot90(1, (1, 2)) if 40 <= seed < 48 else noise[i] for i, seed in enumerate(seeds)]
        )

    monkeypatch.setattr(evaluate, "draw", draw)
    monkeypatch.setattr("training.plots.nearest_picture", lambda *strip: shown.update(strip=strip))
    evaluate.evaluate(EvaluateConfig(str(model), samples=100, reference_samples=100))
    likest, owners, path = shown["strip"]
    assert torch.equal(likest, owners.rot90(1, (2, 3))) and path == model / "samples" / "nearest.png"
    assert sorted(int((sizes[128] - own).abs().sum(dim=(1, 2, 3)).argmin()) for own in owners) == list(range(8))


def test_a_grid_that_is_there_stays(model):
    (model / "samples").mkdir()
    Image.new("RGB", (3, 3)).save(model / "samples" / "grid.png")
    (model / "README.md").write_text("# Mine\n")
    evaluate.evaluate(EvaluateConfig(str(model), samples=100, reference_samples=100))
    with Image.open(model / "samples" / "grid.png") as grid:
        assert grid.size == (3, 3)
    with Image.open(model / "samples" / "nearest.png") as strip:
        assert strip.width > 1000
    assert (model / "README.md").read_text().endswith("---\n# Mine\n")


def test_without_a_true_distribution_only_what_needs_none_is_measured(model, tmp_path):
    write_folder(sample_emblems("frost", range(4)), 32, tmp_path / "own")
    evaluate.evaluate(EvaluateConfig(str(model), train_data=str(tmp_path / "own"), samples=100))
    result = json.loads((model / "report.json").read_text())["evaluation"]
    assert result["reference"] is None and "true draws" not in result["rows"]
    assert set(result["rows"]["this model"]) == {"diversity", "novelty", "symmetry", "deformation"}
    assert result["rows"]["training pictures"]["novelty"][0] < 0.05 < result["rows"]["this model"]["novelty"][0]


def test_one_training_picture_is_enough(tmp_path):
    write_folder(sample_emblems("frost", [3]), 32, tmp_path / "one")
    one = evaluate.build_reference(evaluate.training_pictures(str(tmp_path / "one")), None)
    found = evaluate.measure(torch.rand(20, 3, 64, 64), one)
    assert math.isnan(found["novelty"].value) and found["diversity"].value > 0


def test_any_generator_is_measured():
    torch.manual_seed(0)
    pipe = SharinganPipeline(StyleGAN2Generator(z_dim=8, w_dim=8, resolution=16, channel_base=64, channel_max=8))
    images = evaluate.draw(pipe, range(5), 1.0)
    assert images.shape == (5, 3, 64, 64) and torch.equal(images, evaluate.draw(pipe, range(5), 1.0))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"samples": 10}, "samples must be at least 100, got 10"),
        ({"truncation_psi": math.nan}, "truncation_psi must be a finite number"),
        ({"model": "no/such/folder/at all"}, "neither a folder"),
        ({"train_data": "emblems:nothing"}, "train_data must be one of emblems:source"),
        ({"reference": str(FEW_SHOT)}, "reference must have at least 100 pictures"),
        ({"features": "inception"}, "pip install torch-fidelity"),
    ],
)
def test_a_slip_is_told(model, changed, told):
    settings = {"model": str(model), "samples": 100, "reference_samples": 100} | changed
    with pytest.raises(ValueError, match=told):
        evaluate.evaluate(EvaluateConfig(**settings))


def test_json_has_no_nan():
    assert evaluate.as_numbers({"a": Estimate(math.nan, 0.5)}) == {"a": [None, 0.5]}
