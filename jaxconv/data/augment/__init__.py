"""Augmentation of images: the random numbers (draws) and what becomes of the images (transform)."""

from jaxconv.data.augment import arrays
from jaxconv.data.augment.draws import DRAWS, draws
from jaxconv.data.augment.transform import FILLS, apply, check, interpolates, is_on, parameters, transformer

__all__ = ["DRAWS", "FILLS", "apply", "arrays", "check", "draws", "interpolates", "is_on", "parameters", "transformer"]
