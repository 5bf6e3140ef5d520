"""Discriminators, one file per family. All map pictures (N,3,S,S) in [-1,1] to logits (N,1)."""

from training.discriminators.dcgan import DCGANDiscriminator
from training.discriminators.r3gan import R3GANDiscriminator
from training.discriminators.stylegan2 import StyleGAN2Discriminator

DISCRIMINATORS = {kind.__name__: kind for kind in (DCGANDiscriminator, R3GANDiscriminator, StyleGAN2Discriminator)}

__all__ = ["DISCRIMINATORS", "DCGANDiscriminator", "R3GANDiscriminator", "StyleGAN2Discriminator"]
