"""Repairs for any picture of an emblem: make it round, make it symmetric, give it other colours, put it into an eye."""

# The functions circularize and recolor take the places of their modules' names here, once and for all.
from .circularize import CircularizeResult as CircularizeResult
from .circularize import circularize as circularize
from .eye import Iris as Iris
from .eye import Placed as Placed
from .eye import find_iris as find_iris
from .eye import place_in_eye as place_in_eye
from .radial_scale import RadialScale as RadialScale
from .recolor import PALETTES as PALETTES
from .recolor import Palette as Palette
from .recolor import recolor as recolor
from .recolor import recolor_colors as recolor_colors
from .steps import postprocess as postprocess
from .steps import postprocess_with_alpha as postprocess_with_alpha
from .symmetry import estimate_order as estimate_order
from .symmetry import symmetrize as symmetrize
from .symmetry import symmetry_loss as symmetry_loss
from .symmetry import symmetry_score as symmetry_score
