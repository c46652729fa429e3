"""Which endings of file names are images, and which of those can be read here."""

from __future__ import annotations

from PIL import Image, features

_PILLOW = frozenset(
    {
        ".apng", ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".hif", ".j2c", ".j2k",
        ".jfif", ".jp2", ".jpc", ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx", ".jxl", ".mpo", ".pbm",
        ".pcx", ".pfm", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".ras", ".sgi", ".tga", ".tif",
        ".tiff", ".webp",
    }
)  # fmt: skip
"""Formats that photographs and scans are kept in, and that Pillow reads, or a plugin of it."""
_OTHERS = frozenset(
    {
        ".3fr", ".arw", ".cr2", ".cr3", ".dcm", ".dng", ".exr", ".fits", ".hdr", ".nef", ".nii",
        ".nrrd", ".nrw", ".orf", ".pef", ".psd", ".raf", ".raw", ".rw2", ".srw", ".svg", ".xcf",
    }
)  # fmt: skip
"""Images as well, but to be converted first."""
IMAGES = _PILLOW | _OTHERS


def readable_endings() -> frozenset[str]:
    """The endings, in lower case, of images that are read: what this Pillow can do, as installed.

    Formats that a plugin adds to it (``pillow_heif.register_heif_opener()`` in a file that
    ``--plugins`` names) are among them.
    """
    formats = Image.registered_extensions()
    can = {*Image.OPEN, "MPO"}  # MPO files are opened as the JPEG files that they begin as
    if not features.check("jpg_2000"):
        can.discard("JPEG2000")
    return frozenset(ending for ending in _PILLOW if formats.get(ending) in can)
