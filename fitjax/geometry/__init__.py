"""Rotations, cameras, surfaces: pure functions over arrays."""
