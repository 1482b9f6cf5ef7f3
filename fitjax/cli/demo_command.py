"""``fitjax demo``: the first fit on a fresh machine, without a photo of one's own."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from fitjax.cli.fit_command import run_fit
from fitjax.cli.main import Demo, Fit
from fitjax.errors import ImageError


def astronaut_photo() -> Path:
    """The portrait of Eileen Collins (NASA, public domain) that lies inside scikit-image's wheel.

    Raises:
        ImageError: scikit-image is not installed, or no longer has the photo.
    """
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise ImageError('the demo photo comes with scikit-image, which is not installed: `pip install "fitjax[demo]"`')
    photo = Path(spec.origin).parent / "data" / "astronaut.png"
    if not photo.is_file():
        raise ImageError(f"{photo}: the demo photo is missing; `pip install --force-reinstall scikit-image`")
    return photo


def run_demo(options: Demo, began: float) -> int:
    """Fit the photo with the settings that ``fitjax fit`` has; returns its exit code."""
    photo = astronaut_photo()
    code = run_fit(Fit([photo], out=options.out), began)
    if code == 0:
        folder = options.out / photo.stem
        print("\nLook at")
        print(f"  {folder / 'overlay.png'}: the photo, the fitted face over it, their difference, another light")
        print(f"  {folder / 'render.png'}: the fitted face, to lay over the photo")
        print(f"  {folder / 'texture.png'}: its texture")
        print(f"  {folder / 'turntable.gif'}: the head from all sides")
        print(f"  {folder / 'canonical.glb'}: the textured mesh with its expressions, for Blender or any glTF viewer")
        print(f"  {folder / 'report.json'}: pose, expression, residuals and timings")
        print("Fit your own photos with: fitjax fit PHOTO_OR_FOLDER... -o OUT")
    return code
