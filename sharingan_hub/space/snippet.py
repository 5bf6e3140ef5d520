"""What is on screen, as Python code that makes it again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from .models import EMBEDDED, Models, parse_model
from .recipe import Recipe

if TYPE_CHECKING:
    from .film import Film


def opening(name: str, models: Models) -> str:
    """Lines that open a model as `pipe`."""
    first, *adapters = parse_model(name) if name else parse_model(EMBEDDED)
    own = models.start if name == "" else first.name
    where = (
        []
        if own is None or first.name == EMBEDDED and own == EMBEDDED
        else [f'"{models.title if name == "" else own}"']
    )
    where += [f'revision="{first.sha}"'] if first.sha else []
    lines = [f"pipe = SharinganPipeline.from_pretrained({', '.join(where)})"]
    for part in adapters:
        revision = f', revision="{part.sha}"' if part.sha else ""
        lines.append(f'pipe.load_adapter("{part.name}", {part.weight:g}{revision})')
    return "\n".join(lines)


def conditions_of(recipe: Recipe) -> str:
    """Order and class as further arguments, where they were chosen."""
    chosen = {"order": recipe.order, "class_label": recipe.class_label}
    return "".join(f", {name}={value}" for name, value in chosen.items() if value is not None)


def designing(recipe: Recipe) -> tuple[list[str], str]:
    """Names to import, and lines that make a design's `latents`; "" where the seed alone is enough."""
    psi = f"truncation_psi={recipe.truncation_psi:g}"
    names, lines = [], []
    if recipe.found is not None:
        file = f'Recipe.read(read_recipe("{recipe.file_name}.png"))'
        return ["read_recipe"], f"from sharingan_hub.space.recipe import Recipe\n\nlatents = {file}.latents(pipe)"
    if recipe.variation is not None:
        names.append("vary")
        lines.append(
            f"latents = vary(pipe, {recipe.seed}, [{recipe.variation}], {recipe.strength:g}, {psi}{conditions_of(recipe)})"
        )
    elif recipe.styles or any(recipe.moves):
        lines.append(f"latents = pipe.prepare_latents([{recipe.seed}], {psi}{conditions_of(recipe)})")
    for layers, other in recipe.styles:
        names += ["layer_ranges", "style_mix"]
        source = f"pipe.prepare_latents([{other}], {psi}{conditions_of(replace(recipe, order=None))})"
        lines.append(f'latents = style_mix(latents, {source}, layer_ranges(pipe.generator_model)["{layers}"])')
    if any(recipe.moves):
        names += ["directions", "move"]
        strengths = ", ".join(f"{far:g}" for far in recipe.moves)
        lines.append(
            f"for direction, far in zip(directions(pipe.generator_model, {len(recipe.moves)}), [{strengths}]):"
        )
        lines.append("    latents = move(latents, direction, far)")
    return names, "\n".join(lines)


def snippet(recipe: Recipe, models: Models) -> str:
    """Code that draws a design."""
    names, design = designing(recipe)
    given = (
        "latents=latents"
        if design
        else f"seeds={recipe.seed}{conditions_of(recipe)}, truncation_psi={recipe.truncation_psi:g}"
    )
    given += f', recolor="{recipe.palette}"' if recipe.palette else ""
    given += ", circularize=True" if recipe.circularize else ""
    given += f", symmetry={recipe.symmetry}" if recipe.symmetry else ""
    return "\n".join(
        part
        for part in (
            f"from sharingan_hub import {', '.join(sorted({'SharinganPipeline', *names}))}",
            "",
            opening(recipe.model, models),
            design,
            f"image = pipe({given}, output_size={recipe.output_size}).images[0]",
        )
        if part or part == ""
    ).replace("\n\n\n", "\n\n")


def film_snippet(film: Film, models: Models) -> str:
    """Code that makes a film of seeds; of other designs, the call of this page's API."""
    recipes = film.keyframes
    plain = all(
        r.found is None and r.variation is None and not r.styles and not any(r.moves) and not r.palette for r in recipes
    )
    if not plain or film.space == "z" or film.turns:
        return "\n".join(
            (
                "from gradio_client import Client",
                "",
                f"keyframes = {[recipe.to_dict() for recipe in recipes]}",
                'film, *_ = Client("this page\'s address").predict(',
                f'    keyframes, space="{film.space}", easing="{film.easing}", loop="{film.loop}", seconds={film.seconds:g},',
                f'    fps={film.fps}, turns={film.turns}, size={film.size}, format="{film.format}", api_name="/interpolate"',
                ")",
            )
        )
    writer = "write_video" if film.format == "mp4" else "write_animation"
    seeds, orders = [recipe.seed for recipe in recipes], [recipe.order for recipe in recipes]
    classes = [recipe.class_label or 0 for recipe in recipes]
    conditions = f", order={orders}" if all(orders) else ""
    conditions += f", class_label={classes}" if any(classes) else ""
    return "\n".join(
        (
            f"from sharingan_hub import SharinganPipeline, animate, interpolate, {writer}",
            "",
            opening(recipes[0].model, models),
            f"designs = pipe.prepare_latents({seeds}, {recipes[0].truncation_psi:g}{conditions})",
            f'frames = interpolate(designs, {film.frames}, easing="{film.easing}", loop="{film.loop}")',
            f'{writer}(animate(pipe, frames, output_size={film.size}), "walk.{film.format}", fps={film.fps})',
        )
    )
