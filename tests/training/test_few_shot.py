"""The benchmark's bookkeeping on made-up cells, and one true run of it."""

import json
import math
from pathlib import Path

import pytest
import yaml
from PIL import Image

from sharingan_hub import SharinganPipeline
from training import train
from training.experiments import few_shot, few_shot_report
from training.metrics import Estimate


def put(folder: Path, method: str, seed: int, kid: float, **more: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    curve = [{"minutes": m, "kid": [kid + 1 / m, 0.1], "recall": [0.5, 0.1], "copying": [0.0, 0.0]} for m in (1, 2)]
    cell: dict[str, object] = {"method": method, "seed": seed, "minutes": 2.0}
    cell |= {"metrics": {"kid": [kid, 0.5], "recall": [0.4, None]}, "curve": curve}
    (folder / f"{method}-{seed}.json").write_text(json.dumps(cell | more))
    if seed == 0:
        Image.new("RGB", (64 * 12, 64), "red").save(folder / f"{method}-0.png")


def test_a_mean_has_the_error_of_the_seeds_or_of_the_measurement_whichever_is_larger():
    rows = [{"kid": [1.0, 0.1]}, {"kid": [3.0, 0.1]}, {"kid": [None, None]}]
    found = few_shot_report.combined(rows)["kid"]
    assert found.value == 2 and found.error == pytest.approx(1.0)  # deviation sqrt(2), over sqrt(2)
    found = few_shot_report.combined([{"kid": [4.0, 0.6]}, {"kid": [4.0, 0.8]}])["kid"]
    assert found == Estimate(4.0, pytest.approx(math.sqrt(0.5 / 2)))
    assert few_shot_report.combined(rows[:1])["kid"] == Estimate(1.0, pytest.approx(0.1))
    assert math.isnan(few_shot_report.combined(rows[2:])["kid"].value)


def test_the_page_has_the_best_first_and_keeps_what_others_wrote(tmp_path):
    results, docs = tmp_path / "few_shot", tmp_path / "docs"
    for seed in (0, 1):
        put(results / "sharingan", "finetune", seed, 8.0 + seed)
        put(results / "sharingan", "default", seed, 2.0 + seed)
    put(results / "sharingan", "stylegan2_patches", 0, 20.0, circularized={"kid": [5.0, 0.4]})
    (results / "sharingan" / "floors.json").write_text(json.dumps({"true draws": {"kid": [0.0, 0.1]}}))
    docs.mkdir()
    begin, end = "<!-- few-shot: written by training/experiments/few_shot.py -->", "<!-- /few-shot -->"
    (docs / "results.md").write_text(f"# Results\n\n{begin}\nold\n{end}\n\nmore\n")
    few_shot_report.write(results, docs)
    text = (docs / "results.md").read_text()
    assert text.startswith("# Results") and text.endswith("more\n") and "old" not in text
    order = [
        text.index(f"| {name} ")
        for name in ("default", "stylegan2_patches, circularised", "finetune", "stylegan2_patches (1)")
    ]
    assert order == sorted(order) and text.index("*true draws*") > order[-1]
    assert "| default (2) | 2.5 ± 0.5 |" in text
    for name in ("few_shot_sharingan.png", "few_shot_sharingan_curves.png"):
        assert name in text and (docs / "pictures" / name).is_file()
    few_shot_report.write(results, docs)
    assert (docs / "results.md").read_text() == text
    sheet = docs / "pictures" / "few_shot_sharingan.png"
    before = Image.open(sheet).height
    Image.new("RGB", (24, 8)).save(results / "sharingan" / few_shot_report.PICTURES)
    few_shot_report.write(results, docs)
    assert Image.open(sheet).height > before  # what the methods were given is the first row


def test_curves_of_seeds_meet_at_the_same_share_of_the_work():
    """The same straight line, once on a slow core and with a point less: no error, and the minutes are the cell's."""
    slow = {"minutes": 6.0, "curve": [{"minutes": 8.0 * x, "kid": [9 - 3 * x, 0.1]} for x in (0.25, 0.5, 0.75, 1.0)]}
    fast = {"minutes": 6.0, "curve": [{"minutes": 3.0 * x, "kid": [9 - 3 * x, 0.1]} for x in (0.4, 0.9, 1.0)]}
    lines = [few_shot_report.timed(cell, "kid") for cell in (slow, fast)]
    minutes, values, errors = few_shot_report.averaged(lines)
    assert minutes == pytest.approx([3.0, 4.5, 6.0]) and values == pytest.approx([7.5, 6.75, 6.0])
    assert errors == pytest.approx([0, 0, 0], abs=1e-12)
    minutes, values, errors = few_shot_report.averaged([lines[1], (lines[1][0], [y + 2 for y in lines[1][1]])])
    assert minutes == lines[1][0] and values == pytest.approx([y + 1 for y in lines[1][1]])
    assert errors == pytest.approx([1, 1, 1])  # two seeds, two apart
    assert few_shot_report.timed(slow, "recall") is None


def test_a_second_folder_of_cells_has_a_section_and_pictures_of_its_own(tmp_path):
    put(tmp_path / "few_shot" / "sharingan", "default", 0, 2.0)
    put(tmp_path / "few_shot_128" / "sharingan", "default", 0, 7.0)
    for name in ("few_shot", "few_shot_128"):
        few_shot_report.write(tmp_path / name, tmp_path)
    text = (tmp_path / "results.md").read_text()
    first, second = text.split("<!-- /few-shot -->")
    assert "| default (1) | 2.0" in first and "| default (1) | 7.0" in second
    assert "(pictures/few_shot_sharingan.png)" in first and (tmp_path / "pictures" / "few_shot_sharingan.png").is_file()
    (tmp_path / "few_shot" / "sharingan" / "default-0.png").unlink()
    few_shot_report.write(tmp_path / "few_shot", tmp_path)
    assert "(pictures/few_shot_sharingan.png)" not in (tmp_path / "results.md").read_text()  # no strip, no sheet
    assert "pictures/few_shot_sharingan_curves.png" in first and "pictures/few_shot_128_sharingan_curves.png" in second


def test_the_best_methods_go_on_to_the_other_targets(tmp_path):
    for method, kid in {"default": 2, "patches": 3, "rick": 4, "ewc": 5, "finetune": 6, "freezed": 7, "ada": 8}.items():
        put(tmp_path / "sharingan", method, 0, kid)
    assert few_shot_report.best(tmp_path, "sharingan", 6) == [
        "default",
        "finetune",
        "freezed",
        "ada",
        "patches",
        "rick",
    ]


def test_where_nothing_is_known_of_a_folder_s_true_distribution_no_method_is_the_best(tmp_path):
    for method in ("ewc", "default", "rick"):
        put(tmp_path / "mine", method, 0, 1.0)
        cell = tmp_path / "mine" / f"{method}-0.json"
        row = json.loads(cell.read_text())
        del row["metrics"]["kid"]
        cell.write_text(json.dumps(row))
    for target in ("mine", "pictures/mine", str(tmp_path / "pictures" / "mine")):
        assert few_shot_report.best(tmp_path, target, 3) == ["default", "ewc", "rick"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--targets", "mine/frost"], "results of mine/frost would lie where those of another frost do; rename"),
        (["--targets", "a/mine", "b/mine"], "results of a/mine would lie where those of another mine do; rename"),
        (
            ["--methods", "diffusion", "--diffusion_base", "/none"],
            "/none is no folder, and diffusion begins from it; make",
        ),
        (["--stylegan2_base", "/none"], "--stylegan2_base: /none is no folder, and stylegan2_finetune begins from it"),
    ],
)
def test_what_cannot_be_run_is_told_before_anything_is(tmp_path, arguments, sentence):
    with pytest.raises(SystemExit, match=sentence):
        few_shot.main([*arguments, "--results", str(tmp_path / "cells"), "--work_dir", str(tmp_path / "work")])
    assert not list(tmp_path.iterdir())


def test_every_method_has_its_recipe():
    for name, method in few_shot.METHODS.items():
        recipe = few_shot.RECIPES / f"{method.recipe}.yaml"
        assert recipe.is_file(), name
        if method.base == "scratch":
            settings = yaml.safe_load(recipe.read_text()) | method.settings
            generator, discriminator = train.build_networks(train.TrainConfig(**settings), None)
            pictures = SharinganPipeline(generator.eval())(seeds=range(2), output_type="pt").images
            assert pictures.shape == (2, 3, 64, 64) and discriminator(pictures).shape == (2, 1), name


def test_a_cell_that_is_there_is_not_run_again_and_a_failure_is_told(tmp_path, monkeypatch):
    put(tmp_path / "frost", "finetune", 0, 1.0)
    options = few_shot.Options(0.01, 2, 64, 100, 200, tmp_path / "work", "none", "none")
    done = few_shot.Cell("finetune", "frost", 0, tmp_path)
    broken = few_shot.Cell("stylegan2_ada", "frost", 0, tmp_path)
    started = []

    class Failed:
        returncode = 1

    monkeypatch.setattr(few_shot.subprocess, "run", lambda command, **_: started.append(command) or Failed())
    assert few_shot.run_all([done, broken], options) == [broken]
    assert len(started) == 1 and "stylegan2_ada" in started[0][-1]


def test_a_training_that_a_signal_ended_is_no_result(tmp_path):
    timed, counted = {"max_minutes": 6.0, "max_steps": None}, {"max_minutes": None, "max_steps": 700}
    for settings, had, fine in (
        (timed, {"minutes": 6.0, "steps": 3}, True),
        (timed, {"minutes": 6.13, "steps": 3}, True),
        (timed, {"minutes": 5.99, "steps": 3}, False),
        (counted, {"minutes": 0.7, "steps": 700}, True),
        (counted, {"minutes": 9.0, "steps": 699}, False),
    ):
        (tmp_path / "report.json").write_text(json.dumps(had))
        if fine:
            assert few_shot.finished(tmp_path, settings) == had
        else:
            with pytest.raises(SystemExit, match="stopped after (5.99 of 6 minutes|699 of 700 steps)"):
                few_shot.finished(tmp_path, settings)


def test_other_seeds_repeat_the_steps_of_the_first(tmp_path):
    options = few_shot.Options(3.0, 2, 64, 100, 200, tmp_path / "work", "none", "none")
    first, second = (few_shot.Cell("finetune", "frost", seed, tmp_path) for seed in (0, 2))
    timed = {"max_minutes": 6.0, "max_steps": None}
    assert few_shot.budget(second, options) == timed  # nothing to repeat
    put(tmp_path / "frost", "finetune", 0, 1.0, steps=421)
    assert few_shot.budget(second, options) == {"max_minutes": None, "max_steps": 421}
    assert few_shot.budget(first, options) == timed
    assert few_shot.repeated(second)["minutes"] == 2.0 and few_shot.repeated(first) is None


@pytest.mark.slow
def test_the_benchmark_runs_resumes_and_reports(tmp_path):
    arguments = ["--targets", "frost", "--methods", "finetune", "--seeds", "0", "--minutes", "0.05", "--samples", "100"]
    arguments += ["--reference", "300", "--results", str(tmp_path / "cells"), "--work_dir", str(tmp_path / "work")]
    arguments += ["--docs", str(tmp_path / "docs")]
    few_shot.main(arguments)
    cell = json.loads((tmp_path / "cells" / "frost" / "finetune-0.json").read_text())
    assert cell["steps"] > 0 and cell["metrics"]["kid"][0] > 0 and cell["curve"][-1]["kid"][0] > 0
    page = (tmp_path / "docs" / "results.md").read_text()
    assert "finetune (1)" in page and "*source model*" in page
    assert not list((tmp_path / "work").glob("frost-*"))
    changed = (tmp_path / "cells" / "frost" / "finetune-0.json").stat().st_mtime_ns
    few_shot.main(arguments)
    assert (tmp_path / "cells" / "frost" / "finetune-0.json").stat().st_mtime_ns == changed
