"""Error measures, as the published protocols define them.

- :mod:`fitjax.evaluate.nme`: normalised mean error of 68 landmarks, yaw bins, the geodesic angle between rotations.
- :mod:`fitjax.evaluate.readout`: a constant offset of the landmarks read off a model, towards the convention of a label set.

Plain NumPy, float64: nothing here needs JAX, and nothing is fitted.
"""
