"""How much each point of a landmark set says beside the others of its set.

FaceMesh puts 168 of its 478 points on what can be seen: lids, lips, brows, the nose, the outline. The others lie on bare skin, where its network
draws a mesh of its own habit: a cheek that a smile has lifted does not take them along. They are many, so at equal weight they keep a fit from the
corners of a smiling mouth and from half-closed lids. Measured on photos with annotations that are not FaceMesh's, docs/accuracy.md.
"""

from __future__ import annotations

import numpy as np

from fitjax.observation import part_tables as tables

#: Relative weights. Where points are off independently of each other, and where they are exact, equal weights give the better surface
#: (docs/parts.md): so no more than what photos ask for.
_LIPS_AND_EYES, _BROWS_AND_NOSE, _OUTLINE, _BARE_SKIN = 3.0, 2.0, 1.0, 0.3
_IRISES = tuple(range(468, 478))


def facemesh_weights() -> np.ndarray:
    """(478,) float32 weights of FaceMesh's points, 1 on average."""
    weight = np.full(478, _BARE_SKIN)
    weight[list(tables.FACE_OVAL)] = _OUTLINE
    weight[[*tables.NOSE, *tables.NOSE_RIDGE, *tables.RIGHT_BROW, *tables.LEFT_BROW]] = _BROWS_AND_NOSE
    lips = tables.OUTER_UPPER_LIP + tables.OUTER_LOWER_LIP + tables.INNER_UPPER_LIP + tables.INNER_LOWER_LIP
    right, left = tables.EYES["mediapipe478"]
    weight[[*right, *left, *lips, *_IRISES]] = _LIPS_AND_EYES
    return (weight / weight.mean()).astype(np.float32)


#: Landmark set → its points' weights; sets that are not here weigh all points alike.
POINT_WEIGHTS = {"mediapipe478": facemesh_weights}
