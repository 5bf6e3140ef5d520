"""Discriminators, one file per family. All map pictures (N,3,S,S) in [-1,1] to logits (N,1)."""

from training.discriminators.autoencoder import AutoencoderDiscriminator
from training.discriminators.dcgan import DCGANDiscriminator
from training.discriminators.r3gan import R3GANDiscriminator
from training.discriminators.stylegan2 import StyleGAN2Discriminator
from training.discriminators.vit import ViTDiscriminator

KINDS = (
    AutoencoderDiscriminator,
    DCGANDiscriminator,
    R3GANDiscriminator,
    StyleGAN2Discriminator,
    ViTDiscriminator,
)
DISCRIMINATORS = {kind.__name__: kind for kind in KINDS}

__all__ = [
    "DISCRIMINATORS",
    "AutoencoderDiscriminator",
    "DCGANDiscriminator",
    "R3GANDiscriminator",
    "StyleGAN2Discriminator",
    "ViTDiscriminator",
]
