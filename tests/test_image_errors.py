"""What is not a photo is refused in one clear line, whatever the bytes."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
from fixtures_images import encoded, picture, png_header
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from fitjax.errors import ImageError
from fitjax.image import MAX_PIXELS, read_photo

PIC = picture()
JPEG = encoded(Image.fromarray(PIC), "JPEG")
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"\0" * 500, "only zero bytes"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "looks like an HTML page"),
        (b"\n  <html>", "looks like an HTML page"),
        (b'<?xml version="1.0"?><Error/>', "XML"),
        (b'<?xml version="1.0"?><svg xmlns="x"/>', "SVG"),
        (LFS, "Git-LFS pointer"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"%PDF-1.7", "PDF"),
        (b"PK\x03\x04" + b"\0" * 50 + b"x", "ZIP"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n", "supported format"),
        (b"just some text", "supported format"),
        (JPEG[: len(JPEG) // 2], "truncated"),
        (encoded(Image.fromarray(PIC), "PNG")[:-200], "truncated|damaged"),
        (encoded(Image.new("RGB", (1, 1)), "PNG"), "1 x 1"),
        (encoded(Image.new("RGB", (31, 64)), "PNG"), "31 x 64.*at least 32"),
        (png_header(30000, 30000), "30000 x 30000|far too large"),
        (png_header(9500, 9500), "9500 x 9500 = 90 million"),
    ],
)
def test_not_a_photo(tmp_path, data, message):
    path = tmp_path / "face.jpg"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=message) as caught:
        read_photo(path)
    text = str(caught.value)
    assert "face.jpg" in text and "\n" not in text


def test_missing_and_folder(tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        read_photo(tmp_path / "absent.jpg")
    with pytest.raises(ImageError, match="relative to the current folder"):
        read_photo("absent.jpg")
    with pytest.raises(ImageError, match="is a folder"):
        read_photo(tmp_path)
    with pytest.raises(ImageError):
        read_photo("nul\0inside.jpg")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are a POSIX thing")
def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="not a regular file"):
        read_photo(tmp_path / "pipe.jpg")


def test_the_size_is_checked_before_decoding(tmp_path, monkeypatch):
    def no_decoding(self):
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", no_decoding)
    for side in (9500, 30000):
        (tmp_path / "bomb.png").write_bytes(png_header(side, side))
        with pytest.raises(ImageError, match="million"):
            read_photo(tmp_path / "bomb.png")


def test_pillow_settings_are_left_alone(tmp_path):
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    (tmp_path / "a.jpg").write_bytes(JPEG)
    read_photo(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes(JPEG[:300])
    with pytest.raises(ImageError):
        read_photo(tmp_path / "b.jpg")
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    assert Image.MAX_IMAGE_PIXELS == MAX_PIXELS


def _seeds() -> list[bytes]:
    image = Image.fromarray(PIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    return [
        encoded(image, "JPEG", exif=exif),
        encoded(image, "PNG"),
        encoded(image, "GIF"),
        encoded(image, "WEBP"),
        encoded(image, "BMP"),
        encoded(image, "PPM"),
        encoded(image, "TGA"),
        encoded(image, "TIFF", compression="tiff_lzw"),
        encoded(Image.fromarray(PIC[..., 0].astype(np.uint16) * 257), "TIFF"),
        encoded(image.convert("CMYK"), "JPEG"),
    ]


SEEDS = _seeds()
QUICK = settings(max_examples=800, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _only_image_error(tmp_path, data: bytes) -> None:
    path = tmp_path / "fuzz.bin"
    path.write_bytes(data)
    try:
        photo = read_photo(path)
    except ImageError as error:
        assert "fuzz.bin" in str(error)
    else:
        assert photo.rgb.dtype == np.uint8 and photo.rgb.shape[2] == 3 and min(photo.rgb.shape[:2]) >= 32


@pytest.mark.filterwarnings("ignore")
@QUICK
@given(st.data())
def test_mutated_files_raise_only_image_error(tmp_path, data):
    seed = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 6))):
        # Mostly in the header, where a change does more.
        end = data.draw(st.sampled_from([40, 200, len(seed)]))
        seed[data.draw(st.integers(0, min(end, len(seed)) - 1))] = data.draw(st.integers(0, 255))
    _only_image_error(tmp_path, bytes(seed))


@pytest.mark.filterwarnings("ignore")
@QUICK
@given(st.sampled_from(SEEDS), st.floats(0, 1))
def test_truncated_files_raise_only_image_error(tmp_path, seed, part):
    _only_image_error(tmp_path, seed[: int(part * len(seed))])


@QUICK
@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0", b"BM"]),
)
def test_random_bytes_raise_only_image_error(tmp_path, data, magic):
    _only_image_error(tmp_path, magic + data)


def test_pillow_warnings_as_errors_still_give_image_error(tmp_path):
    import warnings

    stream = io.BytesIO(png_header(12000, 12000))  # between Pillow's warning and its error
    (tmp_path / "big.png").write_bytes(stream.getvalue())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match="million"):
            read_photo(tmp_path / "big.png")
