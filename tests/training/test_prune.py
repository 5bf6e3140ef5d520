"""Lottery tickets: the file, the choice of weights, masks held through training, rewinding, and going on after a stop."""

import json
import math
import os
import pickle
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sharingan_hub import RadialGenerator, SharinganPipeline, StyleGAN2Generator, hub
from sharingan_hub.checkpoints.ticket import prunable, read_ticket, ticket_of, write_ticket
from training import prune, train
from training.discriminators import StyleGAN2Discriminator
from training.prune import PruneConfig, hold, magnitude, next_masks
from training.trainer import Trainer

RECIPES = sorted((Path(__file__).parents[2] / "training" / "recipes").glob("prune_*.yaml"))
RADIAL = {
    "z_dim": 8,
    "w_dim": 8,
    "num_masks": 3,
    "num_frame_masks": 1,
    "num_ground_masks": 1,
    "channels": (8,),
    "base_radius": 4,
    "base_angle": 4,
    "mapping_layers": 2,
    "mapping_width": 16,
}
STYLEGAN2 = {"z_dim": 8, "w_dim": 8, "resolution": 16, "channel_base": 64, "channel_max": 8}


def build(family, seed=0):
    torch.manual_seed(seed)
    return RadialGenerator(**RADIAL) if family == "radial" else StyleGAN2Generator(**STYLEGAN2)


families = pytest.mark.parametrize("family", ["radial", "stylegan2"])


def thin(generator, share=0.75, seed=1):
    """Set about this share of each weight that may be pruned to zero."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in prunable(generator).values():
            module.weight[torch.rand(module.weight.shape, generator=rng) < share] = 0.0
    return generator


# The file.


@families
def test_a_ticket_gives_back_the_same_bits(family, tmp_path):
    generator = thin(build(family))
    write_ticket(tmp_path / "ticket.safetensors", generator)
    read = read_ticket(tmp_path / "ticket.safetensors", build(family, seed=9))
    state = generator.state_dict()
    assert read.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(read[name].view(torch.int32), tensor.view(torch.int32)), name
    build(family, seed=9).load_state_dict(read)
    assert [path.name for path in tmp_path.iterdir()] == ["ticket.safetensors"]


@families
def test_what_may_be_pruned(family):
    generator = build(family)
    names = set(prunable(generator))
    assert names == {
        name
        for name, weight in generator.named_parameters()
        if name.endswith(".weight") and weight.ndim in (2, 4) and not name.startswith("order_embedding")
    }
    assert len(names) > 8


def test_bits_and_values_lie_as_said(tmp_path):
    generator = thin(build("radial"))
    tensors = ticket_of(generator)
    for name, module in prunable(generator).items():
        flat = module.weight.detach().flatten().tolist()
        stored, values = tensors[f"{name}.mask"].tolist(), tensors[f"{name}.values"].tolist()
        assert [i for i, x in enumerate(flat) if x] == [
            i for i in range(8 * len(stored)) if stored[i // 8] >> i % 8 & 1
        ]
        assert values == [x for x in flat if x]


def test_the_file_is_as_small_as_promised(tmp_path):
    """A quarter of four bytes and one bit for each number, and what is not pruned."""
    torch.manual_seed(0)
    generator = thin(StyleGAN2Generator(z_dim=64, w_dim=64, resolution=16, channel_base=1024, channel_max=64))
    size = write_ticket(tmp_path / "t.safetensors", generator)
    count = sum(module.weight.numel() for module in prunable(generator).values())
    others = sum(tensor.numel() for tensor in generator.state_dict().values()) - count
    assert size == (tmp_path / "t.safetensors").stat().st_size
    assert size == pytest.approx(count * (0.25 * 4 + 1 / 8) + 4 * others, rel=0.05)


def without(tensors, name):
    return {key: value for key, value in tensors.items() if key != name}


LAYER = "fc.0.weight"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: without(t, f"{LAYER}.mask"), "lacks tensor"),
        (lambda t: without(t, "const"), "lacks tensor 'const'"),
        (lambda t: t | {"more": torch.zeros(1)}, "unknown tensor 'more'"),
        (lambda t: t | {LAYER: torch.zeros(16, 16)}, "unknown tensor"),
        (lambda t: t | {f"{LAYER}.mask": t[f"{LAYER}.mask"][:-1]}, "must be 32 bytes"),
        (lambda t: t | {f"{LAYER}.mask": torch.zeros(2**16, dtype=torch.uint8)}, "must be 32 bytes"),
        (lambda t: t | {f"{LAYER}.mask": t[f"{LAYER}.mask"].float()}, "must be 32 bytes"),
        (lambda t: t | {f"{LAYER}.mask": t[f"{LAYER}.mask"] | 255}, "has shape"),
        (lambda t: t | {f"{LAYER}.values": t[f"{LAYER}.values"][:-1]}, "has shape"),
        (lambda t: t | {f"{LAYER}.values": torch.zeros(2**16)}, "has shape"),
        (lambda t: t | {f"{LAYER}.values": t[f"{LAYER}.values"] * math.nan}, "NaN or infinite"),
        (lambda t: t | {f"{LAYER}.values": t[f"{LAYER}.values"].long()}, "not floating-point"),
        (lambda t: t | {"w_avg": torch.full((8, 8), math.inf)}, "NaN or infinite"),
        (lambda t: t | {"w_avg": torch.zeros(8, 9)}, "has shape"),
        (lambda t: t | {"round_head.weight.mask": t["round_head.weight.mask"] | 128}, "beyond its 18 numbers"),
    ],
)
def test_hostile_tickets_are_refused(change, sentence, tmp_path):
    generator = thin(RadialGenerator(**RADIAL | {"channels": (9,)}))
    path = tmp_path / "ticket.safetensors"
    save_file({name: value.contiguous() for name, value in change(ticket_of(generator)).items()}, path)
    with pytest.raises(hub.CheckpointError, match=sentence):
        read_ticket(path, generator)


def test_files_that_are_no_tickets_are_refused(tmp_path):
    generator, path = build("radial"), tmp_path / "ticket.safetensors"
    with pytest.raises(hub.CheckpointError, match="missing"):
        read_ticket(path, generator)
    write_ticket(path, generator)
    whole = path.read_bytes()
    for bad in (whole[:-9], b"", pickle.dumps({}), whole[:8] + b"\xff" * 50):
        path.write_bytes(bad)
        with pytest.raises(hub.CheckpointError, match="damaged"):
            read_ticket(path, generator)
    write_ticket(path, build("stylegan2"))
    with pytest.raises(hub.CheckpointError, match="does not fit"):
        read_ticket(path, generator)


def test_a_failed_write_leaves_the_earlier_ticket(tmp_path, monkeypatch):
    path = tmp_path / "ticket.safetensors"
    write_ticket(path, build("radial"))
    before = path.read_bytes()

    def full_disk(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sharingan_hub.checkpoints.ticket.os.replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_ticket(path, thin(build("radial")))
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


# The choice.


@families
def test_half_of_what_is_left_is_pruned_by_magnitude(family):
    """Two rounds against a sort of all magnitudes; what is pruned once stays pruned."""
    kept, expected = {}, None
    for number in (1, 2):
        trained = build(family, seed=number)
        scores = np.concatenate([magnitude(module).flatten().numpy() for module in prunable(trained).values()])
        left = np.arange(len(scores)) if expected is None else expected
        expected = left[np.argsort(scores[left], kind="stable")[round(len(left) / 2) :]]
        kept = next_masks(build(family), trained, kept, "magnitude", 0)
        found = np.concatenate([mask.flatten().numpy() for mask in kept.values()]).nonzero()[0]
        np.testing.assert_array_equal(found, np.sort(expected))


def test_layers_lose_half_each_where_asked():
    kept = {}
    for share in (2, 4, 8):
        kept = next_masks(build("radial"), build("radial", seed=3), kept, "layer_magnitude", 0)
        for name, mask in kept.items():
            assert abs(mask.sum().item() - mask.numel() / share) <= 1, name
    trained = prunable(build("radial", seed=3))
    for name, mask in kept.items():
        size = trained[name].weight.detach().abs()
        assert size[mask == 1].min() >= size[mask == 0].max()


def test_random_tickets_follow_the_seed_and_no_magnitude():
    first, again, other = (next_masks(build("radial"), build("radial", 3), {}, "random", seed) for seed in (1, 1, 2))
    for name, mask in first.items():
        assert torch.equal(mask, again[name])
    assert any(not torch.equal(mask, other[name]) for name, mask in first.items())
    trained = prunable(build("radial", seed=3))
    sizes = torch.cat([trained[name].weight.detach().abs().flatten() for name in first])
    flat = torch.cat([mask.flatten() for mask in first.values()])
    assert flat.mean() == pytest.approx(0.5, abs=0.001)
    error = sizes.std() * math.sqrt(4 / len(sizes))
    assert abs(sizes[flat == 1].mean() - sizes[flat == 0].mean()) < 4 * error


def test_layers_are_weighed_alike():
    """StyleGAN2's mapping network is stored a hundred times larger; that alone must not save it."""
    torch.manual_seed(0)
    generator = StyleGAN2Generator(z_dim=64, w_dim=64, resolution=16, channel_base=1024, channel_max=64)
    typical = [magnitude(module).median() for name, module in prunable(generator).items() if "torgb.w" not in name]
    assert max(typical) < 1.2 * min(typical)
    torch.manual_seed(0)
    radial = RadialGenerator(z_dim=32, w_dim=32, channels=(32, 16))
    assert max(m := [magnitude(module).median() for module in prunable(radial).values()]) < 1.3 * min(m)


# Rounds.


class Pictures:
    """A few fixed pictures, and optionally something that happens when a batch is asked for."""

    order_probs = None

    def __init__(self, event=None):
        self.images = torch.rand(10, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
        self.event, self.batches = event, 0

    def __len__(self):
        return len(self.images)

    def batch(self, indices):
        self.batches += 1
        if self.event is not None:
            self.event(self.batches)
        return self.images[list(indices)].clone(), torch.zeros(len(indices), dtype=torch.int64)


@pytest.fixture
def search(tmp_path, monkeypatch):
    """search(name, event, **changes): a search for tickets from a small base; .starts are the generators' states at the
    beginning of each round."""

    def bases(family):
        folder = tmp_path / f"base_{family}"
        if not folder.is_dir():
            SharinganPipeline(build(family)).save_pretrained(folder)
            torch.manual_seed(1)
            judge = StyleGAN2Discriminator(resolution=16, channel_base=64, channel_max=8, mbstd_group_size=2)
            judge.save_pretrained(folder / "discriminator")
        return folder

    class Watched(Trainer):
        def __init__(self, config, dataset, generator, *others):
            starts.append({name: tensor.clone() for name, tensor in generator.state_dict().items()})
            super().__init__(config, dataset, generator, *others)

    starts = []
    monkeypatch.setattr(train, "Trainer", Watched)

    def search(name, event=None, family="radial", **changes):
        monkeypatch.setattr(train, "load_data", lambda config: Pictures(event))
        common = {"train_data": "", "base_model": str(bases(family)), "resolution": 16, "batch_size": 4, "max_steps": 3}
        common |= {"sample_every": 1000, "checkpointing_steps": 2, "report_to": "none", "learning_rate": 0.05}
        common |= {"ema_decay": 0.5, "rounds": 2, "output_dir": str(tmp_path / name)}
        return prune.prune(PruneConfig(**common | changes))

    search.starts, search.bases = starts, bases
    return search


def weights(folder):
    return load_file(folder / "generator_model" / hub.WEIGHTS)


def sparsity(folder):
    loaded = hub.read_generator(folder)
    values = torch.cat([module.weight.flatten() for module in prunable(loaded).values()])
    return (values == 0).float().mean().item()


@families
def test_every_round_is_a_sparse_checkpoint_folder(search, family):
    output = search("run", family=family)
    base = weights(search.bases(family))
    dense = weights(output / "round_0")
    for number, expected in ((1, 0.5), (2, 0.75)):
        folder = output / f"round_{number}"
        assert weights(folder).keys() == base.keys()
        assert sparsity(folder) == pytest.approx(expected, abs=0.002)
        pipe = SharinganPipeline.from_pretrained(folder)
        assert np.isfinite(pipe(seeds=[1], output_type="np").images).all()
        state = pipe.generator_model.state_dict()
        for name, tensor in read_ticket(folder / "ticket.safetensors", build(family)).items():
            assert torch.equal(tensor.view(torch.int32), state[name].view(torch.int32)), name
        moved = torch.cat(
            [(state[name] - base[name])[state[name] != 0].abs().flatten() for name in prunable(build(family))]
        )
        assert (moved > 1e-3).float().mean() > 0.5  # what survives is trained
        report = json.loads((folder / "report.json").read_text())
        assert report["round"] == number and report["sparsity"] == pytest.approx(expected, abs=0.002)
        assert report["ticket_bytes"] == (folder / "ticket.safetensors").stat().st_size
        assert report["layers"].keys() == prunable(build(family)).keys()
        assert (
            f"{report['sparsity']:.1%} of the weights that may be pruned are zero" in (folder / "README.md").read_text()
        )
    pruned = {name: weights(output / "round_1")[name] == 0 for name in prunable(build(family))}
    assert all((weights(output / "round_2")[name] == 0)[zeros].all() for name, zeros in pruned.items())
    limit = torch.cat([dense[name][~zeros].abs() for name, zeros in pruned.items()]).min()
    if family == "radial":  # all layers are stored at one scale
        assert limit >= torch.cat([dense[name][zeros].abs() for name, zeros in pruned.items()]).max()
    assert not (output / "round_0" / "ticket.safetensors").exists()
    assert {name: value.tolist() for name, value in weights(output).items()} == {
        name: value.tolist() for name, value in weights(output / "round_2").items()
    }
    assert (output / "ticket.safetensors").is_file() and (output / "discriminator" / hub.WEIGHTS).is_file()


def test_the_card_of_the_result_keeps_what_its_owner_wrote(search):
    output = search("run", rounds=1)
    card = (output / "README.md").read_text()
    assert "- lottery-ticket\n" in card and "(samples/preview.png)" in card
    (output / "README.md").write_text(card + "Mine.\n")
    assert search("run", rounds=1, resume_from="latest") == output
    assert (output / "README.md").read_text() == card + "Mine.\n"


def test_each_round_begins_from_the_rewinding_point(search):
    search("run", rounds=2)
    base = weights(search.bases("radial"))
    names = prunable(build("radial")).keys()
    assert len(search.starts) == 3
    for start in search.starts[1:]:
        for name, value in base.items():
            assert torch.equal(start[f"{name}_orig" if name in names else name], value)
        assert all(set(start[f"{name}_mask"].unique().tolist()) <= {0.0, 1.0} for name in names)


def test_rewinding_to_a_later_step(search):
    output = search("run", rounds=1, rewind_step=2)
    assert json.loads((output / "rewinding_point" / "report.json").read_text())["steps"] == 2
    point = weights(output / "rewinding_point")
    for start in search.starts[1:]:
        assert torch.equal(start.get("fc.0.weight", start.get("fc.0.weight_orig")), point["fc.0.weight"])
    assert not torch.equal(point["fc.0.weight"], weights(search.bases("radial"))["fc.0.weight"])


def test_pruned_weights_get_no_gradient_and_frozen_ones_are_pruned_too(search):
    output = search("run", rounds=1, freeze_generator=["fc"])
    base, after = weights(search.bases("radial")), weights(output / "round_1")
    zero = after["fc.0.weight"] == 0
    assert zero.any() and torch.equal(after["fc.0.weight"], base["fc.0.weight"] * ~zero)
    generator = build("radial")
    hold(generator, next_masks(build("radial"), build("radial"), {}, "magnitude", 0))
    order = torch.tensor([1, 2])
    generator(torch.randn(2, 8), order, output_size=16).square().mean().backward()
    for module in prunable(generator).values():
        assert (module.weight_orig.grad[module.weight_mask == 0] == 0).all()
    assert any(module.weight_orig.grad.any() for module in prunable(generator).values())


def test_a_stopped_search_goes_on_and_ends_with_the_same_bits(search):
    whole = search("whole")
    before = len(search.starts)

    def stop(number):
        if number == 3 and len(search.starts) == before + 2:  # in round 1
            os.kill(os.getpid(), signal.SIGTERM)

    stopped = search("stopped", event=stop)
    assert stopped.name == "round_1" and len(search.starts) == before + 2
    assert not (stopped / "ticket.safetensors").exists() and not (stopped.parent / "round_2").exists()
    again = search("stopped", resume_from="latest")
    assert len(search.starts) == before + 4  # round 0 is not run again
    for number in range(3):
        first, second = weights(whole / f"round_{number}"), weights(again / f"round_{number}")
        assert all(torch.equal(value, second[name]) for name, value in first.items())
    search("stopped", resume_from="latest")
    assert len(search.starts) == before + 4
    with pytest.raises(ValueError, match="holds rounds of an earlier search: give --resume_from latest"):
        search("stopped")


def test_a_result_lost_between_checkpoint_and_export_is_made_again(search):
    output = search("run", rounds=0)
    report = output / "round_0" / "report.json"
    report.write_text(json.dumps(json.loads(report.read_text()) | {"steps": 2}))  # of the checkpoint before
    values = json.loads(report.read_text())
    values.pop("sparsity")
    report.write_text(json.dumps(values))
    search("run", rounds=0, resume_from="latest")
    assert json.loads(report.read_text())["steps"] == 3 and "sparsity" in json.loads(report.read_text())


def test_a_ticket_is_adapted_as_it_is(search):
    found = search("found", rounds=2) / "round_2"
    adapted = search("adapted", rounds=0, base_model=str(found), max_steps=2)
    names = prunable(build("radial")).keys()
    before, after = weights(found), weights(adapted)
    for name in names:
        assert torch.equal(before[name] == 0, after[name] == 0)
    assert any(not torch.equal(before[name], after[name]) for name in names)
    assert (adapted / "ticket.safetensors").is_file() and sparsity(adapted) == pytest.approx(0.75, abs=0.002)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--rounds", "-1"], "rounds must not be negative"),
        (["--rewind_step", "-1"], "rewind_step must not be negative"),
        (["--criterion", "taste"], "criterion"),
        (["--resume_from", "somewhere"], "resume_from must be latest"),
        (["--base_model", "nowhere/"], "neither a folder that exists nor a Hub id"),
    ],
)
def test_wrong_flags_end_with_code_2_and_one_sentence(flags, sentence, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        prune.main(["--train_data", "emblems:source", "--output_dir", str(tmp_path), "--max_steps", "1", *flags])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert sentence in message and message.count("\n") == 1


def test_several_processes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="one process"):
        PruneConfig(train_data="x", output_dir="y", max_steps=1)


def test_a_round_of_teaching_alone_passes_the_discriminator_on(search, monkeypatch):
    """The trainer writes none that has learnt nothing, but a ticket is adapted against its base's."""
    monkeypatch.setattr(train.Trainer, "_export", without_discriminator(train.Trainer._export))
    output = search("run", rounds=1)
    for folder in (output / "round_1", output):
        ours, base = (load_file(place / "discriminator" / hub.WEIGHTS) for place in (folder, search.bases("radial")))
        assert all(torch.equal(value, ours[name]) for name, value in base.items())


def without_discriminator(export):
    def exported(trainer):
        export(trainer)
        shutil.rmtree(trainer.output / "discriminator")

    return exported


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_the_recipes_are_read(recipe, tmp_path):
    config = train.parse(PruneConfig, ["--config", str(recipe), "--resolution", "32", "--output_dir", str(tmp_path)])
    assert config.resolution == 32 and config.rounds == 3 and config.max_minutes <= 15
