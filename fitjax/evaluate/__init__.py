"""Error measures and protocols, as the papers define them; ``fitjax eval`` on the command line, docs/evaluation.md in words.

Measures, plain NumPy in float64:

- :mod:`.nme`: normalised mean error of landmarks, yaw bins, the geodesic angle between rotations; :mod:`.pose`: AFLW2000-3D's Euler angles.
- :mod:`.dense`: DSFNet's errors on UV position maps; :mod:`.scan`: alignment to a scan and distances from it, on :mod:`.nearest`.
- :mod:`.parts`: what a fitted face shows, part IoU (this one renders, with JAX).
- :mod:`.readout`: a constant offset of the landmarks read off a model, towards the convention of a label set.

Protocols over many faces, each returning a :class:`.report.Evaluation`: :mod:`.aflw2000`, :mod:`.scan_set`, :mod:`.part_maps`, :mod:`.landmarks`.
Files of other tools: :mod:`.predictions`, :mod:`.aflw2000_truth`, :mod:`.scan_files`, :mod:`.fit_results`. Figures of papers: :mod:`.published`.
"""
