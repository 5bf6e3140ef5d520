"""Small runs of the training loop, and what they leave."""

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from sharingan_hub import SharinganPipeline
from training import adapt, train
from training.checkpoints import list_checkpoints
from training.config import TrainConfig
from training.trainer import Trainer

ROOT = Path(__file__).parents[2]
RECIPES = sorted(p for p in (ROOT / "training" / "recipes").glob("*.yaml") if p.stem.startswith(("train_", "adapt_")))
RADIAL = {
    "class_name": "RadialGenerator",
    "z_dim": 8,
    "w_dim": 8,
    "num_masks": 3,
    "num_frame_masks": 1,
    "num_ground_masks": 1,
    "channels": [8, 8],
    "base_radius": 4,
    "base_angle": 4,
    "mapping_layers": 2,
}
STYLEGAN2 = {"class_name": "StyleGAN2Generator", "z_dim": 8, "w_dim": 8, "channel_base": 64, "channel_max": 8}
DISCRIMINATOR = {"class_name": "StyleGAN2Discriminator", "channel_base": 64, "channel_max": 8, "mbstd_group_size": 2}
BASE = {
    "train_data": "",
    "resolution": 16,
    "generator": RADIAL,
    "discriminator": DISCRIMINATOR,
    "batch_size": 8,
    "max_steps": 6,
    "r1_interval": 3,
    "sample_every": 1000,
    "checkpointing_steps": 1000,
    "report_to": "none",
}


class Pictures:
    """A few fixed pictures, and optionally something that happens when a batch is asked for."""

    order_probs: list[float] | None = None

    def __init__(self, count=20, side=16, event=None):
        self.images = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1
        self.event, self.batches = event, 0

    def __len__(self):
        return len(self.images)

    def batch(self, indices):
        images = self.images[list(indices)].clone()
        if len(images) < len(self):  # a step's; otherwise the monitor looks at all of them
            self.batches += 1
            if self.event is not None:
                self.event(self.batches, images)
        return images, torch.zeros(len(images), dtype=torch.int64)


def make(folder, pictures=None, **changes):
    """A trainer on a few fixed pictures."""
    config = TrainConfig(**BASE | {"output_dir": str(folder)} | changes)
    torch.manual_seed(config.seed)
    pictures = pictures or Pictures(side=config.resolution)
    return Trainer(config, pictures, *train.build_networks(config, pictures.order_probs))


def weights(folder):
    """All tensors of a finished run: averaged generator and discriminator."""
    parts = (folder / part / "diffusion_pytorch_model.safetensors" for part in ("generator_model", "discriminator"))
    return {f"{path.parent.name}.{name}": value for path in parts for name, value in load_file(path).items()}


def state(folder):
    """The whole state of the last checkpoint, as a flat list of tensors and numbers."""
    loaded = torch.load(list_checkpoints(folder / "checkpoints")[-1] / "state.pt", weights_only=True)

    def leaves(value):
        if isinstance(value, dict):
            return [leaf for key in value for leaf in leaves(value[key])]
        return [leaf for item in value for leaf in leaves(item)] if isinstance(value, (list, tuple)) else [value]

    return leaves(loaded)


def assert_same_bits(first, second):
    assert len(first) == len(second) > 20
    for a, b in zip(first, second):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def assert_close(first, second):
    """Equal within float tolerance: a hundredth of what Adam moves a weight in one step."""
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(
            value, second[name], rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


def assert_trains_in_bf16(ours):
    """Computes in bf16, and keeps weights in float32."""
    seen = set()
    ours.discriminator.b8.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    ours.train()
    assert seen == {torch.bfloat16}
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in ours.generator.parameters())


def run_small(recipe, folder, pictures, base):
    """Two steps of a recipe at 32 px, on `base` where it goes on from a model -> the pipeline of the result."""
    flags = ["--config", str(recipe), "--output_dir", str(folder), "--train_data", str(pictures)]
    flags += ["--resolution", "32", "--max_steps", "2", "--report_to", "none"]
    adapting = recipe.stem.startswith("adapt")
    if "designs" in recipe.stem:
        flags += ["--designs", "30", "--designs_steps", "3"]
    if adapting or "_adversarial" in recipe.stem:
        flags += ["--base_model", str(base)]
    (adapt if adapting else train).main(flags)
    pipe = SharinganPipeline.from_pretrained(folder)
    assert np.isfinite(pipe(seeds=[1], output_type="np").images).all()
    return pipe


def write_pictures(folder, count=10, side=16):
    folder.mkdir()
    generator = np.random.default_rng(0)
    for i in range(count):
        Image.fromarray(generator.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(folder / f"{i:02}.png")
    return folder


def write_recipe(tmp_path, **changes):
    import yaml

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(BASE | changes))
    return recipe


def environment():
    return os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def descend(network, loss, rate):
    """One step of plain gradient descent; returns the gradients, zero for a weight without a part in the loss."""
    gradients = torch.autograd.grad(loss, list(network.parameters()), materialize_grads=True, allow_unused=True)
    with torch.no_grad():
        for weight, gradient in zip(network.parameters(), gradients):
            weight -= rate * gradient
    return gradients


def assert_same(network, other, **tolerance):
    for (name, a), (_, b) in zip(network.named_parameters(), other.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, **tolerance, msg=lambda text, name=name: f"{name}: {text}")
