"""SharinGAN Hub: generate, repair, recolour and share radial eye emblems."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sharingan_hub.modeling_radial import RadialGenerator as RadialGenerator
    from sharingan_hub.modeling_stylegan2 import StyleGAN2Generator as StyleGAN2Generator
    from sharingan_hub.pipeline_sharingan import SharinganPipeline as SharinganPipeline
    from sharingan_hub.postprocess import circularize as circularize
    from sharingan_hub.postprocess import estimate_order as estimate_order
    from sharingan_hub.postprocess import recolor as recolor
    from sharingan_hub.postprocess import symmetrize as symmetrize
    from sharingan_hub.postprocess import symmetry_score as symmetry_score

    __version__: str

# Importing torch and diffusers takes seconds, reading the version a tenth of one: each name is imported when it is first asked for (PEP 562).
EXPORTS = {
    "RadialGenerator": "modeling_radial",
    "SharinganPipeline": "pipeline_sharingan",
    "StyleGAN2Generator": "modeling_stylegan2",
    "circularize": "postprocess",
    "estimate_order": "postprocess",
    "recolor": "postprocess",
    "symmetrize": "postprocess",
    "symmetry_score": "postprocess",
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
