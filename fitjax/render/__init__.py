"""Rendering: the NumPy reference rasteriser and the pictures made with it."""
