"""The model inside the package is what README shows: new, different, red and black, round and symmetric."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import sharingan_hub
from sharingan_hub import SharinganPipeline, hub
from sharingan_hub.hub import DEFAULT
from training.adapt import EMBEDDED_SOURCE
from training.discriminators import StyleGAN2Discriminator
from training.emblems import Emblem, render, sample_emblems

FEW_SHOT = Path(__file__).parents[2] / "training" / "data" / "sharingan15"
RADII, ANGLES = 48, 240


@pytest.fixture(scope="module")
def pipe() -> SharinganPipeline:
    return SharinganPipeline.from_pretrained()


def polar(images: Tensor) -> Tensor:
    """Pictures (N,3,S,S) in [0,1] on rings around the centre, (N,3,RADII,ANGLES), out to the inscribed circle."""
    r = ((torch.arange(RADII) + 0.5) / RADII)[:, None]
    a = (torch.arange(ANGLES) * (2 * math.pi / ANGLES))[None]
    grid = torch.stack([r * a.cos(), -r * a.sin()], dim=2).expand(len(images), -1, -1, -1)
    return F.grid_sample(images, grid, align_corners=False)


def distances(first: Tensor, second: Tensor) -> Tensor:
    """Root mean square difference of each picture of one set to each of the other, (N,M), at the turn, and mirrored or not,
    that makes it smallest: a copy stays a copy however it is turned."""
    one, other = polar(first).double(), polar(second).double()
    weight = ((torch.arange(RADII) + 0.5) / (RADII**2 / 2 * ANGLES * 3)).view(1, 1, RADII, 1).double()

    def energy(x: Tensor) -> Tensor:
        return (x.square() * weight).sum(dim=(1, 2, 3))

    spectrum = torch.fft.rfft(one * weight)
    best = torch.full((len(one), len(other)), -math.inf, dtype=torch.float64)
    for version in (other, other.flip(3)):
        cross = torch.einsum("ncrf,mcrf->nmf", spectrum, torch.fft.rfft(version).conj())
        best = torch.maximum(best, torch.fft.irfft(cross, n=ANGLES).amax(dim=2))
    return (energy(one)[:, None] + energy(other) - 2 * best).clamp(min=0).sqrt()


def few_shot() -> Tensor:
    rows = [json.loads(line) for line in (FEW_SHOT / "metadata.jsonl").read_text().splitlines()]
    return render([Emblem.from_dict(row) for row in rows], 128)


def test_the_distance_ignores_turns_and_mirrors_but_not_designs():
    emblems = sample_emblems("sharingan", range(40, 48))
    pictures = render(emblems, 128)
    turned = torch.cat([pictures[:4].rot90(1, (2, 3)), pictures[4:].flip(3)])
    between = distances(pictures, turned)
    assert between.diagonal().max() < 0.02
    assert between[~torch.eye(8, dtype=torch.bool)].min() > 0.05


def test_sixteen_seeds_show_none_of_the_fifteen(pipe):
    made = pipe(seeds=range(16), truncation_psi=0.7, output_size=128, output_type="pt").images
    assert distances(made, few_shot()).min() > 0.05


def test_sixteen_seeds_differ_from_each_other(pipe):
    made = pipe(seeds=range(16), truncation_psi=0.7, output_size=128, output_type="pt").images
    assert distances(made, made)[~torch.eye(16, dtype=torch.bool)].min() > 0.05


def test_the_pictures_are_red_and_black_on_white(pipe):
    made = pipe(seeds=range(32), output_size=128, output_type="pt").images
    truth = render(sample_emblems("sharingan", range(500)), 128)
    for measure in (red_share, black_share, white_share):
        ours, theirs = measure(made), measure(truth)
        assert abs(ours.mean() - theirs.mean()) < 0.12, measure.__name__
        assert ours.min() > theirs.min() - 0.1 and ours.max() < theirs.max() + 0.1, measure.__name__
    assert white_share(made[:, :, :8, :8]).min() > 0.9  # the corners


def red_share(images: Tensor) -> Tensor:
    red, green, blue = images.unbind(dim=1)
    return ((red > 0.35) & (green < 0.35 * red) & (blue < 0.5 * red)).float().mean(dim=(1, 2))


def black_share(images: Tensor) -> Tensor:
    return (images.amax(dim=1) < 0.25).float().mean(dim=(1, 2))


def white_share(images: Tensor) -> Tensor:
    return (images.amin(dim=1) > 0.75).float().mean(dim=(1, 2))


@pytest.mark.parametrize("order", range(1, 9))
def test_every_picture_has_the_symmetry_of_its_order(pipe, order):
    made = pipe(seeds=range(4), order=order, output_size=256, output_type="pt").images
    rings = polar(made)
    turned = torch.fft.irfft(torch.fft.rfft(rings) * turn(2 * math.pi / order), n=ANGLES)
    # Edges differ a little, for pixels do not turn with the picture; nothing else does.
    assert (rings - turned).abs().mean(dim=(1, 2, 3)).max() < 0.02


def turn(angle: float) -> Tensor:
    return torch.exp(1j * angle * torch.arange(ANGLES // 2 + 1))


def test_edges_are_crisp_at_any_size(pipe):
    """Hardly a pixel lies between the colours: an edge is some pixels wide, whether the picture has 256 or 1024."""
    for size in (256, 1024):
        masks = pipe.generator_model.masks(pipe.prepare_latents([3, 4, 5, 6]), output_size=size)
        blended = (masks.amax(dim=1) < 0.9).float().mean()
        assert blended < 0.06 * 256 / size + 0.01


def test_the_checkpoints_are_whole_and_small():
    files = [path for folder in (DEFAULT, EMBEDDED_SOURCE) for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 25e6
    assert not [path for path in files if path.suffix in {".pt", ".pkl", ".bin", ".ckpt"}]
    for folder in (DEFAULT, EMBEDDED_SOURCE):
        card = (folder / "README.md").read_text()
        assert "library_name: diffusers" in card and "not affiliated" in card
    settings = hub.read_json(EMBEDDED_SOURCE / "discriminator" / "config.json")
    judge = StyleGAN2Discriminator(**{k: v for k, v in settings.items() if not k.startswith("_")})
    hub.read_weights(EMBEDDED_SOURCE / "discriminator" / hub.WEIGHTS, judge.state_dict())


def test_the_code_inside_checkpoints_is_the_packages():
    """Diffusers alone opens a folder with it."""
    package = Path(sharingan_hub.__file__).parent
    roots = (package / "embedded", package.parent / "model_cards")
    shipped = [path for root in roots for path in sorted(root.rglob("*.py"))]
    assert len(shipped) >= 8
    for path in shipped:
        source = package / ("pipeline_sharingan.py" if path.name == "pipeline.py" else path.name)
        assert path.read_text() == source.read_text(), f"{path} is out of date: save the checkpoint again"


def test_the_samples_are_what_the_seeds_give(pipe):
    paths = sorted((DEFAULT / "samples").glob("seed*.png"))
    assert len(paths) >= 8
    made = pipe(seeds=[int(path.stem.removeprefix("seed")) for path in paths], output_size=512).images
    for path, picture in zip(paths, made):
        assert np.abs(np.asarray(Image.open(path)).astype(int) - np.asarray(picture)).max() <= 2


def test_the_ready_made_folders_open_and_belong_together():
    cards = Path(__file__).parents[2] / "model_cards"
    source = SharinganPipeline.from_pretrained(EMBEDDED_SOURCE)
    source.load_adapter(cards / "adapter-sharingan15")
    assert (cards / "adapter-sharingan15" / "adapter.safetensors").stat().st_size < 1e6
    both: list = [
        one(seeds=range(8), output_size=64, output_type="pt").images
        for one in (source, SharinganPipeline.from_pretrained())
    ]
    assert (both[0] - both[1]).abs().max() < 2 / 255
    stylegan2 = SharinganPipeline.from_pretrained(cards / "stylegan2-source")
    assert type(stylegan2.generator_model).__name__ == "StyleGAN2Generator"
    images = stylegan2(seeds=range(8), truncation_psi=1.0, output_type="pt").images
    assert images.shape == (8, 3, 64, 64) and images.std(dim=0).mean() > 0.1  # eight different pictures
    assert (cards / "stylegan2-source" / "discriminator" / "config.json").is_file()
