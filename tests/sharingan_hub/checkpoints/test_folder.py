"""Checkpoint folders are checked before they cost memory: settings, headers, weights, links, and what lies beside them."""

import inspect
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import sharingan_hub
from sharingan_hub import (
    CoGANGenerator,
    DCGANGenerator,
    R3GANGenerator,
    RadialGenerator,
    SharinganPipeline,
    StyleGAN2Generator,
    hub,
)
from sharingan_hub.checkpoints import folder as folders
from sharingan_hub.checkpoints import strict
from sharingan_hub.checkpoints.adapters import make_adapter
from sharingan_hub.checkpoints.folder import (
    SETTINGS,
    WEIGHTS,
    CheckpointError,
    Numbers,
    Switch,
    build,
    expected_bytes,
    validate,
)
from sharingan_hub.checkpoints.ticket import write_ticket
from training.discriminators import StyleGAN2Discriminator

PACKAGE, CARDS = Path(sharingan_hub.__file__).parent, Path(__file__).parents[3] / "model_cards"
FROM_NOISE = {"z_dim": 4, "resolution": 16, "channels": 2}
TINY = {
    "CoGANGenerator": FROM_NOISE,
    "DCGANGenerator": FROM_NOISE,
    "R3GANGenerator": FROM_NOISE,
    "RadialGenerator": {
        "z_dim": 4,
        "w_dim": 4,
        "resolution": 16,
        "max_order": 3,
        "num_masks": 3,
        "num_frame_masks": 1,
        "num_ground_masks": 1,
        "channels": [4],
        "base_radius": 2,
        "base_angle": 4,
        "mapping_layers": 1,
    },
    "StyleGAN2Generator": {
        "z_dim": 4,
        "w_dim": 4,
        "resolution": 8,
        "mapping_layers": 1,
        "channel_base": 32,
        "channel_max": 4,
    },
}
families = pytest.mark.parametrize("family", list(SETTINGS))


def tiny(family: str, **changed):
    torch.manual_seed(0)
    return getattr(sharingan_hub, family)(**TINY[family] | changed).eval()


@pytest.fixture
def whole(tmp_path) -> Path:
    """A checkpoint folder with all that one may hold."""
    folder, model = tmp_path / "whole", tiny("RadialGenerator")
    SharinganPipeline(model).save_pretrained(folder)
    discriminator = StyleGAN2Discriminator(resolution=8, channel_base=32, channel_max=4)
    discriminator.save_pretrained(folder / "discriminator")
    write_ticket(folder / "ticket.safetensors", model)
    (folder / "report.json").write_text('{"steps": 10, "evaluation": null}')
    base = tiny("RadialGenerator")
    base.w_avg.add_(1.0)
    make_adapter(base, model, folder / "adapter", base_model="user/base")
    return folder


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def sentence(caught) -> str:
    text = str(caught.value)
    assert text and "\n" not in text and len(text) < 500 and not set(text) & set("<>")
    return text


def in_time(action, folder: Path) -> BaseException | None:
    """What an action raises that must not wait for ever."""
    raised: list[BaseException | None] = []

    def act() -> None:
        try:
            action(folder)
            raised.append(None)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(60)
    assert raised, "it waits for something that never comes"
    return raised[0]


# Whole folders


def test_a_whole_folder_and_all_that_the_project_ships_is_valid(whole):
    shipped = [PACKAGE / "embedded" / "default", PACKAGE / "embedded" / "source"]
    for folder in [whole, *shipped, CARDS / "stylegan2-source", CARDS / "adapter-sharingan15", whole / "adapter"]:
        validate(folder)
    assert hub.validate is validate


def test_other_files_are_no_reason_to_refuse(whole):
    (whole / "optimizer.bin").write_bytes(b"\x80\x04cos\nsystem\n")
    (whole / "generator_model" / "pytorch_model.bin").symlink_to("/etc/hostname")
    (whole / "setup.py").write_text("raise SystemExit")
    (whole / "<img src=x>\u202e.html").write_text("<script>")
    os.mkfifo(whole / "pipe")
    validate(whole)
    SharinganPipeline.from_pretrained(whole)


def bend(path: Path, change) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def first(tensors: dict[str, torch.Tensor]) -> str:
    return min(tensors)


WRONG = {
    "judge without weights": (lambda f: (f / "discriminator" / WEIGHTS).unlink(), "is missing"),
    "judge without config": (lambda f: (f / "discriminator/config.json").unlink(), "is missing"),
    "judge absurd": (lambda f: edit(f / "discriminator/config.json", channel_base=2**40), "which none has"),
    "judge deep": (lambda f: edit(f / "discriminator/config.json", num_layers=10**4), "which none has"),
    "judge nested": (lambda f: edit(f / "discriminator/config.json", resolution={"a": 1}), "which none has"),
    "judge NaN": (
        lambda f: bend(f / "discriminator" / WEIGHTS, lambda t: t[first(t)].fill_(float("nan"))),
        "holds NaN",
    ),
    "judge of whole numbers": (
        lambda f: bend(f / "discriminator" / WEIGHTS, lambda t: t.update({first(t): t[first(t)].int()})),
        "not floating-point",
    ),
    "judge with odd names": (
        lambda f: bend(f / "discriminator" / WEIGHTS, lambda t: t.update({"<b>../x": torch.ones(1)})),
        "which is no weight's name",
    ),
    "judge empty": (lambda f: bend(f / "discriminator" / WEIGHTS, lambda t: t.clear()), "holds no weights"),
    "ticket of another": (lambda f: write_ticket(f / "ticket.safetensors", tiny("StyleGAN2Generator")), "ticket"),
    "ticket cut": (
        lambda f: (f / "ticket.safetensors").write_bytes((f / "ticket.safetensors").read_bytes()[:-9]),
        "ticket.safetensors is damaged",
    ),
    "ticket NaN": (
        lambda f: bend(f / "ticket.safetensors", lambda t: t["fc.0.weight.values"].fill_(float("inf"))),
        "holds NaN or infinite",
    ),
    "report a list": (lambda f: (f / "report.json").write_text("[]"), "report.json must hold a JSON object"),
    "report NaN": (lambda f: (f / "report.json").write_text('{"fid": NaN}'), "report.json holds NaN"),
    "report infinite": (lambda f: (f / "report.json").write_text('{"fid": [1e999]}'), "report.json holds NaN"),
    "adapter without weights": (lambda f: (f / "adapter/adapter.safetensors").unlink(), "is missing"),
    "adapter a file": (lambda f: (shutil.rmtree(f / "adapter"), (f / "adapter").write_text("x")), "holds no adapter"),
    "adapter of another kind": (
        lambda f: edit(f / "adapter/adapter_config.json", base_class="os.system"),
        "is of an adapter for a 'os.system'; this version knows CoGANGenerator",
    ),
    "adapter of other ranks": (
        lambda f: edit(f / "adapter/adapter_config.json", tensors={"w_avg": 2}),
        "has no factors of rank 2 for w_avg",
    ),
    "adapter lacks": (
        lambda f: edit(f / "adapter/adapter_config.json", tensors={"w_avg": None, "const": None}),
        "lacks tensor|has an unknown tensor",
    ),
    "adapter's mix": (lambda f: edit(f / "adapter/adapter_config.json", order_probs=[2.0]), "shares that add up to 1"),
    "another class inside": (
        lambda f: edit(f / "generator_model/config.json", _class_name="StyleGAN2Generator"),
        "is of a 'StyleGAN2Generator', model_index.json says RadialGenerator",
    ),
}


@pytest.mark.parametrize("case", list(WRONG))
def test_what_is_wrong_with_any_part_is_told(whole, case):
    change, told = WRONG[case]
    change(whole)
    with pytest.raises(CheckpointError, match=told) as caught:
        validate(whole)
    sentence(caught)


# Settings


@families
def test_every_setting_has_its_range_and_the_default_lies_in_it(family):
    parameters = inspect.signature(getattr(sharingan_hub, family).__init__).parameters
    defaults = {name: p.default for name, p in parameters.items() if name != "self"}
    assert defaults.keys() == SETTINGS[family].keys() and family in folders.ACTIVATION
    for name, default in json.loads(json.dumps(defaults)).items():
        assert SETTINGS[family][name].allow(default), name
    assert build(family, {}).resolution == defaults["resolution"]


@families
def test_settings_of_another_type_or_outside_their_range_are_refused(family):
    for name, allowed in SETTINGS[family].items():
        if isinstance(allowed, Switch):
            continue
        low, high = allowed.low, allowed.high
        wrong = [
            True,
            "8",
            {"a": 1},
            [[1]],
            [True],
            [],
            [low] * 65,
            low - 1,
            high + 1,
            float("nan"),
            float("inf"),
            10**19,
        ]
        wrong += [] if allowed.optional else [None]
        wrong += [low + 0.5, float(low)] if allowed.whole else []
        wrong += [low] if allowed.longest else [[low]]
        for value in wrong:
            with pytest.raises(CheckpointError, match=f"does not describe a {family}: {name} = ") as caught:
                build(family, {**TINY[family], name: value})
            sentence(caught)


def test_numbers_say_what_they_allow():
    assert str(Numbers(1, 4)) == "a whole number from 1 to 4"
    assert str(Numbers(0, 1, whole=False, optional=True, longest=3)) == "a list of 1 to 3 numbers from 0 to 1, or null"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"order_probs": [0.5, 0.5]}, "order_probs has 2 numbers; it must have one for each order 1 to 3"),
        ({"order_probs": [0, 0, 0.0]}, "order_probs are all 0"),
        ({"num_frame_masks": 2}, "at least one ground mask is needed"),
        ({"<img src=x onerror=alert(1)>": 1}, r"it has no setting '\\x3cimg src=x onerror"),
        ({"a" * 1000: 1}, "it has no setting 'aaa"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changed, told):
    with pytest.raises(CheckpointError, match=told) as caught:
        build("RadialGenerator", {**TINY["RadialGenerator"], **changed})
    sentence(caught)


@pytest.mark.parametrize(
    ("family", "changed", "told"),
    [
        ("DCGANGenerator", {"norm_first": None}, "norm_first = None, which no generator has; it must be true or false"),
        ("DCGANGenerator", {"norm_first": 1}, "norm_first = 1, which no generator has; it must be true or false"),
        ("StyleGAN2Generator", {"attention_replaces": "yes"}, "it must be true or false"),
        ("CoGANGenerator", {"shared_layers": 9}, "shared_layers is 9; it must be from 0 to 4"),
        ("R3GANGenerator", {"blocks": 17}, "blocks = 17, which no generator has"),
    ],
)
def test_settings_of_the_other_families_are_checked(family, changed, told):
    with pytest.raises(CheckpointError, match=told) as caught:
        build(family, changed)
    sentence(caught)


@pytest.mark.parametrize(
    ("family", "large", "told"),
    [
        ("StyleGAN2Generator", {"w_dim": 8192, "mapping_layers": 64}, "weights; at most 200,000,000 are opened"),
        ("StyleGAN2Generator", {"resolution": 1024, "channel_base": 2**20, "channel_max": 8192}, "weights; at most"),
        ("RadialGenerator", {"channels": [4096] * 8}, "weights; at most"),
        ("RadialGenerator", {"mapping_width": 8192, "mapping_layers": 64}, "weights; at most"),
        ("DCGANGenerator", {"channels": 8192, "channel_max": 8192}, "weights; at most"),
        ("R3GANGenerator", {"channels": 4096, "channel_max": 4096, "blocks": 16}, "weights; at most"),
        # few weights, and 80 GB at the first picture
        ("DCGANGenerator", {"resolution": 1024, "channels": 512, "channel_max": 512}, "numbers in a layer; at most"),
        ("CoGANGenerator", {"resolution": 512, "channels": 1, "attention": 256}, "numbers in a layer; at most"),
        ("R3GANGenerator", {"resolution": 1024}, "numbers in a layer; at most"),
        (
            "StyleGAN2Generator",
            {"resolution": 128, "channel_base": 128, "attention": 128},
            "numbers in a layer; at most",
        ),
        (
            "RadialGenerator",
            {"channels": [1] * 8, "base_radius": 256, "base_angle": 256},
            "numbers in a layer; at most",
        ),
        (
            "StyleGAN2Generator",
            {"resolution": 1024, "w_dim": 1, "z_dim": 1, "channel_base": 2**17, "channel_max": 64},
            "numbers in a layer; at most",
        ),
    ],
)
def test_a_small_config_asks_for_no_large_network(family, large, told):
    with pytest.raises(CheckpointError, match=told) as caught:
        build(family, large)
    sentence(caught)


def test_the_ceilings_let_the_field_s_largest_pass():
    """StyleGAN2 in configuration F at 1024 px."""
    model = build("StyleGAN2Generator", {"resolution": 1024, "channel_base": 32768, "mapping_layers": 8})
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    assert folders.ACTIVATION["StyleGAN2Generator"](model.config) == folders.MAX_ACTIVATION


@settings(max_examples=40)
@given(data=st.data())
def test_what_is_allowed_also_draws_a_picture(data):
    """Every setting near the lower end of its range: a network that opens can be used."""
    family = data.draw(st.sampled_from(sorted(SETTINGS)))
    chosen = {}
    for name, allowed in SETTINGS[family].items():
        if isinstance(allowed, Switch):
            chosen[name] = data.draw(st.booleans(), label=name)
            continue
        top = min(allowed.high, {"resolution": 64, "extent": 4.0}.get(name, allowed.low + 3))
        one = st.integers(int(allowed.low), int(top)) if allowed.whole else st.floats(allowed.low, top)
        few = st.lists(one, min_size=1, max_size=3) if allowed.longest else one
        chosen[name] = data.draw(st.none() | few if allowed.optional else few, label=name)
    try:
        build(family, chosen)
    except CheckpointError:
        return
    pipe = SharinganPipeline(getattr(sharingan_hub, family)(**chosen).eval())
    images = pipe(seeds=[0], output_type="pt").images
    assert images.shape == (1, 3, chosen["resolution"], chosen["resolution"])


# Sizes


@families
def test_the_configuration_alone_says_how_large_the_weights_may_be(family, tmp_path):
    SharinganPipeline(tiny(family, z_dim=300)).save_pretrained(tmp_path)
    weights = tmp_path / "generator_model" / WEIGHTS
    real = weights.stat().st_size
    assert real <= expected_bytes(tmp_path) <= real + strict.MAX_HEADER_BYTES
    weights.unlink()
    (tmp_path / "model_index.json").unlink()
    assert expected_bytes(tmp_path) >= real
    wide = {"z_dim": 8192, "channels": 8192, "channel_max": 8192}
    deep = {"mapping_layers": 60, "mapping_width" if family == "RadialGenerator" else "mapping_dim": 8192}
    edit(tmp_path / "generator_model/config.json", **(deep if "mapping_layers" in TINY[family] else wide))
    with pytest.raises(CheckpointError, match="at most 200,000,000 are opened"):
        expected_bytes(tmp_path)
    (tmp_path / "generator_model/config.json").write_text('{"_class_name": ["os", "system"]}')
    with pytest.raises(CheckpointError, match="this version knows"):
        expected_bytes(tmp_path)


READING = """
import re, sys
from pathlib import Path
import torch
from sharingan_hub.checkpoints import folder
torch.set_num_threads(1)
small, large, action = sys.argv[1:]
act = folder.read_generator if action == "read" else folder.validate
act(Path(small))
Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = peak()
act(Path(large))
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells and resets the peak")
@pytest.mark.parametrize(
    ("action", "dtype"), [("read", torch.float32), ("read", torch.bfloat16), ("check", torch.float32)]
)
def test_memory_is_taken_for_the_weights_and_hardly_more(tmp_path, action, dtype):
    """Peak of the process, in bytes; one tensor is nearly all of the network, which is the hardest case."""
    SharinganPipeline(tiny("StyleGAN2Generator")).save_pretrained(tmp_path / "small")
    large = tiny("StyleGAN2Generator", mapping_layers=2, z_dim=5000, mapping_dim=5000)
    SharinganPipeline(large.to(dtype)).save_pretrained(tmp_path / "large")
    size = 4 * sum(tensor.numel() for tensor in large.state_dict().values())
    command = [sys.executable, "-c", READING, tmp_path / "small", tmp_path / "large", action]
    took = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert took <= (1.25 * size if action == "read" else 0.25 * size)


# Places


@pytest.mark.parametrize("name", ["model_index.json", "generator_model/config.json", f"generator_model/{WEIGHTS}"])
def test_named_pipes_devices_and_folders_are_refused_and_not_waited_for(whole, name):
    for make in (os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)):
        path = whole / name
        path.rmdir() if path.is_dir() else path.unlink()
        make(path)
        for action in (validate, SharinganPipeline.from_pretrained):
            error = in_time(action, whole)
            assert isinstance(error, CheckpointError), error
            assert "no ordinary file" in str(error) or "leads out" in str(error) or "is missing" in str(error)


READ = [
    "model_index.json",
    "generator_model",
    "generator_model/config.json",
    f"generator_model/{WEIGHTS}",
    "discriminator",
    "discriminator/config.json",
    f"discriminator/{WEIGHTS}",
    "ticket.safetensors",
    "report.json",
    "adapter",
    "adapter/adapter_config.json",
    "adapter/adapter.safetensors",
]


@pytest.mark.parametrize("name", READ)
def test_links_that_lead_out_of_the_folder_are_not_followed(whole, tmp_path, name):
    (whole / name).rename(tmp_path / "outside")
    (whole / name).symlink_to(tmp_path / "outside")
    with pytest.raises(CheckpointError, match="is a link that leads out of its folder") as caught:
        validate(whole)
    assert str(tmp_path) not in sentence(caught)
    (whole / name).unlink()
    (whole / name).symlink_to(whole / name)  # a ring
    with pytest.raises(CheckpointError):
        validate(whole)


def test_links_inside_the_folder_and_to_the_folder_are_followed(whole, tmp_path):
    (whole / "generator_model" / WEIGHTS).rename(whole / "generator_model" / "real")
    (whole / "generator_model" / WEIGHTS).symlink_to("real")
    (tmp_path / "link").symlink_to(whole)
    validate(tmp_path / "link")


def test_the_links_of_the_hub_s_cache_are_followed_and_no_others(whole, tmp_path):
    """Files are links to blobs of the repository, or of the store that all repositories share."""
    repository = tmp_path / "cache" / "models--user--eyes"
    snapshot, stores = (
        repository / "snapshots" / ("a" * 40),
        [repository / "blobs", tmp_path / "cache" / "blobs" / "ab"],
    )
    for number, name in enumerate(name for name in READ if (whole / name).is_file()):
        blob = stores[number % 2] / str(number)
        for path in (blob, snapshot / name):
            path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(whole / name, blob)
        (snapshot / name).symlink_to(os.path.relpath(blob, (snapshot / name).parent))
    validate(snapshot)
    SharinganPipeline.from_pretrained(snapshot)
    (snapshot / "report.json").unlink()
    (snapshot / "report.json").symlink_to(whole / "report.json")
    with pytest.raises(CheckpointError, match="^report.json is a link that leads out of its folder"):
        validate(snapshot)


def test_generators_are_known_by_their_classes():
    kinds = (CoGANGenerator, DCGANGenerator, R3GANGenerator, RadialGenerator, StyleGAN2Generator)
    assert set(hub.KNOWN_GENERATORS) == {kind.__name__ for kind in kinds}
