"""Reading photos: orientation, colour modes, profiles, focal length and huge files."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
from fixtures_images import as_recorded, encoded, exif_with, picture
from PIL import Image, ImageCms

from fitjax.errors import ImageError
from fitjax.image import downscale_for_detection, photo_from_array, read_photo

PIC = picture()
DIAGONAL = float(np.hypot(64, 48))


def read(tmp_path, data: bytes, name: str = "photo.bin"):
    path = tmp_path / name
    path.write_bytes(data)
    return read_photo(path)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(tmp_path, orientation, kind):
    stored = Image.fromarray(np.ascontiguousarray(as_recorded(PIC, orientation)))
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    photo = read(tmp_path, encoded(stored, kind, exif=exif_with(orientation), **options))
    assert photo.rgb.shape == (48, 64, 3) and photo.rgb.dtype == np.uint8
    tolerance = 4 if kind == "JPEG" else 0
    assert np.abs(photo.rgb.astype(int) - PIC).max() <= tolerance


@pytest.mark.parametrize("orientation", [0, 9, 999])
def test_exif_orientation_out_of_range_is_ignored(tmp_path, orientation):
    photo = read(tmp_path, encoded(Image.fromarray(PIC), "PNG", exif=exif_with(orientation)))
    assert (photo.rgb == PIC).all()


def test_hash_path_and_read_only(tmp_path):
    data = encoded(Image.fromarray(PIC), "BMP")
    photo = read(tmp_path, data)
    assert photo.sha256 == hashlib.sha256(data).hexdigest()
    assert photo.path.endswith("photo.bin") and (photo.width, photo.height) == (64, 48)
    assert photo.focal_px is None and photo.warnings == ()
    assert (photo.rgb == PIC).all() and not photo.rgb.flags.writeable


def test_grey_and_one_bit(tmp_path):
    grey = PIC[..., 0]
    assert (read(tmp_path, encoded(Image.fromarray(grey), "PNG")).rgb == grey[..., None]).all()
    photo = read(tmp_path, encoded(Image.fromarray(grey > 127), "PNG"))
    assert (photo.rgb == np.where(grey > 127, 255, 0)[..., None]).all()


def test_alpha_is_composited_on_white(tmp_path):
    alpha = np.full((48, 64), 255, np.uint8)
    alpha[:, 32:] = 0
    photo = read(tmp_path, encoded(Image.fromarray(np.dstack([PIC, alpha])), "PNG"))
    assert (photo.rgb[:, :32] == PIC[:, :32]).all() and (photo.rgb[:, 32:] == 255).all()
    assert any("white" in w for w in photo.warnings)
    photo = read(tmp_path, encoded(Image.fromarray(np.dstack([PIC[..., 0], alpha])), "PNG"))
    assert (photo.rgb[:, :32] == PIC[:, :32, :1]).all() and (photo.rgb[:, 32:] == 255).all()
    half = np.dstack([np.zeros_like(PIC), np.full((48, 64), 128, np.uint8)])
    assert (read(tmp_path, encoded(Image.fromarray(half), "PNG")).rgb == 127).all()


def test_palette_with_transparency(tmp_path):
    image = Image.fromarray(np.repeat(np.arange(4, dtype=np.uint8), 16)[None].repeat(48, axis=0), mode=None)
    palette = Image.frombytes("P", image.size, image.tobytes())
    palette.putpalette([10, 20, 30, 200, 100, 50, 0, 255, 0, 9, 9, 9] + [0] * 756)
    photo = read(tmp_path, encoded(palette, "PNG", transparency=2))
    assert photo.rgb[0, [0, 16, 32, 48]].tolist() == [[10, 20, 30], [200, 100, 50], [255, 255, 255], [9, 9, 9]]
    photo = read(tmp_path, encoded(palette, "PNG"))
    assert photo.rgb[0, 32].tolist() == [0, 255, 0]


def test_cmyk_with_and_without_the_adobe_marker(tmp_path):
    colour = np.zeros((48, 64, 3), np.uint8) + np.array([200, 60, 20], np.uint8)
    cmyk = Image.fromarray(colour).convert("CMYK")
    for kind, options in (("TIFF", {}), ("JPEG", {"quality": 98})):  # Pillow's JPEG is Adobe's inverted kind
        data = encoded(cmyk, kind, **options)
        assert kind != "JPEG" or b"Adobe" in data
        photo = read(tmp_path, data)
        assert np.abs(photo.rgb.astype(int) - colour).max() <= 3
        assert any("CMYK" in w for w in photo.warnings)


def test_sixteen_bit_integer_and_float_grey(tmp_path):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)[None].repeat(48, axis=0)
    expected = np.rint(ramp / 257.0).astype(int)
    for kind in ("PNG", "TIFF"):
        got = read(tmp_path, encoded(Image.fromarray(ramp), kind)).rgb
        assert (got[..., 0] == expected).all() and (got[..., 0] == got[..., 2]).all()
    photo = read(tmp_path, encoded(Image.fromarray(ramp.astype(np.int32)), "TIFF"))
    assert (photo.rgb[..., 1] == expected).all() and any("65535" in w for w in photo.warnings)
    for full in (1.0, 255.0):
        photo = read(tmp_path, encoded(Image.fromarray((ramp / 65535 * full).astype(np.float32)), "TIFF"))
        assert np.abs(photo.rgb[..., 1] - ramp / 257.0).max() <= 0.51


def test_float_tiff_with_nan_or_out_of_range_is_refused(tmp_path):
    values = np.zeros((48, 64), np.float32)
    values[3, 4] = np.nan
    with pytest.raises(ImageError, match="NaN"):
        read(tmp_path, encoded(Image.fromarray(values), "TIFF"))
    values[3, 4] = -5.0
    with pytest.raises(ImageError, match="-5"):
        read(tmp_path, encoded(Image.fromarray(values), "TIFF"))


def test_gif_takes_the_first_frame(tmp_path):
    frames = [Image.new("RGB", (64, 48), c) for c in ((255, 0, 0), (0, 255, 0))]
    photo = read(tmp_path, encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert (photo.rgb == [255, 0, 0]).all() and any("first" in w for w in photo.warnings)


def test_lab_tiff(tmp_path):
    lab = ImageCms.profileToProfile(
        Image.new("RGB", (64, 48), (200, 60, 20)),
        ImageCms.createProfile("sRGB"),
        ImageCms.createProfile("LAB"),
        outputMode="LAB",
    )
    assert np.abs(read(tmp_path, encoded(lab, "TIFF")).rgb.astype(int) - [200, 60, 20]).max() <= 4


def _linear_profile() -> bytes:
    """sRGB's profile with its three tone curves replaced by gamma 1, so that conversion must apply sRGB's own curve."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    linear = b"curv" + bytes(8)  # a curve of no entries is the identity
    for k in range(int.from_bytes(profile[128:132], "big")):
        entry = 132 + 12 * k
        if profile[entry : entry + 4] in (b"rTRC", b"gTRC", b"bTRC"):
            start = int.from_bytes(profile[entry + 4 : entry + 8], "big")
            profile[start : start + 12] = linear
            profile[entry + 8 : entry + 12] = (12).to_bytes(4, "big")
    return bytes(profile).replace("sRGB".encode("utf-16-be"), "lRGB".encode("utf-16-be"))


def test_icc_profile_is_converted_to_srgb(tmp_path):
    image = Image.new("RGB", (64, 48), (55, 55, 55))
    photo = read(tmp_path, encoded(image, "PNG", icc_profile=_linear_profile()))
    linear = 55 / 255
    expected = 255 * (1.055 * linear ** (1 / 2.4) - 0.055)  # 128.0
    assert np.abs(photo.rgb - expected).max() <= 1.5
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert (read(tmp_path, encoded(Image.fromarray(PIC), "PNG", icc_profile=srgb)).rgb == PIC).all()
    alpha = Image.new("RGBA", (64, 48), (55, 55, 55, 255))
    photo = read(tmp_path, encoded(alpha, "PNG", icc_profile=_linear_profile()))
    assert np.abs(photo.rgb - expected).max() <= 1.5


@pytest.mark.parametrize("profile", [b"garbage", b"\0" * 200])
def test_broken_icc_profile_is_ignored_with_a_warning(tmp_path, profile):
    photo = read(tmp_path, encoded(Image.fromarray(PIC), "PNG", icc_profile=profile))
    assert (photo.rgb == PIC).all() and any("ICC" in w for w in photo.warnings)


def test_focal_length_from_35mm_equivalent(tmp_path):
    for orientation in (1, 6):
        exif = exif_with(orientation, tag_0xA405=50)
        photo = read(tmp_path, encoded(Image.fromarray(PIC), "JPEG", exif=exif))
        assert photo.focal_px == pytest.approx(50 / 43.2666 * DIAGONAL, rel=1e-4)


def test_focal_length_from_focal_plane_resolution(tmp_path):
    # 6400 pixels recorded, now 64: 8 mm x 3200 pixels/cm / 10 mm / 100.
    exif = exif_with(None, tag_0x920A=8.0, tag_0xA20E=3200.0, tag_0xA210=3, tag_0xA002=6400, tag_0xA003=4800)
    assert read(tmp_path, encoded(Image.fromarray(PIC), "JPEG", exif=exif)).focal_px == pytest.approx(25.6, rel=1e-4)
    # Inches are the default unit.
    exif = exif_with(None, tag_0x920A=8.0, tag_0xA20E=254.0)
    assert read(tmp_path, encoded(Image.fromarray(PIC), "JPEG", exif=exif)).focal_px == pytest.approx(80.0, rel=1e-4)


def test_focal_length_absent_or_implausible_or_cropped(tmp_path):
    def focal(**tags):
        photo = read(tmp_path, encoded(Image.fromarray(PIC), "JPEG", exif=exif_with(None, **tags)))
        return photo.focal_px, photo.warnings

    assert focal() == (None, ())
    assert focal(tag_0xA405=0) == (None, ())
    assert focal(tag_0x920A=8.0) == (None, ())
    value, warnings = focal(tag_0xA405=2)
    assert value is None and "implausible" in warnings[0]
    value, warnings = focal(tag_0xA405=50, tag_0xA002=4000, tag_0xA003=2000)
    assert value is None and "cropped" in warnings[0]


def test_arrays():
    assert (photo_from_array(PIC).rgb == PIC).all()
    assert (photo_from_array(PIC.astype(np.uint16) * 257).rgb == PIC).all()
    assert (photo_from_array(PIC / 255.0).rgb == PIC).all()
    assert (photo_from_array((PIC / 255.0).astype(np.float32)).rgb == PIC).all()
    assert (photo_from_array(PIC[..., 0]).rgb == PIC[..., :1]).all()
    assert (photo_from_array(PIC[..., :1]).rgb == PIC[..., :1]).all()
    assert (photo_from_array(PIC[..., 0] > 99).rgb == np.where(PIC[..., :1] > 99, 255, 0)).all()
    rgba = np.dstack([np.zeros_like(PIC), np.full((48, 64), 51, np.uint8)])
    assert (photo_from_array(rgba).rgb == 204).all()
    photo = photo_from_array(PIC, name="mine", focal_px=99)
    assert photo.focal_px == 99.0 and photo.path == "mine"
    assert photo.sha256 == hashlib.sha256(PIC.tobytes()).hexdigest()
    source = PIC.copy()
    photo = photo_from_array(source)
    source[:] = 0
    assert (photo.rgb == PIC).all()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((48, 64, 3), np.nan), "x=0, y=0 is nan"),
        (np.full((48, 64, 3), 1.5), r"\[0, 1\], found 1.5"),
        (np.full((48, 64, 3), -0.5), r"found -0.5"),
        (np.zeros((48, 64, 3), np.int64), "int64"),
        (np.zeros((3, 48, 64), np.uint8), "transpose"),
        (np.zeros((2, 48, 64, 3), np.uint8), "one image at a time"),
        (np.zeros((48,), np.uint8), r"\(48,\)"),
        (np.zeros((0, 64, 3), np.uint8), "no pixels"),
        (np.zeros((31, 64, 3), np.uint8), "64 x 31"),
        (np.array("text"), r"found \(\)"),
    ],
)
def test_bad_arrays(array, message):
    with pytest.raises(ImageError, match=message):
        photo_from_array(array, name="input")


@pytest.mark.parametrize("focal", [0, -1, np.nan, np.inf])
def test_bad_focal_length(focal):
    with pytest.raises(ImageError, match="focal_px"):
        photo_from_array(PIC, focal_px=focal)


def test_large_photo_reads(tmp_path):
    stream = io.BytesIO()
    Image.new("RGB", (8000, 6000), (10, 200, 30)).save(stream, "JPEG", quality=50)
    photo = read(tmp_path, stream.getvalue())
    assert photo.rgb.shape == (6000, 8000, 3) and abs(int(photo.rgb[3000, 4000, 1]) - 200) <= 2


def test_downscale_keeps_the_pixel_frame():
    small, scale = downscale_for_detection(PIC, 100)
    assert small is PIC and scale == 1.0
    # A smooth blob's centroid tells where points went; 1001 x 777 does not divide evenly.
    y, x = np.mgrid[0:777, 0:1001]
    blob = 250 * np.exp(-((x - 700.3) ** 2 + (y - 201.7) ** 2) / (2 * 40**2))
    small, scale = downscale_for_detection(np.repeat(np.rint(blob).astype(np.uint8)[..., None], 3, axis=2), 160)
    assert small.shape == (124, 160, 3) and scale == pytest.approx(160 / 1001)
    weight = small[..., 0].astype(float)
    v, u = np.mgrid[0:124, 0:160]
    centre = np.array([(u * weight).sum(), (v * weight).sum()]) / weight.sum()
    assert np.abs((centre + 0.5) / scale - 0.5 - [700.3, 201.7]).max() < 0.15
    with pytest.raises(ImageError, match="at least 32"):
        downscale_for_detection(PIC, 8)
