"""Model cards: what a folder's files and its report.json say of a model, and not a number more.

See docs/metrics.md for what each figure means, edits.py for how a user's own edits survive, and safe_text.py for what
happens to text that came from strangers.
"""

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharingan_hub.cards.edits import is_as_written as is_as_written
from sharingan_hub.cards.edits import sealed
from sharingan_hub.cards.edits import update_card as update_card
from sharingan_hub.cards.facts import EMBEDDED, Facts, is_hub_id, number, told_name
from sharingan_hub.cards.facts import public_report as public_report
from sharingan_hub.cards.safe_text import plain_text as plain_text
from sharingan_hub.cards.safe_text import safe_card as safe_card

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard

TEMPLATE = Path(__file__).parent / "template.md"
TASK = "unconditional-image-generation"

FIGURES = {
    "kid": "KID",
    "fid": "FID",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "copying": "copying (share nearer to a training picture than 99 % of true draws)",
    "data_copying": "data-copying z-score (far below 0 is copying)",
    "diversity": "diversity within the cluster of each training picture",
    "novelty": "distance to the nearest training picture (true draws: 1)",
    "symmetry": "rotational symmetry",
    "deformation": "out of round, percent of the radius",
}
ARROWS = {"kid": " ↓", "fid": " ↓", "precision": " ↑", "recall": " ↑", "coverage": " ↑"}
OF_PICTURES = ("symmetry", "deformation")  # measured without a feature network


def write_card(folder: Path, place: Path | None = None) -> None:
    """Bring the README.md of a checkpoint or adapter folder up to date, whole or not at all; its owner's edits stay.

    place: where the folder will stand, if it is made elsewhere.

    Raises:
        CheckpointError: the folder is neither.
        OSError: the file cannot be written.
    """
    path = folder / "README.md"
    # Bytes that are no UTF-8 come back as they were.
    previous = path.read_text(encoding="utf-8", errors="surrogateescape") if path.is_file() else None
    draft = path.with_name(f".{path.name}.tmp")
    text = update_card(str(build_card(folder, place=place)), previous)
    draft.write_text(text, encoding="utf-8", errors="surrogateescape")
    os.replace(draft, path)


def build_card(folder: Path, repo_id: str | None = None, place: Path | None = None) -> "ModelCard":
    """The card of a checkpoint or adapter folder, from what is in the folder alone; nothing is written.

    What report.json does not say is left out, or said to be not measured. Its key `card` may hold title, introduction,
    method, and limits, in Markdown; `license` is that of weights which are not the project's own.

    Args:
        folder: with model_index.json or adapter_config.json.
        repo_id: where it is published, as "user/name"; without it, the snippets open the folder itself.
        place: where the folder will stand, if it is made elsewhere.

    Raises:
        CheckpointError: the folder is neither.
        ValueError: repo_id is no Hub id.
    """
    import yaml
    from huggingface_hub import ModelCard, ModelCardData

    if repo_id is not None and not is_hub_id(repo_id):
        raise ValueError(f"repo_id must be a Hub id such as 'user/name', got {repo_id!r}.")
    facts = Facts(Path(folder))
    title = facts.own_words("title") or plain_text((repo_id or facts.name).rpartition("/")[2]) or "Untitled"
    evaluation = _clean_evaluation(facts.report.get("evaluation"))
    results = [] if evaluation is None else list(_eval_results(evaluation, facts.data))
    data = ModelCardData(
        license=facts.license,
        library_name="diffusers",
        pipeline_tag=TASK,
        tags=list(facts.tags()),
        base_model=facts.base_id,
        base_model_relation=facts.base_id and ("adapter" if facts.kind == "adapter" else "finetune"),
        datasets=[facts.data_id] if facts.data_id else None,
        title=title,
        resolution=facts.resolution,
        model_name=title if results else None,
        eval_results=results or None,
    )
    card = ModelCard.from_template(
        data,
        template_str=TEMPLATE.read_text(encoding="utf-8"),
        kind=facts.kind,
        title=title,
        introduction=facts.own_words("introduction") or facts.introduction(),
        grid=facts.picture("grid.png") or facts.last_samples(),
        repo_id=repo_id,
        place=_place(place or facts.folder, repo_id),
        base_place=None if facts.findable else facts.base or "BASE",
        shell=shlex.quote,
        inside=repo_id is None and facts.folder.resolve() == EMBEDDED / "default",
        call="seeds=[7]" + facts.conditions(),
        method=facts.own_words("method"),
        making=list(facts.making()),
        recipe=facts.recipe_yaml(),
        trained=facts.number("steps") is not None,
        preview=facts.picture("preview.png"),
        measurements=evaluation and metrics_table(evaluation),
        reading=evaluation and _reading(evaluation),
        command=evaluation and _command(evaluation, _place(facts.folder, repo_id)),
        nearest=facts.picture("nearest.png"),
        page=None if facts.picture("nearest.png") else facts.picture("evaluation.png"),
        limits=list(facts.limits()),
        emblems=facts.converted is None,
    )
    card.text = sealed(re.sub(r"\n{3,}", "\n\n", card.text) + "\n", yaml.safe_load(card.data.to_yaml()))
    return card


def _place(folder: Path, repo_id: str | None) -> str:
    """What opens the model: its Hub id, else the path of its folder, as far as that is nobody's private matter."""
    if repo_id is not None:
        return repo_id
    folder = folder.resolve()
    if folder.parent == EMBEDDED:
        return told_name(str(folder))
    here = Path.cwd()
    return plain_text(folder.relative_to(here).as_posix() if here in folder.parents else folder.name, 200)


def _clean_evaluation(found: Any) -> dict[str, Any] | None:
    """A report's evaluation as metrics_table reads it; None where it is missing or something else."""
    if not (isinstance(found, dict) and isinstance(found.get("rows"), dict)):
        return None
    rows: dict[str, dict[str, list[float | None]]] = {}
    for title, row in list(found["rows"].items())[:16]:
        if isinstance(row, dict):
            rows[plain_text(title)] = {name: _estimate(row[name]) for name in FIGURES if name in row}
    numbers = {name: number(found.get(name)) for name in ("samples", "truncation_psi", "reference_samples")}
    seeds = [number(seed) for seed in found["seeds"]] if isinstance(found.get("seeds"), list) else []
    if not rows.get("this model") or None in numbers.values() or len(seeds) != 2 or None in seeds:
        return None
    features, reference = found.get("features"), found.get("reference")
    if features not in ("domain", "inception"):
        return None
    told = plain_text(told_name(reference)) if isinstance(reference, str) else None
    return {"features": features, "seeds": seeds, "reference": told, "rows": rows, **numbers}


def _estimate(value: Any) -> list[float | None]:
    found = [number(part) for part in value] if isinstance(value, list) and len(value) == 2 else [None, None]
    return [found[0], found[1] if found[1] is None or found[1] >= 0 else None]


def _eval_results(evaluation: Mapping[str, Any], data: str) -> Iterator["EvalResult"]:
    """Each figure of the model, with its error, as the Hub shows it."""
    from huggingface_hub import EvalResult

    against = evaluation["reference"] or data or "training pictures"
    own = " (project's own features)" if evaluation["features"] == "domain" else ""
    for name, estimate in evaluation["rows"]["this model"].items():
        if estimate[0] is None:
            continue
        features = name not in OF_PICTURES
        yield EvalResult(
            task_type=TASK,
            task_name="Unconditional image generation",
            dataset_type=re.sub(r"[^A-Za-z0-9._/-]+", "-", against),
            dataset_name=against,
            dataset_args={key: evaluation[key] for key in ("samples", "seeds", "truncation_psi")},
            metric_type=name,
            metric_name=FIGURES[name].partition(" (")[0] + (own if features else ""),
            metric_config=f"{evaluation['features']} features" if features else None,
            metric_value=figure(estimate),
            metric_args={"value": estimate[0], "standard_error": estimate[1]},
        )


def _command(evaluation: Mapping[str, Any], place: str) -> str:
    """What measures the same again, from a checkout of the project."""
    lines = [f"accelerate launch training/evaluate.py --model {shlex.quote(place)}"]
    if evaluation["reference"]:
        against = shlex.quote(evaluation["reference"])
        lines.append(f"--reference {against} --reference_samples {evaluation['reference_samples']:.0f}")
    psi = f"--truncation_psi {evaluation['truncation_psi']:g}"
    lines.append(f"--samples {evaluation['samples']:.0f} --seed {evaluation['seeds'][0]:.0f} {psi}")
    return " \\\n  ".join([*lines[:-1], f"{lines[-1]} --features {evaluation['features']}"])


def _reading(evaluation: Mapping[str, Any]) -> str:
    """How to read the table, as far as its columns go."""
    stand = (
        ["the training pictures as a floor (a model that only copies)"]
        if "training pictures" in evaluation["rows"]
        else []
    )
    stand += ["true draws as a ceiling"] if "true draws" in evaluation["rows"] else []
    sentences = ["↓ is better where it is low, ↑ where it is high; the others are at their best near the true draws."]
    sentences += [f"Beside the model stand {' and '.join(stand)}."] if stand else []
    if evaluation["features"] == "domain":
        sentences.append("Figures of other feature networks, Inception among them, cannot be compared with these.")
    return " ".join([*sentences, "What each figure means: `docs/metrics.md` of the project."])


def metrics_table(evaluation: Mapping[str, Any]) -> str:
    """The key `evaluation` of a report.json as a Markdown table: a row for each figure, a column for the model and for each
    floor and ceiling, and one sentence on how it was measured."""
    rows: Mapping[str, Mapping[str, list[float | None]]] = evaluation["rows"]
    titles = list(rows)
    lines = ["| | " + " | ".join(titles) + " |", "|---" * (len(titles) + 1) + "|"]
    for name, label in FIGURES.items():
        if any(row.get(name, [None])[0] is not None for row in rows.values()):
            lines.append(
                f"| {label}{ARROWS.get(name, '')} | "
                + " | ".join(figure(rows[title].get(name)) for title in titles)
                + " |"
            )
    network = "the project's own feature network" if evaluation["features"] == "domain" else "Inception-v3"
    against = (
        f" against {evaluation['reference_samples']:,} unseen draws of {evaluation['reference']}"
        if evaluation["reference"]
        else ""
    )
    first, last = evaluation["seeds"]
    lines += [
        "",
        f"{evaluation['samples']:,} pictures (seeds {first} to {last}, truncation psi {evaluation['truncation_psi']:g}){against}, "
        f"features of {network}; ± is one standard error.",
    ]
    return "\n".join(lines)


def figure(estimate: list[float | None] | None) -> str:
    """A value with its error, rounded to what the error allows."""
    if estimate is None or estimate[0] is None:
        return "–"
    value, error = estimate[0], estimate[1] or 0.0
    if max(abs(value), error) < 5e-5:  # of four digits nothing would be left
        return "0"
    if not error:
        return f"{value:.3g}"
    digits = next(d for d in range(5) if d == 4 or error >= 2 * 10.0**-d)
    return f"{value:z.{digits}f} ± {error:.{digits}f}"
