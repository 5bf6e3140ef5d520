"""Adapters from the Hub: fetched by their ids, laid over a base, and opened with the base that they name."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch

from sharingan_hub import SharinganPipeline, StyleGAN2Generator, hub
from sharingan_hub.checkpoints import blend
from sharingan_hub.checkpoints.adapters import CONFIG, make_adapter, name_of
from sharingan_hub.checkpoints.folder import CheckpointError
from tests.loopback_hub import LoopbackHub

CARDS = Path(__file__).parents[3] / "model_cards"
BASE, ADAPTER = "maker/base", "other/fine-tune"


# Each line of this YAML stands for nine times the one before it.
BOMB = "\n".join(
    ["---", "a0: &a0 {k: v}", *(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 30)), "---"]
).encode()


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def models() -> tuple[SharinganPipeline, SharinganPipeline]:
    """A base and a fine-tune of it."""
    torch.manual_seed(0)
    base = StyleGAN2Generator(z_dim=8, w_dim=8, resolution=16, mapping_layers=1, channel_base=64, channel_max=4).eval()
    adapted = copy.deepcopy(base)
    for parameter in adapted.parameters():
        parameter.data += torch.randn(parameter.shape)
    return SharinganPipeline(base), SharinganPipeline(adapted)


@pytest.fixture
def folders(models, tmp_path) -> Path:
    base, adapted = models
    base.save_pretrained(tmp_path / "base")
    make_adapter(base.generator_model, adapted.generator_model, tmp_path / "adapter", base_model=BASE)
    return tmp_path


@pytest.fixture
def served(loopback, folders) -> LoopbackHub:
    """A Hub with the base of one maker and the adapter of another."""
    loopback.add(BASE, files_of(folders / "base"))
    loopback.add(ADAPTER, files_of(folders / "adapter"))
    return loopback


def rename_base(served: LoopbackHub, name: object, **more: bytes) -> None:
    """Make the adapter on the Hub name another base."""
    files = served.repos[ADAPTER].files
    config = json.loads(files[CONFIG]) | {"base_model": name}
    served.add(ADAPTER, {**files, CONFIG: json.dumps(config).encode(), **more})


def pictures(pipe: SharinganPipeline) -> torch.Tensor:
    images = pipe(seeds=range(3), output_type="pt").images
    assert isinstance(images, torch.Tensor)
    return images


def assert_adapted(pipe: SharinganPipeline, models) -> None:
    base, adapted = models
    assert (pictures(pipe) - pictures(adapted)).abs().max() < 2 / 255
    assert (pictures(pipe) - pictures(base)).abs().max() > 20 / 255
    pipe.unload_adapter()
    assert torch.equal(pictures(pipe), pictures(base))


def test_an_adapter_is_fetched_by_its_id_and_called_by_it(served, models):
    pipe = SharinganPipeline.from_pretrained(BASE)
    pipe.load_adapter(ADAPTER, 0.5)
    pipe.load_adapter(ADAPTER)
    assert pipe.adapters == {ADAPTER: 1.0}
    assert_adapted(pipe, models)


def test_a_repository_of_an_adapter_opens_with_its_base(served, models):
    pipe = SharinganPipeline.from_pretrained(ADAPTER, dtype=torch.float32)
    assert pipe.adapters == {ADAPTER: 1.0}
    assert_adapted(pipe, models)
    low = SharinganPipeline.from_pretrained(ADAPTER, dtype=torch.bfloat16)
    assert low.generator_model.dtype == torch.bfloat16 and low.adapters == {ADAPTER: 1.0}


def test_a_local_adapter_opens_with_its_base_on_the_hub(served, folders, models):
    pipe = SharinganPipeline.from_pretrained(folders / "adapter")
    assert_adapted(pipe, models)


def test_revisions_are_honoured(served, models):
    old = served.repos[ADAPTER].head.sha
    rename_base(served, "maker/gone")
    with pytest.raises(hub.RepositoryError, match="There is no model maker/gone"):
        SharinganPipeline.from_pretrained(ADAPTER)
    assert_adapted(SharinganPipeline.from_pretrained(ADAPTER, revision=old), models)
    pipe = SharinganPipeline.from_pretrained(BASE)
    pipe.load_adapter(ADAPTER, revision=old)
    assert_adapted(pipe, models)
    with pytest.raises(hub.RepositoryError, match="has no revision nowhere"):
        pipe.load_adapter(ADAPTER, revision="nowhere")


def test_private_adapters_and_bases_take_a_token(loopback, folders, models):
    loopback.add(BASE, files_of(folders / "base"), private=True)
    loopback.add("maker/adapter", files_of(folders / "adapter"), private=True)
    assert_adapted(SharinganPipeline.from_pretrained("maker/adapter", token="hf_maker"), models)
    pipe = SharinganPipeline.from_pretrained(BASE, token="hf_maker")
    for token in (None, "hf_visitor"):
        with pytest.raises(hub.RepositoryError, match="or it is private"):
            pipe.load_adapter("maker/adapter", token=token)
    pipe.load_adapter("maker/adapter", token="hf_maker")
    assert_adapted(pipe, models)


def test_cached_adapters_need_no_network(served, models):
    SharinganPipeline.from_pretrained(ADAPTER)
    served.requests.clear()
    pipe = SharinganPipeline.from_pretrained(ADAPTER, local_files_only=True)
    pipe.load_adapter(ADAPTER, 0.5, local_files_only=True)
    pipe.load_adapter(ADAPTER, local_files_only=True)
    assert_adapted(pipe, models)
    assert not served.requests


def test_an_adapter_beside_a_checkpoint_is_found_there(loopback, folders, models):
    """As training leaves it: the repository is a checkpoint, and its folder adapter is what it changed of its base."""
    models[1].save_pretrained(folders / "both")
    shutil.copytree(folders / "adapter", folders / "both" / "adapter")
    loopback.add("maker/both", files_of(folders / "both"))
    for place in ("maker/both", folders / "both"):
        pipe = copy.deepcopy(models[0])
        pipe.load_adapter(place)
        assert pipe.adapters == {"maker/both" if place == "maker/both" else "both": 1.0}
        assert_adapted(pipe, models)
    whole = SharinganPipeline.from_pretrained("maker/both")
    assert whole.adapters == {} and torch.equal(pictures(whole), pictures(models[1]))


@pytest.mark.parametrize(
    "card",
    [
        "---\nbase_model: maker/base\n---\n",
        "---\nbase_model:\n- maker/base\n---\n# Title\n",
        "---\r\nbase_model:\r\n  - 'maker/base'\r\ntags:\r\n  - a\r\n---\r\n",
        "---\nbase_model: source\n---",
    ],
)
def test_the_card_says_what_the_base_is_where_the_configuration_does_not(served, models, card):
    rename_base(served, None, **{"README.md": card.encode()})
    if "source" in card:
        with pytest.raises(CheckpointError, match="is of an adapter for another base"):
            SharinganPipeline.from_pretrained(ADAPTER)
    else:
        assert_adapted(SharinganPipeline.from_pretrained(ADAPTER), models)


@pytest.mark.parametrize(
    "card",
    [
        b"",
        b"---\nbase_model: [maker/base, maker/other]\n---\n",
        b"---\nbase_model: {a: maker/base}\n---\n",
        b"---\nbase_model: ../base\n---\n",
        b"---\nbase_model: !!python/object/apply:os.system ['touch marker']\n---\n",
        b"---\n" + b"[" * 60_000 + b"\n---\n",
        b"---\ntitle: x\n---\nbase_model: maker/base\n",
        b"base_model: maker/base\n",
        BOMB,
        b"\xff\xfe",
    ],
)
def test_cards_that_do_not_help(folders, card, monkeypatch):
    monkeypatch.chdir(folders)
    config = folders / "adapter" / CONFIG
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model": None}))
    (folders / "adapter" / "README.md").write_bytes(card)
    with pytest.raises(CheckpointError, match="adapter_config.json names no base: open its base with from_pretrained"):
        SharinganPipeline.from_pretrained(folders / "adapter")
    assert not (folders / "marker").exists()


def test_bases_inside_the_package_are_known_by_name(loopback):
    files = files_of(CARDS / "adapter-sharingan15")
    assert json.loads(files[CONFIG])["base_model"] == "sharingan_hub/embedded/source"
    loopback.add("maker/sharingan", files)
    pipe, default = SharinganPipeline.from_pretrained("maker/sharingan"), SharinganPipeline.from_pretrained()
    assert pipe.adapters == {"maker/sharingan": 1.0}
    made = [one(seeds=range(2), output_size=64, output_type="pt").images for one in (pipe, default)]
    assert (made[0] - made[1]).abs().max() < 2 / 255
    assert all((folder / "model_index.json").is_file() for folder in blend.EMBEDDED.values())


@pytest.mark.parametrize(
    "name", ["{here}/base", "base", "./base", "../base", "~/base", "a/b/c", "", "x/..", "file:base"]
)
def test_strangers_name_no_folder_of_this_disk(served, folders, monkeypatch, name):
    """The folder is there, and is the very base that the adapter is of."""
    (folders / "below").mkdir()
    monkeypatch.chdir(folders / "below" if name.startswith("..") else folders)
    monkeypatch.setenv("HOME", str(folders))
    rename_base(served, name.format(here=folders))
    with pytest.raises(hub.HubError, match="which is no Hub id|is no Hub id") as caught:
        SharinganPipeline.from_pretrained(ADAPTER)
    assert "\n" not in str(caught.value)


def test_an_id_is_looked_for_on_the_hub_even_where_a_folder_is_called_so(served, folders, monkeypatch):
    shutil.copytree(folders / "base", folders / "someone" / "base")
    monkeypatch.chdir(folders)
    rename_base(served, "someone/base")
    with pytest.raises(hub.RepositoryError, match="There is no model someone/base on the Hub"):
        SharinganPipeline.from_pretrained(ADAPTER)


@pytest.mark.parametrize("base", [ADAPTER, "third/adapter"])
def test_a_base_is_no_adapter(served, base):
    served.add("third/adapter", served.repos[ADAPTER].files)
    rename_base(served, base)
    served.requests.clear()
    with pytest.raises(CheckpointError, match=f"{ADAPTER} is an adapter of {base}, which is .* an adapter itself"):
        SharinganPipeline.from_pretrained(ADAPTER)
    assert not [request for request in served.requests if BASE in request.path]


def test_another_base_than_the_adapter_was_made_for_is_refused(served, folders):
    torch.manual_seed(1)
    other = StyleGAN2Generator(z_dim=8, w_dim=8, resolution=16, mapping_layers=1, channel_base=64, channel_max=4)
    SharinganPipeline(other).save_pretrained(folders / "other")
    served.add(BASE, files_of(folders / "other"))
    with pytest.raises(CheckpointError, match="is of an adapter for another base: it wants the StyleGAN2Generator"):
        SharinganPipeline.from_pretrained(ADAPTER)


def test_names_of_adapters():
    assert name_of(Path("/x/models--user--fine-tune/snapshots/abc")) == "user/fine-tune"
    assert name_of(Path("/x/models--user--eyes/snapshots/abc/adapter")) == "user/eyes"
    assert name_of(Path("/runs/mine/adapter")) == "mine" and name_of(Path("/runs/mine")) == "mine"
