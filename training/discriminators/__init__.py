"""Discriminators, one file per family. All map pictures (N,3,S,S) in [-1,1] to logits (N,1).

CoGAN's is for two domains: (N,6,S,S) to (N,2).
"""

from training.discriminators.autoencoder import AutoencoderDiscriminator
from training.discriminators.cogan import CoGANDiscriminator
from training.discriminators.dcgan import DCGANDiscriminator
from training.discriminators.r3gan import R3GANDiscriminator
from training.discriminators.stylegan2 import StyleGAN2Discriminator
from training.discriminators.vit import ViTDiscriminator

KINDS = (
    AutoencoderDiscriminator,
    CoGANDiscriminator,
    DCGANDiscriminator,
    R3GANDiscriminator,
    StyleGAN2Discriminator,
    ViTDiscriminator,
)
DISCRIMINATORS = {kind.__name__: kind for kind in KINDS}

__all__ = [
    "DISCRIMINATORS",
    "AutoencoderDiscriminator",
    "CoGANDiscriminator",
    "DCGANDiscriminator",
    "R3GANDiscriminator",
    "StyleGAN2Discriminator",
    "ViTDiscriminator",
]
