"""What a model card says of a model's measurements; see docs/metrics.md for what each figure means."""

from collections.abc import Mapping
from typing import Any

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


def metrics_table(evaluation: Mapping[str, Any]) -> str:
    """The key `evaluation` of a report.json as a Markdown table: a row for each figure, a column for the model and for each
    floor and ceiling, and one sentence on how it was measured."""
    rows: Mapping[str, Mapping[str, list[float | None]]] = evaluation["rows"]
    titles = list(rows)
    lines = ["| | " + " | ".join(titles) + " |", "|---" * (len(titles) + 1) + "|"]
    for name, label in FIGURES.items():
        if any(name in row for row in rows.values()):
            lines.append(f"| {label} | " + " | ".join(figure(rows[title].get(name)) for title in titles) + " |")
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
    value, error = estimate
    if not error:
        return f"{value:.3g}"
    digits = next(d for d in range(5) if d == 4 or error >= 2 * 10.0**-d)
    return f"{value:.{digits}f} ± {error:.{digits}f}"
