"""eos (Huber et al., "A Multiresolution 3D Morphable Face Model and Fitting Framework", 2016) through its Python package."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.shared_data import IMAGE_SIZE, Unavailable, require


class Eos:
    """``fit_shape_and_pose`` on the Surrey model with six expressions, at its default settings (five alternations).

    Raises:
        Unavailable: eos-py or the model's files are missing.
    """

    def __init__(self) -> None:
        try:
            import eos
        except ImportError as error:
            raise Unavailable(f"eos: {error}; pip install 'fitjax[bench]' (Python below 3.13)") from None
        files = require("sfm")
        self._eos: Any = eos
        shape = eos.morphablemodel.load_model(str(files / "sfm_shape_3448.bin"))
        expressions = eos.morphablemodel.load_blendshapes(str(files / "expression_blendshapes_3448.bin"))
        self._model = eos.morphablemodel.MorphableModel(
            shape.get_shape_model(),
            expressions,
            color_model=eos.morphablemodel.PcaModel(),
            vertex_definitions=None,
            texture_coordinates=shape.get_texture_coordinates(),
        )
        self._mapper = eos.core.LandmarkMapper(str(files / "ibug_to_sfm.txt"))
        self._contours = (
            eos.morphablemodel.load_edge_topology(str(files / "sfm_3448_edge_topology.json")),
            eos.fitting.ContourLandmarks.load(str(files / "ibug_to_sfm.txt")),
            eos.fitting.ModelContour.load(str(files / "sfm_model_contours.json")),
        )
        self.parameters = shape.get_shape_model().get_num_principal_components() + len(expressions)
        names = [(i, self._mapper.convert(str(i + 1))) for i in range(68)]
        #: (index among the 68, vertex) of the points with a fixed vertex.
        self.fixed = np.array([(i, int(v)) for i, v in names if v is not None])

    def landmarks(self, points: np.ndarray) -> list[Any]:
        """eos's own type; made before the clock starts."""
        return [self._eos.core.Landmark(str(i + 1), [float(x), float(y)]) for i, (x, y) in enumerate(points)]

    def fit(self, landmarks: list[Any], contours: bool) -> tuple[Any, Any]:
        """Mesh and rendering parameters."""
        extra = self._contours if contours else ()
        result = self._eos.fitting.fit_shape_and_pose(self._model, landmarks, self._mapper, *IMAGE_SIZE, *extra)
        return result[0], result[1]

    def project(self, mesh: Any, pose: Any) -> np.ndarray:
        """Pixels of the points with a fixed vertex."""
        width, height = IMAGE_SIZE
        vertices = np.asarray(mesh.vertices)[self.fixed[:, 1]]
        clip = np.c_[vertices, np.ones(len(vertices))] @ (pose.get_projection() @ pose.get_modelview()).T
        device = clip[:, :2] / clip[:, 3:]
        return np.stack([(device[:, 0] + 1) / 2 * width, height - (device[:, 1] + 1) / 2 * height], 1)
