"""The pixels that photometric losses see: a square crop of the photo around the face, in linear light."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from PIL import Image

from fitjax.errors import FitjaxError
from fitjax.image.photo import Photo
from fitjax.observation.observation import Observation
from fitjax.pytree import replace
from fitjax.render.shading import linear_from_srgb

#: Side of the crop in face sizes: the face up to the hair line, with some room around it.
CROP_SIDE = 1.5


def with_image(
    observation: Observation, photo: Photo, size: int = 224, side: float = CROP_SIDE, mask: np.ndarray | None = None
) -> Observation:
    """The observation with a crop of ``size`` × ``size`` pixels around the face and its validity mask.

    ``camera.crop_from_image`` of the result maps pixels of the photo to pixels of the crop, pixel centres at integers in both. Averaging happens in
    linear light, over the area that each crop pixel covers, so a large photo does not alias.

    Args:
        side: side of the square in face sizes.
        mask: (height, width) of the photo, true or above ½ where it shows the face's skin, eyes and mouth rather than hair, glasses, hands or
            anything else in front: from a parser or drawn by hand. Losses read no other pixels.

    Raises:
        FitjaxError: a size below 8, a face whose crop does not touch the photo, or a mask of another size than the photo.
    """
    if size < 8:
        raise FitjaxError(f"crop size: expected at least 8 pixels, found {size}")
    length = float(observation.face_size) * side
    centre = np.asarray(observation.face_centre, np.float64)
    low = centre - length / 2
    scale = size / length
    # Pixel edges: photo pixel i covers [i - 1/2, i + 1/2].
    box = (low[0] + 0.5, low[1] + 0.5, low[0] + length + 0.5, low[1] + length + 0.5)
    if box[2] <= 0 or box[3] <= 0 or box[0] >= photo.width or box[1] >= photo.height:
        raise FitjaxError(f"{photo.path}: the face's crop {[round(b) for b in box]} lies outside the photo")
    whole = [int(np.floor(box[0])) - 2, int(np.floor(box[1])) - 2, int(np.ceil(box[2])) + 2, int(np.ceil(box[3])) + 2]
    x0, y0, x1, y1 = np.clip(whole, 0, [photo.width, photo.height, photo.width, photo.height])
    if mask is not None and np.shape(mask) != (photo.height, photo.width):
        raise FitjaxError(f"mask: expected the photo's (height, width) = {(photo.height, photo.width)}, found {np.shape(mask)}")
    part = linear_from_srgb(photo.rgb[y0:y1, x0:x1].astype(np.float32) / 255)
    padded = np.pad(part, ((y0 - whole[1], whole[3] - y1), (x0 - whole[0], whole[2] - x1), (0, 0)), mode="edge")
    inside = np.pad(np.ones(part.shape[:2], np.float32), ((y0 - whole[1], whole[3] - y1), (x0 - whole[0], whole[2] - x1)))
    local = (box[0] - whole[0], box[1] - whole[1], box[2] - whole[0], box[3] - whole[1])

    def resample(channel: np.ndarray) -> np.ndarray:
        # Pillow's box is in pixel edges and its filters widen when they shrink.
        picture = Image.fromarray(np.ascontiguousarray(channel, np.float32), mode="F")
        return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR, box=local))

    image = np.stack([resample(padded[..., k]) for k in range(3)], -1)
    valid = resample(inside) > 0.999
    if mask is not None:
        kept = np.asarray(mask, np.float32)[y0:y1, x0:x1]
        valid &= resample(np.pad(kept, ((y0 - whole[1], whole[3] - y1), (x0 - whole[0], whole[2] - x1)))) > 0.5
    # Crop pixel u (centre) sits at photo coordinate low + (u + 1/2) / scale.
    offset = -low * scale - 0.5
    affine = np.array([[scale, 0, offset[0]], [0, scale, offset[1]]])
    dtype = observation.camera.focal.dtype
    camera = replace(observation.camera, crop_from_image=jnp.asarray(affine, dtype))
    return replace(observation, camera=camera, image=jnp.asarray(image, dtype), image_valid=jnp.asarray(valid))
