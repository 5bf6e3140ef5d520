"""Cards say what a folder holds and what was measured, in words that a stranger understands, and nothing more."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.utils import validate_repo_id
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sharingan_hub import CoGANGenerator, RadialGenerator, SharinganPipeline, StyleGAN2Generator, hub
from sharingan_hub.cards import build_card, figure, metrics_table, update_card, write_card
from sharingan_hub.checkpoints.adapters import make_adapter
from sharingan_hub.checkpoints.ticket import write_ticket

ROOT = Path(__file__).parents[3]
SMALL = {"z_dim": 8, "w_dim": 8, "channels": (8,), "base_radius": 4, "base_angle": 8, "resolution": 64}
EVALUATION = {
    "features": "domain",
    "samples": 2000,
    "seeds": [0, 1999],
    "truncation_psi": 1.0,
    "train_data": "training/data/sharingan15",
    "reference": "emblems:sharingan",
    "reference_samples": 10_000,
    "rows": {
        "this model": {
            "fid": [34.21, 0.71],
            "kid": [2.741, 0.0512],
            "recall": [0.706, 0.0101],
            "data_copying": [None, None],
        },
        "training pictures": {"fid": [89.6, 1.32], "kid": [3.82, 0.021], "recall": [0.0, 0.0]},
        "true draws": {"fid": [0.512, 0.112], "kid": [-0.0102, 0.0151], "recall": [0.983, 0.0032]},
    },
}
REPORT = {
    "steps": 1400,
    "images": 22400,
    "minutes": 11.87,
    "processes": 2,
    "hardware": {"kind": "cpu", "name": "A Fine CPU 9000", "count": 2},
    "energy_wh": 5.94,
    "energy_estimate": "11.87 minutes of 2 busy cores at 15 W each (assumed, board and power supply included)",
    "versions": {"torch": "2.13.0", "diffusers": "0.42.1"},
    "base_model": "someone/source",
    "train_data": "someone/pictures",
    "pictures": 15,
    "before": {"images": 112000, "minutes": 29},
    "recipe": {
        "train_data": "someone/pictures",
        "base_model": "someone/source",
        "output_dir": "/home/me/secret/run",
        "resolution": 128,
        "batch_size": 16,
        "objective": "non_saturating",
        "regularizers": ["r1"],
        "augment": "diffaugment",
        "augmentations": ["rotation", "cutout"],
        "freeze_generator": ["fc.[0-3].*|mapping"],
        "learning_rate": 0.002,
        "threads": 7,
    },
    "evaluation": EVALUATION,
}


def generator(family: type = RadialGenerator) -> Any:
    torch.manual_seed(0)
    if family is RadialGenerator:
        return RadialGenerator(**SMALL, order_probs=[1, 1, 1, 1, 1, 1, 0, 0])
    return StyleGAN2Generator(z_dim=8, w_dim=8, resolution=16, channel_base=64, channel_max=8)


def checkpoint(folder: Path, report: dict | None = None, family: type = RadialGenerator) -> Path:
    SharinganPipeline(generator(family)).save_pretrained(folder)
    if report is not None:
        (folder / "report.json").write_text(json.dumps(report))
    return folder


def pictures(folder: Path, *names: str) -> None:
    (folder / "samples").mkdir(exist_ok=True)
    for name in names:
        Image.new("RGB", (8, 8)).save(folder / "samples" / name)


@pytest.fixture
def full(tmp_path) -> Path:
    folder = checkpoint(tmp_path / "mine", REPORT)
    pictures(folder, "grid.png", "nearest.png", "preview.png", "evaluation.png", "step_00000100.png")
    return folder


def adapter(folder: Path, base_model: str | None = "someone/source") -> Path:
    base, adapted = generator(), generator()
    with torch.no_grad():
        adapted.palette_head.bias += 0.1
    make_adapter(base, adapted, folder, base_model=base_model)
    return folder


def part(card: Any, name: str) -> str:
    return re.search(f"begin {name} [0-9a-f]+ -->(.*?)<!-- sharingan-hub:end {name}", str(card), re.DOTALL)[1]  # type: ignore[index]


def leaves(value: Any) -> list[float]:
    """All numbers of a JSON value, those within its texts and the names of its keys too."""
    if isinstance(value, dict):
        return [number for item in value.items() for half in item for number in leaves(half)]
    if isinstance(value, list):
        return [number for item in value for number in leaves(item)]
    if isinstance(value, str):
        return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", value)]
    return [] if value is None or isinstance(value, bool) else [float(value)]


def unknown_numbers(text: str, known: list[float]) -> list[str]:
    """Numbers of a text that are none of the known ones rounded to as many digits."""
    found = re.findall(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?(?![\w])", text)

    def fits(shown: str) -> bool:
        value, digits = float(shown.replace(",", "")), len(shown.partition(".")[2])
        return any(abs(value - number) <= 0.5001 * 10.0**-digits for number in known)

    return [shown for shown in found if not fits(shown)]


# Metadata


def test_metadata_is_what_the_hub_and_diffusers_look_for(full):
    data = ModelCard(str(build_card(full, "user/mine"))).data
    assert data.library_name == "diffusers" and data.pipeline_tag == "unconditional-image-generation"
    assert data.license == "apache-2.0" and data.tags == ["sharingan-hub", "gan", "few-shot"]
    assert data.base_model == "someone/source" and data.base_model_relation == "finetune"
    assert data.datasets == ["someone/pictures"] and data.resolution == 64 and data.title == "mine"


def test_each_figure_of_the_evaluation_is_in_the_model_index_with_its_error(full):
    results = ModelCard(str(build_card(full))).data.eval_results
    assert {(r.metric_type, r.metric_value) for r in results} == {
        ("kid", "2.74 ± 0.05"),
        ("fid", "34.2 ± 0.7"),
        ("recall", "0.706 ± 0.010"),
    }
    fid = next(r for r in results if r.metric_type == "fid")
    assert (
        fid.metric_args == {"value": 34.21, "standard_error": 0.71}
        and fid.metric_name == "FID (project's own features)"
    )
    assert fid.dataset_name == "emblems:sharingan" and fid.dataset_args["samples"] == 2000
    assert re.fullmatch(r"[\w.\-/]+", fid.dataset_type)


@pytest.mark.parametrize(
    "name", ["sharingan_hub/embedded/source", "runs", "", None, "a/b/c", "user/na me", "../x/y", "user/x.git"]
)
def test_a_base_model_or_data_set_that_is_no_hub_id_is_not_in_the_metadata(tmp_path, name):
    report = REPORT | {"base_model": name, "train_data": name}
    data = build_card(checkpoint(tmp_path, report)).data.to_dict()
    assert not {"base_model", "base_model_relation", "datasets"} & data.keys()


def test_of_an_older_report_the_recipe_tells_unless_it_names_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    report = {"recipe": {"base_model": "runs/first", "train_data": "someone/pictures"}}
    folder = checkpoint(tmp_path / "mine", report)
    assert build_card(folder).data.base_model == "runs/first"
    (tmp_path / "runs" / "first").mkdir(parents=True)
    card = build_card(folder)
    assert card.data.get("base_model") is None and "| started from | `first` |" in str(card)
    assert card.data.datasets == ["someone/pictures"]


def test_the_tags_say_what_it_is(tmp_path):
    radial = checkpoint(tmp_path / "radial")
    assert build_card(radial).data.tags == ["sharingan-hub", "gan"]
    write_ticket(radial / "ticket.safetensors", generator())
    assert "lottery-ticket" in build_card(radial).data.tags
    assert "stylegan2" in build_card(checkpoint(tmp_path / "other", family=StyleGAN2Generator)).data.tags
    pair = tmp_path / "pair"
    SharinganPipeline(CoGANGenerator(z_dim=4, resolution=16, channels=2)).save_pretrained(pair)
    assert "cogan" in build_card(pair).data.tags and "in pairs of two domains" in str(build_card(pair))
    endless = REPORT | {"train_data": "emblems:source", "pictures": None}
    assert "few-shot" not in build_card(checkpoint(tmp_path / "endless", endless)).data.tags


@pytest.mark.parametrize("repo_id", ["no-slash", "a/b/c", "user/x y", "../up", "user/<b>", 'u/"); import os'])
def test_a_repository_that_cannot_be_is_refused(full, repo_id):
    with pytest.raises(ValueError, match="repo_id must be a Hub id such as 'user/name', got"):
        build_card(full, repo_id)


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(hub.CheckpointError, match="neither a checkpoint nor an adapter"):
        build_card(tmp_path)


# Text


def test_the_card_shows_pictures_recipe_cost_and_figures(full):
    card = build_card(full, "user/mine")
    assert "# mine" in part(card, "introduction") and "(samples/grid.png)" in part(card, "introduction")
    making = part(card, "making")
    for row in (
        "| training data | [someone/pictures](https://huggingface.co/datasets/someone/pictures), 15 pictures |",
        "| started from | [someone/source](https://huggingface.co/someone/source) |",
        "| loss | `non_saturating`, `r1` |",
        "| augmentation | diffaugment: `rotation`, `cutout` |",
        r"| not trained | `fc.[0-3].*\|mapping` |",
        "| steps | 1,400 of 16 pictures at 128 px |",
        "| pictures seen | 22,400; 112,000 before that, by the models that it started from |",
        "| time | 12 minutes, in 2 processes; 29 minutes before that, by the models that it started from |",
        "| hardware | A Fine CPU 9000, 2 cores |",
        "| energy | about 5.9 Wh, an estimate: 11.87 minutes of 2 busy cores",
        "| software | torch 2.13.0, diffusers 0.42.1 |",
        "(samples/preview.png)",
        "learning_rate: 0.002",
    ):
        assert row in making, row
    assert "secret" not in str(card) and "threads" not in making  # where a run was is nobody's business
    measured = part(card, "measurements")
    assert metrics_table(EVALUATION) in measured and "floor" in measured and "(samples/nearest.png)" in measured
    first, last = EVALUATION["seeds"]
    assert (
        f"accelerate launch training/evaluate.py --model user/mine \\\n  --reference {EVALUATION['reference']} "
        f"--reference_samples {EVALUATION['reference_samples']} \\\n  --samples {last - first + 1} --seed {first} "
        f"--truncation_psi {EVALUATION['truncation_psi']:g} --features domain\n"
    ) in measured
    assert "evaluation.png" not in measured  # the same pictures, and the figures of the table
    limits = part(card, "limits")
    assert "15 pictures teach a style" in limits and "Orders 7 and 8 are not among" in limits
    assert "Fan-made" in limits and "not affiliated with or endorsed by its owners" in limits


def test_every_number_on_the_card_is_in_the_report_or_the_weights(full):
    card, config = build_card(full, "user/mine"), json.loads((full / "generator_model" / "config.json").read_text())
    count = sum(tensor.numel() for tensor in generator().state_dict().values())
    known = (
        leaves(REPORT) + leaves(config) + [count / 1e6, 1.0, 99.0]
    )  # an order of 1; 99 % is the definition of copying
    known += [*range(1, 9)]  # orders
    for name in ("introduction", "making", "measurements"):
        assert unknown_numbers(part(card, name), known) == [], name
    assert unknown_numbers("KID 2.75 ± 0.06, 1,401 steps", known) == ["2.75", "0.06", "1,401"]  # the check can fail


def test_without_a_report_nothing_is_said_to_be_measured(tmp_path):
    for family in (RadialGenerator, StyleGAN2Generator):
        card = build_card(checkpoint(tmp_path / family.__name__, family=family))
        assert "Not measured." in part(card, "measurements") and "not recorded" in part(card, "making")
        assert f"| generator | {family.__name__}, " in part(card, "making") and "±" not in str(card)
        assert ModelCard(str(card)).data.eval_results is None
        assert "Fan-made" in str(card) and 'from_pretrained("' in part(card, "use")


def test_the_last_grid_of_training_stands_in_for_the_grid(tmp_path):
    folder = checkpoint(tmp_path)
    pictures(folder, "step_00000100.png", "step_00000200.png", "step_hacked!.png", "evaluation.png")
    assert "(samples/step_00000200.png)" in part(build_card(folder), "introduction")
    assert "(samples/evaluation.png)" in part(build_card(folder), "measurements")


def test_a_ticket_says_how_sparse_it_is(tmp_path):
    folder = checkpoint(tmp_path, REPORT | {"sparsity": 0.75})
    size = write_ticket(folder / "ticket.safetensors", generator())
    assert f"75.0% of the weights that may be pruned are zero; `ticket.safetensors`, {size / 1000:,.0f} kB" in str(
        build_card(folder)
    )


@pytest.mark.parametrize("base_model", ["someone/source", "sharingan_hub/embedded/source", "other", None])
def test_an_adapters_card_opens_it_over_its_base(tmp_path, base_model):
    folder = adapter(tmp_path / "mine" / "adapter", base_model)
    (folder / "report.json").write_text(json.dumps({"adapter": {"error": 2.1e-4}, "steps": 3}))
    card = build_card(folder, "user/mine")
    known = base_model and "/" in base_model
    assert card.data.tags == ["sharingan-hub", "gan", "few-shot", "adapter"]
    assert card.data.get("base_model") == (base_model if base_model == "someone/source" else None)
    assert card.data.get("base_model_relation") == ("adapter" if base_model == "someone/source" else None)
    use = part(card, "use")
    assert ('from_pretrained("user/mine")' in use) == bool(known)
    assert ('load_adapter("user/mine")' in use) != bool(known)
    assert "| left out | 2.1e-04 of the change |" in part(card, "making") and "DiffusionPipeline" not in use
    assert "# mine" in str(build_card(folder))  # not "adapter"


@pytest.mark.parametrize("family", [RadialGenerator, StyleGAN2Generator])
def test_the_python_on_the_card_runs(tmp_path, monkeypatch, family):
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(
        r"```python\n(.*?)```", str(build_card(checkpoint(tmp_path / "mine", family=family))), re.DOTALL
    )
    assert len(snippets) == 2
    exec(snippets[0].replace("1024", "32"), {})
    with Image.open(tmp_path / "7.png") as picture:
        assert picture.width == (32 if family is RadialGenerator else 16)
    compile(snippets[1], "card", "exec")


def test_the_embedded_models_are_opened_by_the_name_that_finds_them():
    assert "SharinganPipeline.from_pretrained()\n" in str(build_card(hub.DEFAULT))
    assert 'from_pretrained("sharingan_hub/embedded/source")' in str(build_card(hub.DEFAULT.parent / "source"))
    assert 'from_pretrained("user/x")' in str(build_card(hub.DEFAULT, "user/x"))


def test_words_for_the_card_come_from_the_report(tmp_path):
    words = {"title": "Fire", "introduction": "Like *this*.", "method": "By hand.", "limits": "Many."}
    card = build_card(checkpoint(tmp_path, {"card": words}), "user/mine")
    assert card.data.title == "Fire" and "# Fire\n\nLike *this*." in str(card)
    assert "By hand." in part(card, "making") and "Many." in part(card, "limits")


# Strangers

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[x](javascript:alert(1))",
    "x\n---\nlicense: evil\n---\n",
    "x`\n```\n# Heading\n<b>",
    "a | b |\n| c",
    "<!-- sharingan-hub:end making --> out",
    "{{ 7 * 7 }}{% raw %}",
    "'); import os; os.system('true') #",
    '"); print("broken out',
    "!!python/object/apply:os.system ['true']",
    "\u202egnp.exe\u200b\x1b[31m",
    "user/x: y\nbase_model: z",
    "x" * 3_000,
]


def spoiled(value: Any, text: str) -> Any:
    """A report of which all texts are replaced, and all keys but those that are looked for joined by another."""
    if isinstance(value, dict):
        return {key: spoiled(item, text) for key, item in value.items()} | {text: text}
    if isinstance(value, list):
        return [spoiled(item, text) for item in value]
    return text if isinstance(value, str) else value


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_text_cannot_break_out(tmp_path, text):
    report = spoiled(REPORT, text)
    report["evaluation"]["rows"] |= {"this model": EVALUATION["rows"]["this model"], text: {"fid": [1.0, 0.1]}}
    report["evaluation"]["features"] = "domain"
    report["card"] = {name: text for name in ("title", "introduction", "method", "limits")}
    folder = checkpoint(tmp_path / "mine", report)
    honest = build_card(checkpoint(tmp_path / "honest", REPORT), "user/mine")
    card = build_card(folder, "user/mine")
    whole, body = str(card), card.text
    data = yaml.safe_load(whole.split("---\n")[1])
    assert data["license"] == "apache-2.0" and set(data["tags"]) <= {"sharingan-hub", "gan", "few-shot"}
    assert "base_model" not in data and "datasets" not in data
    assert body.count("<!--") == honest.text.count("<!--")
    assert not re.search(r"<(?!!-- |/?details>|/?summary>)[a-zA-Z/!]", body)
    prose = re.sub(r"^```.*?^```$|`[^`\n]*`", "", body, flags=re.DOTALL | re.MULTILINE)
    assert not re.search(r"\]\((?!samples/|https://)", prose) and "`" not in prose.replace("x`", "")
    assert all(f"\n## {title}\n" in prose for title in ("Use", "How it was made", "Measurements", "Limits"))
    assert not re.search("[\u200b\u202e\x1b]", whole) and "49" not in part(card, "introduction")
    assert len(whole) < 80_000
    for snippet in re.findall(r"```python\n(.*?)```", whole, re.DOTALL):
        assert snippet in str(honest)
    recipe = yaml.safe_load(re.search(r"```yaml\n(.*?)```", whole, re.DOTALL)[1])  # type: ignore[index]
    assert recipe["resolution"] == 128
    assert update_card(whole, whole) == whole  # and its marks still hold


@pytest.mark.parametrize("text", HOSTILE[:-1])
def test_a_hostile_configuration_cannot_break_out(tmp_path, text):
    folder = checkpoint(tmp_path / "mine")
    for file, key in (("model_index.json", "generator_model"), ("generator_model/config.json", "_class_name")):
        content = json.loads((folder / file).read_text())
        content[key] = ["module", text] if key == "generator_model" else text
        (folder / file).write_text(json.dumps(content))
    body = build_card(folder).text
    assert not re.search(r"<(?!!-- )[a-zA-Z/!]", body) and body.count("<!--") == 12


def test_a_hostile_folder_name_cannot_break_out(tmp_path):
    folder = checkpoint(tmp_path / 'a"); import os; os.system("true") # <b>`$(true)`')
    for snippet in re.findall(r"```python\n(.*?)```", str(build_card(folder)), re.DOTALL):
        assert "import os" not in re.sub(r'"[^"]*"', "", snippet)
        compile(snippet, "card", "exec")
    assert "$(" not in str(build_card(folder))


VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.sampled_from(HOSTILE[:-1])
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=8,
)
KEYS = st.sampled_from([*REPORT, *REPORT["recipe"], *EVALUATION, "adapter", "sparsity", "card", "title", "name"])  # type: ignore[misc]


@settings(max_examples=60)
@given(st.dictionaries(KEYS, st.one_of(VALUES, st.dictionaries(KEYS, VALUES, max_size=6)), max_size=12))
def test_whatever_a_report_holds_there_is_a_card(tmp_path_factory, report):
    folder = tmp_path_factory.getbasetemp() / "any"
    if not folder.exists():
        checkpoint(folder)
    (folder / "report.json").write_text(json.dumps(report))
    card = build_card(folder, "user/mine")
    assert ModelCard(str(card)).data.license == "apache-2.0"
    if isinstance(card.data.get("base_model"), str):
        validate_repo_id(card.data.base_model)


# Files


def test_writing_twice_leaves_the_same_bytes_and_edits_survive(full):
    write_card(full)
    first = (full / "README.md").read_text()
    write_card(full)
    assert (full / "README.md").read_text() == first
    edited = first.replace("## Limits\n", "## Limits\n\nMine too.\n") + "\nOutside.\n"
    (full / "README.md").write_text(edited)
    (full / "report.json").write_text(json.dumps(REPORT | {"steps": 1500}))
    write_card(full)
    after = (full / "README.md").read_text()
    assert "Mine too." in after and after.endswith("\nOutside.\n") and "1,500 of 16" in after and "1,400" not in after
    assert not list(full.glob(".*"))


def test_a_readme_that_is_no_text_survives(full):
    (full / "README.md").write_bytes(b"# Mine \xff\xfe\n")
    write_card(full)
    assert (full / "README.md").read_bytes().endswith(b"# Mine \xff\xfe\n")


def test_a_failed_write_leaves_the_old_card(full, monkeypatch):
    (full / "README.md").write_text("# Mine\n")
    monkeypatch.setattr(Path, "write_text", lambda *args, **kwargs: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_card(full)
    monkeypatch.undo()
    assert (full / "README.md").read_text() == "# Mine\n"


def test_the_template_is_one_file_under_both_names():
    assert (ROOT / "model_cards" / "template.md").resolve() == ROOT / "sharingan_hub" / "cards" / "template.md"


# Figures


@pytest.mark.parametrize(
    ("estimate", "shown"),
    [
        ([12.3456, 0.123], "12.35 ± 0.12"),
        ([12.3456, 3.2], "12 ± 3"),
        ([1e-8, 1e-9], "0"),
        ([-0.001, 0.02], "0.00 ± 0.02"),
        ([0.98765, 0.0123], "0.988 ± 0.012"),
        ([1.0, 0.0], "1"),
        ([0.25, None], "0.25"),
        ([None, None], "–"),
        (None, "–"),
    ],
)
def test_a_figure_has_the_digits_that_its_error_allows(estimate, shown):
    assert figure(estimate) == shown


def test_the_table_says_what_was_measured_and_leaves_out_what_was_not():
    rows = {
        "this model": {"kid": [1.25, 0.1], "symmetry": [0.9, 0.01], "recall": [None, None]},
        "true draws": {"kid": [0.0, 0.1]},
    }
    evaluation = {
        "features": "domain",
        "samples": 2000,
        "seeds": [0, 1999],
        "truncation_psi": 1.0,
        "reference": "emblems:sharingan",
        "reference_samples": 10_000,
        "rows": rows,
    }
    table = metrics_table(evaluation)
    assert "| KID ↓ | 1.25 ± 0.10 | 0.00 ± 0.10 |" in table
    assert "| rotational symmetry | 0.900 ± 0.010 | – |" in table
    assert "recall" not in table
    assert (
        "2,000 pictures (seeds 0 to 1999, truncation psi 1) against 10,000 unseen draws of emblems:sharingan" in table
    )
    assert "against" not in metrics_table(evaluation | {"reference": None})
