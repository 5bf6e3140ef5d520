"""SharinGAN Hub: generate, repair, recolour and share radial eye emblems."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sharingan_hub.inversion import inversion_steps as inversion_steps
    from sharingan_hub.inversion import invert as invert
    from sharingan_hub.latents import animate as animate
    from sharingan_hub.latents import directions as directions
    from sharingan_hub.latents import interpolate as interpolate
    from sharingan_hub.latents import interpolate_palettes as interpolate_palettes
    from sharingan_hub.latents import interpolate_seeds as interpolate_seeds
    from sharingan_hub.latents import layer_ranges as layer_ranges
    from sharingan_hub.latents import move as move
    from sharingan_hub.latents import style_mix as style_mix
    from sharingan_hub.latents import vary as vary
    from sharingan_hub.media import draw_svg as draw_svg
    from sharingan_hub.media import read_recipe as read_recipe
    from sharingan_hub.media import write_animation as write_animation
    from sharingan_hub.media import write_png as write_png
    from sharingan_hub.media import write_svg as write_svg
    from sharingan_hub.media import write_video as write_video
    from sharingan_hub.media.vector_trace import trace_svg as trace_svg
    from sharingan_hub.modeling_dcgan import CoGANGenerator as CoGANGenerator
    from sharingan_hub.modeling_dcgan import DCGANGenerator as DCGANGenerator
    from sharingan_hub.modeling_r3gan import R3GANGenerator as R3GANGenerator
    from sharingan_hub.modeling_radial import RadialGenerator as RadialGenerator
    from sharingan_hub.modeling_stylegan2 import StyleGAN2Generator as StyleGAN2Generator
    from sharingan_hub.pipeline_sharingan import SharinganPipeline as SharinganPipeline
    from sharingan_hub.postprocess import circularize as circularize
    from sharingan_hub.postprocess import estimate_order as estimate_order
    from sharingan_hub.postprocess import find_iris as find_iris
    from sharingan_hub.postprocess import place_in_eye as place_in_eye
    from sharingan_hub.postprocess import recolor as recolor
    from sharingan_hub.postprocess import symmetrize as symmetrize
    from sharingan_hub.postprocess import symmetry_score as symmetry_score

    __version__: str

# Importing torch and diffusers takes seconds, reading the version a tenth of one: each name is imported when it is first asked for (PEP 562).
EXPORTS = {
    "CoGANGenerator": "modeling_dcgan",
    "DCGANGenerator": "modeling_dcgan",
    "R3GANGenerator": "modeling_r3gan",
    "RadialGenerator": "modeling_radial",
    "SharinganPipeline": "pipeline_sharingan",
    "StyleGAN2Generator": "modeling_stylegan2",
    "animate": "latents",
    "circularize": "postprocess",
    "directions": "latents",
    "draw_svg": "media",
    "estimate_order": "postprocess",
    "find_iris": "postprocess",
    "interpolate": "latents",
    "interpolate_palettes": "latents",
    "interpolate_seeds": "latents",
    "inversion_steps": "inversion",
    "invert": "inversion",
    "layer_ranges": "latents",
    "move": "latents",
    "place_in_eye": "postprocess",
    "read_recipe": "media",
    "recolor": "postprocess",
    "style_mix": "latents",
    "symmetrize": "postprocess",
    "symmetry_score": "postprocess",
    "trace_svg": "media.vector_trace",
    "vary": "latents",
    "write_animation": "media",
    "write_png": "media",
    "write_svg": "media",
    "write_video": "media",
}
__all__ = ["__version__", *EXPORTS]


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("sharingan-hub")
    except PackageNotFoundError:  # a checkout that is not installed
        return "0+unknown"


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = _version()
    elif name in EXPORTS:
        value = getattr(import_module(f"{__name__}.{EXPORTS[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(EXPORTS))
