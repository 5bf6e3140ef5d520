"""Discriminators, one file per family. All map pictures (N,3,S,S) in [-1,1] to logits (N,1)."""

from training.discriminators.stylegan2 import StyleGAN2Discriminator

DISCRIMINATORS = {"StyleGAN2Discriminator": StyleGAN2Discriminator}

__all__ = ["DISCRIMINATORS", "StyleGAN2Discriminator"]
