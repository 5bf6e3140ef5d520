"""Old StyleGAN2 checkpoints, read without running anything, to checkpoint folders and back. See docs/convert.md."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sharingan_hub.convert.errors import ConversionError as ConversionError
    from sharingan_hub.convert.export import export as export
    from sharingan_hub.convert.folder import convert as convert
    from sharingan_hub.convert.tensorflow import set_noise as set_noise

# Importing torch takes seconds: each name is imported when it is first asked for (PEP 562).
EXPORTS = {
    "ConversionError": ("errors", "ConversionError"),
    "convert": ("folder", "convert"),
    "export": ("export", "export"),
    "set_noise": ("tensorflow", "set_noise"),
}
__all__ = ["ConversionError", "convert", "export", "set_noise"]


def __getattr__(name: str) -> Any:
    if name not in EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = EXPORTS[name]
    value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), attribute)
    return value
