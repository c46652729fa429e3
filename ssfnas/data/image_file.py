"""One image file: what its header tells, and its pixels, upright, opaque and in 8 bits."""

from __future__ import annotations

import contextlib
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from ssfnas.data.file_warnings import about
from ssfnas.data.pixel_range import PixelRange, check_finite, to_8_bits
from ssfnas.errors import RequestError

Array = npt.NDArray[Any]

BACKGROUNDS = {"white": 255, "gray": 128, "black": 0}
"""What transparent pixels are composed on."""

EIGHT_BITS, DEEP, FLOAT = "8 bits", "integers of more than 8 bits", "floating-point numbers"

_GRAY_MODES = frozenset({"1", "L", "LA", "La", "F"})
_ALPHA_MODES = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_BITS = 256, 257, 258
_PNG_GRAY_TYPES = (0, 4)
_PNG_ALPHA_TYPES = (4, 6)
_PNG_METADATA = frozenset({b"eXIf", b"tEXt", b"zTXt", b"iTXt"})


@dataclass(frozen=True)
class Header:
    """What the beginning of a file tells of its image.

    Attributes:
        height, width: in pixels, as the image is seen: turned as its metadata say.
        channels: 1 for gray, else 3.
        depth: what a channel holds: :data:`EIGHT_BITS`, :data:`DEEP` or :data:`FLOAT`.
        reduced: whether it is 8 bits because no more of its 16 are read.
        alpha: whether pixels may be transparent.
    """

    height: int
    width: int
    channels: int
    depth: str
    reduced: bool = False
    alpha: bool = False


def read_header(path: Path) -> Header:
    """The header of an image file. No pixel is decoded, but where a PNG keeps metadata behind them.

    Raises:
        RequestError: a file that is not an image.
    """
    with _opened(path) as image:
        width, height = image.size
        if hasattr(image, "tag_v2"):
            # Some versions of Pillow swap the size of a TIFF that is to be turned, others do not.
            width, height = image.tag_v2[_TIFF_WIDTH], image.tag_v2[_TIFF_HEIGHT]
        png = _deep_png(image)
        channels = 1 if image.mode in _GRAY_MODES or image.mode.startswith("I") else 3
        if png is not None:
            channels = 1 if png in _PNG_GRAY_TYPES else 3
        depth = _depth(image, png)
        reduced = depth == EIGHT_BITS and max(_bits(image)) > 8
        if _orientation(image) in (5, 6, 7, 8):
            width, height = height, width
        alpha = _may_be_transparent(image) or png in _PNG_ALPHA_TYPES
        return Header(height, width, channels, depth, reduced, alpha)


def decode_image(
    path: Path,
    channels: int,
    background: str = "white",
    pixel_range: PixelRange | None = None,
) -> Array:
    """The pixels of an image file, turned upright, transparent ones composed on a background.

    An animation or a file of several pages gives its first image.

    Args:
        path: the file.
        channels: 1 (the image is gray) or 3.
        background: one of :data:`BACKGROUNDS`.
        pixel_range: what becomes 0 and 255 where pixels have more than 8 bits
            (:func:`ssfnas.data.pixel_range.to_8_bits`); None where they have 8.

    Returns:
        uint8 [H, W, channels].

    Raises:
        RequestError: a file that cannot be decoded, or whose pixels have more than 8 bits without
            ``pixel_range``, or 8 bits with one.
    """
    with _opened(path) as image:
        depth = _depth(image, _deep_png(image))
        if (depth == EIGHT_BITS) != (pixel_range is None):
            others = "8 bits" if pixel_range is None else "more"
            raise RequestError(
                f"{path}: pixels of {depth}, but the others have {others}: convert all to one depth"
            )
        return _pixels(path, image, channels, background, pixel_range)[0]


def decode_any(
    path: Path, channels: int, background: str = "white", pixel_range: PixelRange | None = None
) -> tuple[Array, tuple[str, ...]]:
    """As :func:`decode_image`, for a network that was trained on other files.

    Args:
        path: the file, of whatever depth, gray or colored.
        channels: 1 or 3, as the network takes them.
        background: one of :data:`BACKGROUNDS`.
        pixel_range: what became 0 and 255 where pixels that were trained on had more than 8 bits;
            None where they had 8.

    Returns:
        uint8 [H, W, channels], and what was done to them, by the keys of
        :data:`ssfnas.data.new_images.DONE`. Colors become their luminance (ITU-R BT.601, as Pillow
        computes it), gray is repeated. Pixels of 8 bits are taken as they are. Of deeper ones
        ``pixel_range`` becomes 0 to 255, and without one what 16 bits hold: 0 to 65535.

    Raises:
        RequestError: a file that cannot be decoded, or whose pixels are of no known range.
    """
    with _opened(path) as image:
        return any_pixels(path, image, channels, background, pixel_range)


def any_pixels(
    path: Path, image: Any, channels: int, background: str, pixel_range: PixelRange | None
) -> tuple[Array, tuple[str, ...]]:
    """The pixels of an image of Pillow's; see :func:`decode_any`.

    Args:
        path: of its file; of an image without one, what messages call it.
        image: opened, perhaps not loaded.
        channels, background, pixel_range: see :func:`decode_any`.
    """
    depth = _depth(image, _deep_png(image))
    if depth == EIGHT_BITS:
        done = () if pixel_range is None else ("shallow",)
        pixel_range = None
    elif pixel_range is not None:
        done = ("scaled",)
    else:
        pixel_range, done = range_of_depth(str(path), depth, _is_16_bit(image)), ("whole",)
    pixels, found = _pixels(path, image, channels, background, pixel_range)
    return pixels, (*done, *found)


def range_of_depth(where: str, depth: str, sixteen: bool) -> PixelRange:
    """What becomes 0 and 255 of deep pixels, for a network that was trained on 8 bits.

    Raises:
        RequestError: they are no integers of 16 bits, whose range is known.
    """
    if not sixteen:
        raise RequestError(
            f"{where}: pixels of {depth}, and the network was trained on 8 bits: which of their "
            "values are black and white is not told, convert them to 8 bits"
        )
    return 0.0, 65535.0


def _is_16_bit(image: Any) -> bool:
    return image.mode.startswith("I;16") or image.format == "PNG"  # some Pillows: mode I


def _pixels(
    path: Path, image: Any, channels: int, background: str, pixel_range: PixelRange | None
) -> tuple[Array, tuple[str, ...]]:
    """Pixels uint8 [H, W, channels], upright and opaque, and what was done to them."""
    if pixel_range is None:
        pixels, alpha, own = _eight_bit_pixels(image, channels)
    else:
        deep, opacity = _deep_pixels(path, image)
        check_finite(deep, str(path))
        own = deep.shape[2]
        pixels = to_8_bits(deep, pixel_range)
        alpha = None if opacity is None else np.rint(255 * opacity).astype(np.uint8)
        if channels < own:
            pixels = np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
    done = [] if own == channels else ["gray" if own < channels else "color"]
    if alpha is not None:
        pixels = _composed(pixels, alpha, BACKGROUNDS[background])
        done += ["composed"] if alpha.min() < 255 else []
    orientation = _orientation(image)
    upright = _upright(pixels, orientation)
    done += ["turned"] if orientation != 1 else []
    if upright.shape[2] < channels:
        upright = upright.repeat(channels, 2)
    return np.array(upright, order="C"), tuple(done)


def check_readable(path: Path) -> None:
    """Decode all of a file.

    Raises:
        RequestError: it cannot be decoded, or has a pixel that is no finite number.
    """
    with _opened(path) as image:
        if _depth(image, _deep_png(image)) == EIGHT_BITS:
            image.load()
        else:
            pixels, _ = _deep_pixels(path, image)
            check_finite(pixels, str(path))


def deep_range(path: Path) -> PixelRange | None:
    """Smallest and largest value of a file of more than 8 bits; wholly transparent pixels aside.

    Returns:
        None where every pixel is transparent.

    Raises:
        RequestError: a file that cannot be decoded, or with a pixel that is no finite number.
    """
    with _opened(path) as image:
        pixels, opacity = _deep_pixels(path, image)
        check_finite(pixels, str(path))
        if opacity is not None:
            pixels = pixels[opacity > 0]
        return (float(pixels.min()), float(pixels.max())) if pixels.size else None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The image of a file; whatever goes wrong with it is told as one line naming the file."""
    try:
        with about(path), _open(path) as image:
            yield image
    except RequestError:
        raise
    except Exception as error:
        # Decoders raise whatever their format's parser ran into (struct.error, SyntaxError, ...).
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RequestError(
            f"{path}: cannot be decoded as an image ({reason}): repair or remove it, or leave out "
            "at most N such files by --skip-corrupt N"
        ) from error


def _open(path: Path) -> Any:
    """By the format that its ending stands for, and where it is another, by trying all of them."""
    expected = Image.EXTENSION.get(path.suffix.lower())
    if expected in Image.OPEN:
        with contextlib.suppress(UnidentifiedImageError):
            return Image.open(path, formats=[expected])
    return Image.open(path)


def _depth(image: Any, deep_png: int | None) -> str:
    if image.mode == "F":
        return FLOAT
    return DEEP if image.mode.startswith("I") or deep_png is not None else EIGHT_BITS


def _bits(image: Any) -> tuple[int, ...]:
    """Bits of each channel of a TIFF file; 8 where they are not told."""
    tags = getattr(image, "tag_v2", {})
    return tuple(tags.get(_TIFF_BITS, (8,)))


def _deep_png(image: Any) -> int | None:
    """The color type of a PNG of 16 bits a channel, of whose colors Pillow keeps 8; else None."""
    if image.format != "PNG" or image.fp is None:
        return None
    depth, color_type = _bytes_at(image.fp, 24, 2)
    return color_type if depth == 16 else None


def _bytes_at(stream: Any, position: int, count: int) -> bytes:
    place = stream.tell()
    stream.seek(position)
    found: bytes = stream.read(count)
    stream.seek(place)
    return found


def _orientation(image: Any) -> int:
    """1 to 8, as EXIF (or XMP) says that what is decoded is to be turned; 1: not at all."""
    if image.format == "PNG" and image.fp is not None and _metadata_behind_pixels(image.fp):
        image.load()
    try:
        # PNG's own method would decode the pixels to look behind them.
        return int(Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1))
    except Exception as error:
        # Parsers of metadata raise a dozen types; the pixels are whole all the same.
        warnings.warn(f"its metadata cannot be read ({error}): taken as upright", stacklevel=2)
        return 1


def _metadata_behind_pixels(stream: Any) -> bool:
    """Whether a PNG has chunks with metadata after its pixels."""
    place, position, pixels = stream.tell(), 8, False
    try:
        while True:
            stream.seek(position)
            head = stream.read(8)
            if len(head) < 8:
                return False
            length, kind = struct.unpack(">I4s", head)
            if pixels and kind in _PNG_METADATA:
                return True
            pixels |= kind == b"IDAT"
            position += length + 12
    finally:
        stream.seek(place)


def _upright(pixels: Array, orientation: int) -> Array:
    """Pixels [H, W, ...] turned and mirrored as EXIF's orientation says."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _may_be_transparent(image: Any) -> bool:
    return image.mode in _ALPHA_MODES or "transparency" in image.info


def _eight_bit_pixels(image: Any, channels: int) -> tuple[Array, Array | None, int]:
    """Pixels uint8 [H, W, channels], their alpha uint8 [H, W] where there may be any.

    And the channels that they have in the file, 1 or 3.
    """
    image.load()
    own = 1 if image.mode in _GRAY_MODES else 3
    if _may_be_transparent(image):
        # Straight to one of four bands: Pillow warns of palettes, and knows premultiplied alpha.
        straight = image.convert("RGBA")
        alpha = np.asarray(straight.getchannel("A"))
        pixels = np.asarray(straight.convert("L" if channels == 1 else "RGB"))
        return pixels.reshape(*pixels.shape[:2], channels), alpha, own
    pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], channels), None, own


def _deep_pixels(path: Path, image: Any) -> tuple[Array, Array | None]:
    """Pixels [H, W, 1 or 3] as they stand in the file, and their opacity in 0 .. 1 [H, W]."""
    color_type = _deep_png(image)
    image.load()
    transparent = image.info.get("transparency")
    if color_type:
        # Pillow would keep the upper 8 bits.
        from torchvision.io import ImageReadMode, decode_png, read_file

        decoded = decode_png(read_file(str(path)), ImageReadMode.UNCHANGED)
        pixels = decoded.numpy().transpose(1, 2, 0)
    else:
        pixels = np.asarray(image)[..., None]
    if pixels.shape[2] in (2, 4):
        return pixels[..., :-1], pixels[..., -1] / 65535
    if transparent is None:
        return pixels, None
    return pixels, (pixels != np.array(transparent)).any(2).astype(float)


def _composed(pixels: Array, alpha: Array, background: int) -> Array:
    """Pixels uint8 [H, W, C] over an opaque background, rounded to the nearest."""
    opacity = alpha.astype(np.uint32)[..., None]
    mixed = pixels * opacity + background * (255 - opacity)
    return ((mixed + 127) // 255).astype(np.uint8)
