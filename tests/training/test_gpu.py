"""Training on a GPU: the same as on the CPU as far as rounding allows, and every recipe gets through it."""

import pytest
import torch

from tests.training.runs import RECIPES, STYLEGAN2, assert_trains_in_bf16, make, run_small, weights, write_pictures
from training import adapt, diffusion, players
from training.sampling import seeded

# Not path_length: its noise is drawn on the device, where a GPU draws another.
EVERYTHING = {"objective": "hinge", "regularizers": ["r1", "r2"], "augment": "diffaugment"}


def drawn_on_the_cpu(seed, step, purpose, device="cpu"):
    """Random numbers that are the same on every device."""
    return seeded(seed, step, purpose)


@pytest.mark.gpu
@pytest.mark.parametrize("changes", [{}, {"generator": STYLEGAN2, **EVERYTHING}], ids=["radial", "stylegan2"])
def test_the_first_steps_are_those_of_the_cpu(tmp_path, changes, request, monkeypatch):
    monkeypatch.setattr(players, "seeded", drawn_on_the_cpu)  # another noise moves G's gradient by percents
    changes = {"max_steps": 3, "mixed_precision": "no", **changes}
    expected = list(make(tmp_path / "cpu", **changes).steps())
    request.getfixturevalue("on_the_gpu")
    ours = make(tmp_path / "gpu", **changes)
    assert ours.device.type == "cuda"
    for theirs, found in zip(expected, ours.steps(), strict=True):
        assert found == pytest.approx(theirs, rel=0.02, abs=0.01)


@pytest.mark.gpu
def test_a_stopped_run_goes_on_where_it_was(tmp_path, on_the_gpu):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    make(whole, mixed_precision="no").train()
    make(halves, mixed_precision="no", max_steps=3).train()
    make(halves, mixed_precision="no", resume_from="latest").train()
    for name, value in weights(whole).items():  # the kernels of a GPU add up in an order of their own
        torch.testing.assert_close(weights(halves)[name], value, rtol=0.02, atol=0.02)


@pytest.mark.gpu
def test_auto_is_bf16_which_keeps_weights_in_float32(tmp_path, on_the_gpu):
    assert_trains_in_bf16(make(tmp_path, max_steps=4))


@pytest.mark.gpu
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_runs_small(tmp_path, on_the_gpu, recipe):
    pictures = write_pictures(tmp_path / "pictures", side=40)
    run_small(recipe, tmp_path / "run", pictures, adapt.EMBEDDED_SOURCE)


@pytest.mark.gpu
def test_a_diffusion_model_trains_and_draws(tmp_path, on_the_gpu):
    pictures = write_pictures(tmp_path / "pictures", side=32)
    settings = {"train_data": str(pictures), "output_dir": str(tmp_path / "run"), "resolution": 16, "batch_size": 4}
    diffusion.train(diffusion.DiffusionConfig(**settings, max_steps=3, report_to="none"))
    images = diffusion.sample(tmp_path / "run", range(4), 0, steps=3)
    assert images.shape == (4, 3, 16, 16) and images.isfinite().all()
