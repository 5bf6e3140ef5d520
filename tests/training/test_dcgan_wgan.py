"""DCGAN against WGAN: the table of made-up cells, and the command with tiny numbers."""

import json

from PIL import Image

from training.experiments import dcgan_wgan, dcgan_wgan_report


def test_the_page_compares_and_the_figure_shows_the_best(tmp_path):
    for i, objective in enumerate(dcgan_wgan_report.TITLES):
        for j, optimizer in enumerate(dcgan_wgan_report.OPTIMIZERS):
            cell = {"kid": [2.0 + i - 0.25 * j, 0.05]}
            (tmp_path / f"{objective}-{optimizer}.json").write_text(json.dumps(cell))
        Image.new("RGB", (224, 224), "red").save(tmp_path / f"{objective}-momentum.png")  # which has the lowest
    (tmp_path / "floor.json").write_text(json.dumps({"kid": [0.0, 0.01]}))
    dcgan_wgan_report.write(tmp_path, tmp_path / "docs")
    page = (tmp_path / "docs" / "gan_family.md").read_text()
    assert (
        "| AdaGrad | 1.50 ± 0.05 | 2.50 ± 0.05 | 3.50 ± 0.05 |" in page and "| *true draws* | 0.000 ± 0.010 |" in page
    )
    with Image.open(tmp_path / "docs" / "pictures" / "dcgan_wgan.png") as figure:
        colors = figure.convert("RGB").getcolors(2**24)
    assert max(colors, key=lambda c: c[0] if c[1] != (255, 255, 255) else 0)[1] == (255, 0, 0)


def test_every_cell_runs_and_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(dcgan_wgan, "QUICK", dcgan_wgan.Size(pictures=64, steps=6, samples=80, reference=80))
    monkeypatch.setattr(dcgan_wgan, "RATES", {"adam": 2e-4, "sgd": 1e-2})
    monkeypatch.setattr(dcgan_wgan_report, "OPTIMIZERS", {"adam": "Adam", "sgd": "SGD"})
    arguments = ["--quick", "--work_dir", str(tmp_path)]
    dcgan_wgan.main(arguments)
    cells = {file.stem: json.loads(file.read_text()) for file in (tmp_path / "quick").glob("*-*.json")}
    assert len(cells) == 6 and all(cell["kid"][0] > 0 for cell in cells.values())
    assert len({cell["kid"][0] for cell in cells.values()}) == 6
    with Image.open(tmp_path / "quick" / "wgan-sgd.png") as sheet:
        assert sheet.size == (8 * 28, 8 * 28)
    monkeypatch.setattr(dcgan_wgan, "run_one", None)  # nothing is run again
    dcgan_wgan.main(arguments)
