"""Section of ADA in docs/gan_family.md, with figure and table, from the JSON files of its runs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sharingan_hub.cards import figure as shown
from training.experiments.results import table, write_section
from training.plots import INK, PALE, WARNING, few_decades, new_figure, save_figure

KINDS = {"none": "without ADA", "ada": "with ADA"}
COLORS = {"none": PALE, "ada": "#084594"}
SCORES = {
    "seen": ("training pictures", "#084594"),
    "unseen": ("unseen pictures", "#2a9d8f"),
    "fake": ("fakes", WARNING),
}
TARGET = 0.6  # of r_t

SECTION = """## How few pictures are too few

Adaptive discriminator augmentation (Karras et al. 2020, figures 1 and 5). StyleGAN2 at 32 px learns from nested sets of
{counts} sharingan, without augmentation and with as much as it needs. The two upper rows show what the
discriminator says, on average, of pictures that it is trained on, of others that it never saw, and of fakes. Where it knows its
pictures by heart, it takes unseen ones for fakes: r_v = (seen − unseen) / (seen − fake) is 0 without over-fitting and 1 with nothing
else. That needs pictures kept back; ADA goes by r_t, the mean sign of D on the training pictures, and moves p to hold it at {target}.
KID is of samples of the averaged generator against unseen emblems; true draws have {floor}.

{table}

![What the discriminator says, r_t, p and KID over training, for ever more pictures](pictures/ada.png)

With fifteen pictures the discriminator knows them by heart within {kimg:.0f} thousand shown: unseen ones are worse to it than fakes. With a
hundred it has begun to, with a thousand or more nothing of it is to be seen. Without ADA r_t rises to .8 with fifteen; ADA holds
it at its target with a p of about a tenth, which slows over-fitting and does not stop it: by r_t, which looks at training pictures
alone, all is well. With a hundred or more ADA augments in the beginning, when everything is easy, and then no longer. KID goes up and
down by one or two on the way and is not in the order of the sets: at this length it is not yet the pictures that it lacks.

`python -m training.experiments.ada`: `train_stylegan2_ada.yaml` with half its channels, no other augmentation, {kimg:.0f} thousand
pictures a run, in which p can rise from 0 to 1 within 20 thousand.
"""


def write(files: Mapping[str, Path], docs: Path) -> None:
    """Draw the figure into docs/pictures and write the section. files: of each run, with floor.json beside."""
    found = [json.loads(file.read_text()) for file in files.values()]
    floor = json.loads((next(iter(files.values())).parent / "floor.json").read_text())["kid"]
    runs: dict[int, dict[str, Any]] = {}
    for run in found:
        runs.setdefault(run["pictures"], {})[run["augment"]] = run
    draw(runs, docs / "pictures" / "ada.png")
    rows = {f"{count:,} pictures": cells(pair) for count, pair in runs.items()}
    columns = [
        f"{what}, {title}" for what in ("best KID", "KID in the end", "r_v", "r_t") for title in ("plain", "ADA")
    ]
    text = SECTION.format(
        counts=", ".join(f"{count:,}" for count in runs),
        target=TARGET,
        floor=shown(floor),
        table=table([*columns, "p in the end"], rows),
        kimg=kimg(found[0])[-1],
    )
    write_section(docs / "gan_family.md", "ada", "ada", text)


def overfitting(look: Mapping[str, float]) -> float:
    """r_v of what D says on average: the share of the way from seen to fake that unseen pictures have gone."""
    gap = look["seen"] - look["fake"]
    return (look["seen"] - look["unseen"]) / gap if gap else 0.0


def kimg(run: Mapping[str, Any]) -> list[float]:
    """Thousands of pictures shown up to each look."""
    return [look["step"] * run["batch_size"] / 1000 for look in run["looks"]]


def cells(pair: Mapping[str, Any]) -> list[str]:
    """A row of the table; what is of the end is of the last look."""
    last = {kind: pair[kind]["looks"][-1] for kind in KINDS}
    best = {kind: min((look["kid"] for look in pair[kind]["looks"]), key=lambda kid: kid[0]) for kind in KINDS}
    return [
        *(shown(best[kind]) for kind in KINDS),
        *(shown(last[kind]["kid"]) for kind in KINDS),
        *(f"{overfitting(last[kind]):.2f}" for kind in KINDS),
        *(f"{pair[kind]['logged']['sign_real'][-1]:.2f}" for kind in KINDS),
        f"{pair['ada']['logged']['p'][-1]:.2f}",
    ]


def draw(runs: Mapping[int, Mapping[str, Any]], path: Path) -> None:
    """A column for each number of pictures: D's scores without and with ADA, r_t and p, and KID."""
    figure = new_figure(13, 9)
    rows = figure.subplots(4, len(runs), sharex=True, sharey="row")
    for (*scores, signs, quality), (count, pair) in zip(rows.T, runs.items()):
        scores[0].set_title(f"{count:,} pictures", fontsize=11, loc="left", color=INK)
        for axes, kind in zip(scores, KINDS):
            for name, (title, color) in SCORES.items():
                axes.plot(kimg(pair[kind]), [look[name] for look in pair[kind]["looks"]], color=color, label=title)
        for kind, title in KINDS.items():
            run, color = pair[kind], COLORS[kind]
            steps = [step * run["batch_size"] / 1000 for step in run["logged"]["step"]]
            signs.plot(steps, run["logged"]["sign_real"], color=color, linewidth=1, label=f"r_t {title}")
            values, errors = zip(*(look["kid"] for look in run["looks"]))
            quality.errorbar(kimg(run), values, yerr=errors, color=color, linewidth=1.2, label=title)
        signs.plot(steps, pair["ada"]["logged"]["p"], color=WARNING, linewidth=1.5, label="p")
        signs.axhline(TARGET, color=INK, linewidth=0.8, linestyle=":")
        signs.set_ylim(-0.25, 1.05)
        few_decades(quality)
        quality.set_xlabel("thousand pictures shown")
    names = ("D without ADA", "D with ADA", "r_t and p", "KID")
    for row, name in zip(rows, names):
        row[0].set_ylabel(name)
        row[-1].legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    for axes in rows.flat:
        axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)
