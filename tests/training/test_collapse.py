"""Nazeri's runs: what is said of them, on made-up curves, and the command with tiny numbers."""

import json

from PIL import Image

from training.experiments import collapse, collapse_report


def test_spikes_stand_above_what_was_before():
    calm = [1.0] * 200
    assert collapse_report.spikes(calm) == []
    calm[99] = calm[103] = 5.0  # the same one
    calm[150] = 2.1
    calm[180] = 1.9
    assert collapse_report.spikes(calm) == [100, 151]
    assert collapse_report.spikes([10.0, *calm[1:40]]) == []  # the beginning is no spike


def test_weights_are_compared_where_both_runs_were_looked_at():
    assert collapse_report.same_weights({"20": "a", "40": "b"}, {"20": "a", "40": "c", "60": "d"}) == (1, 2)


def test_the_published_term_changes_no_weight_and_the_command_draws(tmp_path, monkeypatch):
    monkeypatch.setattr(collapse, "QUICK", collapse.Size(0.004, check_every=1, samples=20, reference=30))
    monkeypatch.setattr(collapse, "PICTURES", 40)
    monkeypatch.setattr(collapse, "COMMON", collapse.COMMON | {"resolution": 16})
    runs = {name: collapse.Run(500, run.settings) for name, run in collapse.RUNS.items()}
    monkeypatch.setattr(collapse, "RUNS", runs)
    collapse.main(["--quick", "--work_dir", str(tmp_path)])
    found = {name: json.loads((tmp_path / "quick" / f"{name}.json").read_text()) for name in runs}
    assert all(run["epochs"] == len(run["digests"]) == len(run["loss_d"]) == 2 for run in found.values())
    assert all(run["kept"] == 2 for name, run in found.items() if name != "early_stopping")
    assert found["plain"]["digests"] == found["beta"]["digests"] == found["early_stopping"]["digests"]
    assert found["stable"]["digests"] == found["stable_beta"]["digests"] != found["plain"]["digests"]
    assert found["beta_corrected"]["digests"] not in (found["plain"]["digests"], found["stable"]["digests"])
    # ... but what is plotted is another curve: higher by the term itself
    assert all(b > a + 0.1 for a, b in zip(found["plain"]["loss_d"], found["beta"]["loss_d"]))
    assert found["plain"]["loss_g"] == found["beta"]["loss_g"]
    page = (tmp_path / "quick" / "gan_family.md").read_text()
    assert "| 2 of 2, with plain |" in page and "| β with a gradient |" in page
    with Image.open(tmp_path / "quick" / "pictures" / "collapse.png") as figure:
        assert min(figure.size) > 300
