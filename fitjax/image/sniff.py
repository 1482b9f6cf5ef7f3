"""What a file really is, from its first bytes: the common reasons why something named ``.jpg`` is not a photo."""

from __future__ import annotations

__all__ = ["not_a_photo"]

_LFS = b"version https://git-lfs.github.com/spec/"
_HTML = (b"<!doctype html", b"<html", b"<head", b"<body", b"<script")
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")


def not_a_photo(data: bytes) -> str | None:
    """Why these bytes cannot be a photo, with what to do, or None when nothing is obviously wrong.

    Args:
        data: the file's bytes (the first 1000 are enough).
    """
    if not data:
        return "the file is empty (0 bytes): the download or copy failed; fetch it again"
    head = data[:1000].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(_LFS):
        return "the file is a Git-LFS pointer, not the photo itself: run `git lfs pull` in its repository"
    is_xml = head.startswith(b"<?xml")
    if b"<svg" in head and (is_xml or head.startswith((b"<svg", b"<!doctype svg"))):
        return "the file is an SVG drawing: expected a photo; export it as PNG"
    if head.startswith(_HTML) or (is_xml and b"<html" in head):
        return (
            "the file looks like an HTML page, not a photo: open its address in a browser and save the picture itself"
        )
    if is_xml:
        return "the file is XML, not a photo: an error answer of a server? Fetch the picture again"
    if data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS:
        return "HEIC photos are not supported: convert it to JPEG (iPhone: Settings, Camera, Formats, Most Compatible)"
    if head.startswith(b"%pdf"):
        return "the file is a PDF document: expected a photo; export the page as PNG"
    if data[:4] == b"PK\x03\x04":
        return "the file is a ZIP archive: expected a photo; unpack it first"
    if not data.strip(b"\0"):
        return "the file holds only zero bytes: the download or copy failed; fetch it again"
    return None
