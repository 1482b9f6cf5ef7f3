"""Coarser crops, for fits that go from coarse to fine."""

from __future__ import annotations

import jax.numpy as jnp

from fitjax.observation.observation import Observation
from fitjax.pytree import replace


def halve_image(observation: Observation) -> Observation:
    """The observation with a crop of half the size: means over 2 × 2 pixels, in linear light, of those that hold the photo.

    (H, W) may have leading axes of a batch; odd last rows and columns are left out. Without a crop nothing changes.
    """
    if observation.image is None:
        return observation
    image, valid = observation.image, observation.image_valid
    height, width = image.shape[-3] // 2, image.shape[-2] // 2
    weight = valid[..., : 2 * height, : 2 * width].astype(image.dtype)
    blocks = (*weight.shape[:-2], height, 2, width, 2)
    weight = weight.reshape(blocks)
    colour = image[..., : 2 * height, : 2 * width, :].reshape(*blocks, 3)
    total = weight.sum((-3, -1))
    mean = (colour * weight[..., None]).sum((-4, -2)) / jnp.maximum(total, 1)[..., None]
    # The centre of a new pixel lies between four old ones: u' = (u - 1/2) / 2.
    affine = 0.5 * observation.camera.crop_from_image - jnp.asarray([[0, 0, 0.25], [0, 0, 0.25]], image.dtype)
    camera = replace(observation.camera, crop_from_image=affine)
    return replace(observation, camera=camera, image=mean, image_valid=total == 4)
