"""Label maps and masks from files: what is read, and what is refused in one line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

import fitjax as fj
from fitjax.cli.label_maps import face_mask, find_labels, observe_labels, read_labels, read_table
from fitjax.cli.reading import read_mask
from fitjax.image.photo import photo_from_array
from fitjax.observation.part_tables import PARTS

PHOTO = photo_from_array(np.zeros((40, 60, 3), np.uint8))


def drawn() -> np.ndarray:
    """(20, 30): skin 1 with a nose 2 and an unlabelled hole, in background 0."""
    labels = np.zeros((20, 30), np.uint8)
    labels[4:18, 6:24] = 1
    labels[9:12, 13:16] = 2
    labels[14:16, 12:18] = 0
    return labels


def test_pictures_and_arrays_hold_labels(tmp_path):
    labels = drawn()
    Image.fromarray(labels).save(tmp_path / "a.png")
    np.save(tmp_path / "b.npy", labels)
    palette = Image.fromarray(labels).convert("P")
    palette.putdata(labels.ravel().tolist())
    palette.save(tmp_path / "c.png")
    for name in ("a.png", "b.npy", "c.png"):
        np.testing.assert_array_equal(read_labels(tmp_path / name), labels)
    assert find_labels(tmp_path / "b.jpg", tmp_path) == tmp_path / "b.npy"


def test_the_mask_is_the_face_without_holes():
    table = read_table("fitjax")
    mask = face_mask(np.where(drawn() > 0, PARTS.index("skin") + 1, 0), table, PHOTO)
    assert mask.shape == (40, 60)
    # Twice the size of the map; the hole, an open mouth, belongs to the face.
    whole = drawn() > 0
    whole[14:16, 12:18] = True
    np.testing.assert_array_equal(mask, np.kron(whole, np.ones((2, 2))) > 0)


def test_bad_label_maps(tmp_path):
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "colour.png")
    np.save(tmp_path / "float.npy", np.zeros((4, 4)))
    (tmp_path / "text.png").write_text("no picture")
    Image.fromarray(np.random.default_rng(0).integers(0, 9, (64, 64)).astype(np.uint8)).save(tmp_path / "broken.png")
    whole = bytearray((tmp_path / "broken.png").read_bytes())
    whole[35] = 0  # the length of its second chunk: Pillow raises a SyntaxError
    (tmp_path / "broken.png").write_bytes(whole)
    wrong = (("broken.png", "cannot be read"), ("colour.png", "mode RGB"), ("float.npy", "float64"), ("text.png", "cannot be read"))
    for name, found in (*wrong, ("none.npy", "no such file")):
        with pytest.raises(fj.ImageError, match=rf"{name}.*{found}|{name}.*one channel.*{found}"):
            read_labels(tmp_path / name)
    with pytest.raises(fj.ImageError, match=r"no label map for face\.jpg"):
        find_labels(tmp_path / "face.jpg", tmp_path)
    observation = fj.make_observation({"ibug68": np.random.default_rng(0).uniform(5, 35, (68, 2))}, image_size=(60, 40))
    np.save(tmp_path / "seven.npy", np.full((20, 30), 77))
    with pytest.raises(fj.FitjaxError, match=r"seven\.npy"):
        observe_labels(observation, PHOTO, read_labels(tmp_path / "seven.npy"), read_table("lapa"), tmp_path / "seven.npy")


def test_tables(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"nose": 2, "skin": [1], "other": [0]}))
    assert read_table(str(path)).parts == {"nose": (2,), "skin": (1,)}
    with pytest.raises(fj.FitjaxError, match=r"label table.*'mine'"):
        read_table("mine")
    with pytest.raises(fj.FitjaxError, match=r"--label-table .*gone\.json: cannot be read"):
        read_table(str(tmp_path / "gone.json"))


def test_masks_have_the_photos_size(tmp_path):
    Image.fromarray(np.full((40, 60), 255, np.uint8)).save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png", PHOTO).min() == 1
    Image.fromarray(np.full((36, 60), 255, np.uint8)).save(tmp_path / "small.png")
    with pytest.raises(fj.ImageError, match=r"small\.png: expected a mask of the photo's size 60 × 40, found 60 × 36"):
        read_mask(tmp_path / "small.png", PHOTO)
