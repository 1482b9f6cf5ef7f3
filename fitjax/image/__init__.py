"""Photos: reading any common file as upright 8-bit sRGB, and shrinking huge ones for a detector."""

from .photo import MAX_PIXELS, MIN_SIDE, Photo, downscale_for_detection, photo_from_array, read_photo

__all__ = ["MAX_PIXELS", "MIN_SIDE", "Photo", "downscale_for_detection", "photo_from_array", "read_photo"]
