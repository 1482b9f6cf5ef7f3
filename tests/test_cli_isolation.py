"""One bad photo among eight changes nothing for the other seven, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fitjax.cli.main import main

BAD_SLOT = 3
# The coarse mesh: landmarks do not need a finer one, and eight folders are written sooner.
COARSE = ("--level", "0", "--stages", "landmarks")


def _photo(astronaut: np.ndarray, index: int) -> Image.Image:
    """Eight different good photos: the astronaut shifted, turned and scaled a little."""
    image = Image.fromarray(astronaut).rotate(
        3.0 * (index - 4), resample=Image.Resampling.BILINEAR, fillcolor=(200, 200, 200)
    )
    size = 512 + 16 * index
    return image.resize((size, size), Image.Resampling.BILINEAR)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, astronaut):
    root = tmp_path_factory.mktemp("eight")
    for index in range(8):
        for name in ("all_good", "one_bad"):
            (root / name).mkdir(exist_ok=True)
            _photo(astronaut, index).save(root / name / f"photo{index}.png")
    (root / "one_bad" / f"photo{BAD_SLOT}.png").write_bytes(b"")
    return root


def test_one_bad_photo_among_eight(folders, capsys):
    assert main(["fit", str(folders / "all_good"), "-o", str(folders / "out_good"), *COARSE]) == 0
    assert capsys.readouterr().err == ""
    assert main(["fit", str(folders / "one_bad"), "-o", str(folders / "out_bad"), *COARSE]) == 1
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 1 and f"photo{BAD_SLOT}.png" in captured.err
    assert "7 of 8 fitted" in captured.out
    results = {}
    for out in ("out_good", "out_bad"):
        files = (folders / out).glob("*/params.safetensors")
        results[out] = {p.parent.name: p.read_bytes() for p in files}
    assert len(results["out_good"]) == 8 and len(results["out_bad"]) == 7
    for name, data in results["out_bad"].items():
        assert data == results["out_good"][name], name
    # The eight faces are eight different results: equality would otherwise mean little.
    assert len(set(results["out_good"].values())) == 8
    for file in ("landmarks.json", "camera.json", "posed.obj"):
        assert (folders / "out_bad" / "photo0" / file).read_bytes() == (
            folders / "out_good" / "photo0" / file
        ).read_bytes()


def test_slot_and_company_do_not_matter(folders, capsys):
    """The last photo of a longer run, in a batch filled up with neutral slots, has the same bits as among seven others."""
    photos = [str(folders / "all_good" / f"photo{i}.png") for i in range(8)]
    assert main(["fit", *photos, photos[5], "-o", str(folders / "nine"), *COARSE]) == 0
    capsys.readouterr()
    params = [(folders / "nine" / n / "params.safetensors").read_bytes() for n in ("photo5_png", "photo5_png_2")]
    assert params[0] == params[1]
