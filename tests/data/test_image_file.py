import struct
import warnings

import numpy as np
import pytest
from PIL import Image

from ssfnas.data.decoding import FolderImages, map_threads
from ssfnas.data.image_file import (
    BACKGROUNDS,
    DEEP,
    EIGHT_BITS,
    FLOAT,
    decode_image,
    deep_range,
    read_header,
)
from ssfnas.errors import RequestError
from tests.image_files import write_png

ORIENTATION = 0x0112
# What each value of EXIF's orientation asks for, by numpy's own turns.
UPRIGHT = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.swapaxes(np.rot90(a, 2), 0, 1),
    8: lambda a: np.rot90(a, 1),
}


def noise(*shape, high=256, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, high, shape).astype(dtype)


def blocks(height=3, width=5, channels=3):
    """Blocks of 16 x 16 pixels, which lossy formats keep apart."""
    colors = noise(height, width, channels) // 128 * 200
    return np.kron(colors, np.ones((16, 16, 1), np.uint8)).astype(np.uint8)


def shape_of(path):
    header = read_header(path)
    return header.height, header.width, header.channels


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "avif", "tif", "lzw.tif"])
def test_images_of_every_format_are_turned_upright(tmp_path, ending, orientation):
    path = tmp_path / f"x.{ending}"
    pixels = blocks()
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {
        "jpg": {"exif": exif, "quality": 95, "subsampling": 0},
        "png": {"exif": exif},
        "webp": {"exif": exif, "lossless": True},
        "avif": {"exif": exif, "quality": 95, "subsampling": "4:4:4"},
        "tif": {"tiffinfo": {ORIENTATION: orientation}},
        "lzw.tif": {"tiffinfo": {ORIENTATION: orientation}, "compression": "tiff_lzw"},
    }
    try:
        Image.fromarray(pixels).save(path, **options[ending])
    except (KeyError, OSError, ValueError):
        pytest.skip(f"this Pillow writes no {ending}")
    expected = UPRIGHT[orientation](pixels)
    decoded = decode_image(path, 3)
    assert decoded.shape == expected.shape == shape_of(path)
    assert np.abs(decoded.astype(int) - expected).max() <= (60 if ending in ("jpg", "avif") else 0)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("kind", ["eXIf", "XMP"])
def test_png_metadata_count_before_and_behind_the_pixels(tmp_path, kind, late):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    chunk = (b"eXIf", exif.tobytes()[6:])
    if kind == "XMP":
        text = b'<rdf:Description tiff:Orientation="6"/>'
        chunk = (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + text)
    pixels = noise(3, 7, 3)
    path = write_png(tmp_path / "x.png", pixels, **{"after" if late else "before": [chunk]})
    assert shape_of(path) == (7, 3, 3)
    assert np.array_equal(decode_image(path, 3), np.rot90(pixels, -1))


def test_a_header_costs_no_pixels(tmp_path, monkeypatch):
    paths = [tmp_path / f"x.{ending}" for ending in ("png", "jpg", "tif", "webp", "bmp")]
    for path in paths:
        Image.fromarray(noise(4, 6, 3)).save(path)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda image: pytest.fail("decoded"))
    assert [shape_of(path) for path in paths] == [(4, 6, 3)] * len(paths)


@pytest.mark.parametrize("ending", ["jpg", "tga", "gif", "mpo"])
def test_files_with_the_ending_of_another_format_are_read(tmp_path, ending):
    pixels = noise(4, 6, 3)
    Image.fromarray(pixels).save(tmp_path / f"x.{ending}", "PNG")
    assert np.array_equal(decode_image(tmp_path / f"x.{ending}", 3), pixels)


def over(color, alpha, background):
    """Alpha compositing in float64."""
    share = alpha.astype(np.float64)[..., None] / 255
    return color * share + background * (1 - share)


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_are_composed(tmp_path, mode, background):
    pixels = noise(9, 8, len(mode))
    pixels[0, :, -1], pixels[1, :, -1] = 0, 255
    Image.fromarray(pixels, mode).save(tmp_path / "x.png")
    expected = over(pixels[..., :-1], pixels[..., -1], BACKGROUNDS[background])
    channels = len(mode) - 1
    assert read_header(tmp_path / "x.png").channels == channels
    decoded = decode_image(tmp_path / "x.png", channels, background)
    assert np.abs(decoded - expected).max() <= 0.5 + 1e-9
    assert (decoded[0] == BACKGROUNDS[background]).all()
    assert np.array_equal(decoded[1], pixels[1, :, :-1])
    if mode == "LA":
        assert np.array_equal(decode_image(tmp_path / "x.png", 3, background), decoded.repeat(3, 2))


def palette_of_grays():
    return [value for level in range(256) for value in (level, 255 - level, 7)]


@pytest.mark.parametrize("ending", ["png", "gif"])
def test_transparent_places_of_a_palette_are_composed(tmp_path, ending):
    places = noise(6, 5)
    places[0] = 3
    image = Image.fromarray(places, "P")
    image.putpalette(palette_of_grays())
    image.save(tmp_path / f"x.{ending}", transparency=3, optimize=False)
    expected = np.stack([places, 255 - places, np.full_like(places, 7)], 2)
    expected[places == 3] = 0
    assert np.array_equal(decode_image(tmp_path / f"x.{ending}", 3, "black"), expected)


def test_partly_transparent_palettes_are_composed_without_a_warning(tmp_path):
    places = noise(6, 5)
    image = Image.fromarray(places, "P")
    image.putpalette(palette_of_grays())
    image.save(tmp_path / "x.png", transparency=bytes(range(256)))
    color = np.stack([places, 255 - places, np.full_like(places, 7)], 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoded = decode_image(tmp_path / "x.png", 3)
    assert np.abs(decoded - over(color, places, 255)).max() <= 0.5 + 1e-9


def test_gray_and_colors_that_stand_for_transparency_are_composed(tmp_path):
    gray = noise(5, 4, high=4)
    Image.fromarray(gray).save(tmp_path / "gray.png", transparency=2)
    expected = np.where(gray == 2, 255, gray)
    assert read_header(tmp_path / "gray.png").channels == 1
    assert np.array_equal(decode_image(tmp_path / "gray.png", 1)[..., 0], expected)
    color = noise(5, 4, 3, high=2)
    Image.fromarray(color).save(tmp_path / "color.png", transparency=(1, 0, 1))
    hidden = (color == (1, 0, 1)).all(2)
    assert hidden.any()
    expected = np.where(hidden[..., None], 128, color)
    assert np.array_equal(decode_image(tmp_path / "color.png", 3, "gray"), expected)


def test_bits_and_palettes_are_decoded(tmp_path):
    bits = noise(5, 4, high=2).astype(bool)
    Image.fromarray(bits).save(tmp_path / "bits.png")
    assert np.array_equal(decode_image(tmp_path / "bits.png", 1)[..., 0], 255 * bits)
    assert read_header(tmp_path / "bits.png").channels == 1
    assert read_header(tmp_path / "bits.png").depth == EIGHT_BITS


def deep_files(folder):
    """Name -> its pixels [H, W, C], of every kind of file of more than 8 bits."""
    gray = noise(4, 5, high=65536, dtype=np.uint16)
    color = noise(4, 5, 3, high=65536, dtype=np.uint16)
    Image.fromarray(gray).save(folder / "gray.png")
    Image.fromarray(gray).save(folder / "gray.tif")
    Image.fromarray(gray).save(folder / "gray.lzw.tif", compression="tiff_lzw")
    Image.fromarray(gray.astype(np.int32) - 30_000).save(folder / "signed.tif")
    real = gray / np.float32(1000) - 7
    Image.fromarray(real.astype(np.float32)).save(folder / "real.tif")
    write_png(folder / "color.png", color)
    Image.fromarray(gray).save(folder / "gray.pgm")
    Image.fromarray(real.astype(np.float32)).save(folder / "real.pfm")
    files = {"gray.png": gray, "gray.tif": gray, "gray.lzw.tif": gray, "real.tif": real}
    files |= {"gray.pgm": gray, "real.pfm": real}
    files |= {"signed.tif": gray.astype(np.int64) - 30_000, "color.png": color}
    return {name: np.atleast_3d(pixels).astype(np.float64) for name, pixels in files.items()}


def test_deep_pixels_are_scaled_by_the_range(tmp_path):
    for name, pixels in deep_files(tmp_path).items():
        low, high = np.quantile(pixels, [0.1, 0.9])
        expected = 255 * ((pixels - low) / (high - low)).clip(0, 1)
        channels = pixels.shape[2]
        header = read_header(tmp_path / name)
        assert header.channels == channels
        assert header.depth == (FLOAT if name.startswith("real") else DEEP)
        decoded = decode_image(tmp_path / name, channels, pixel_range=(low, high))
        assert decoded.dtype == np.uint8
        assert np.abs(decoded - expected).max() <= 0.5 + 1e-3
        assert deep_range(tmp_path / name) == pytest.approx((pixels.min(), pixels.max()), rel=1e-6)
        in_color = decode_image(tmp_path / name, 3, pixel_range=(low, high))
        assert np.array_equal(in_color, np.broadcast_to(decoded, (4, 5, 3)))


def test_deep_pixels_are_composed_too_and_hidden_ones_have_no_range(tmp_path):
    pixels = noise(4, 5, 4, high=20_000, dtype=np.uint16) + 10_000
    pixels[..., 3] = 65535
    pixels[0, 0] = (65535, 65535, 65535, 0)
    pixels[1, 1, 3] = 13_107  # a fifth
    path = write_png(tmp_path / "x.png", pixels)
    low, high = deep_range(path)
    visible = np.delete(pixels.reshape(-1, 4)[:, :3], 0, axis=0)
    assert (low, high) == (visible.min(), visible.max())
    decoded = decode_image(path, 3, pixel_range=(low, high))
    assert (decoded[0, 0] == 255).all()
    scaled = 255 * (pixels[1, 1, :3] - low) / (high - low)
    assert np.abs(decoded[1, 1] - (scaled / 5 + 255 * 4 / 5)).max() <= 1
    gray = noise(4, 5, high=500, dtype=np.uint16)
    gray[2, 2] = 499
    Image.fromarray(gray).save(tmp_path / "gray.png", transparency=499)
    assert deep_range(tmp_path / "gray.png")[1] < 499
    assert decode_image(tmp_path / "gray.png", 1, "black", (0, 499))[2, 2] == 0
    color = noise(4, 5, 3, high=500, dtype=np.uint16)
    color[1, 1] = (600, 2, 3)
    hidden = (b"tRNS", struct.pack(">HHH", 600, 2, 3))
    write_png(tmp_path / "color.png", color, before=[hidden])
    assert deep_range(tmp_path / "color.png")[1] < 500
    assert (decode_image(tmp_path / "color.png", 3, "black", (0, 600))[1, 1] == 0).all()
    both = noise(4, 5, 2, high=65536, dtype=np.uint16)
    assert read_header(write_png(tmp_path / "both.png", both)).channels == 1


def test_colors_that_pillow_cuts_to_8_bits_are_told(tmp_path):
    path = tmp_path / "x.tif"
    color = noise(4, 5, 3, high=65536, dtype=np.uint16)
    write_tiff(path, color)
    header = read_header(path)
    assert (header.depth, header.reduced) == (EIGHT_BITS, True)
    assert np.array_equal(decode_image(path, 3), (color >> 8).astype(np.uint8))


def write_tiff(path, pixels):
    """An uncompressed RGB TIFF of 16 bits a channel, which Pillow does not write."""
    height, width, channels = pixels.shape
    data = pixels.astype("<u2").tobytes()
    entries = [
        (256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, 8), (259, 3, 1, 1), (262, 3, 1, 2),
        (273, 4, 1, 14), (277, 3, 1, channels), (278, 3, 1, height), (279, 4, 1, len(data)),
    ]  # fmt: skip
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", *entry) for entry in entries)
    head = struct.pack("<2sHI3H", b"II", 42, 14 + len(data), 16, 16, 16)
    path.write_bytes(head + data + directory + struct.pack("<I", 0))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_none_are_named(tmp_path, value):
    pixels = np.zeros((4, 5), np.float32)
    pixels[2, 3] = value
    path = tmp_path / "x.tif"
    Image.fromarray(pixels).save(path)
    for read in (lambda: deep_range(path), lambda: decode_image(path, 1, pixel_range=(0, 1))):
        with pytest.raises(RequestError) as caught:
            read()
        assert f"{path}: the value at [2, 3, 0] is {value}" in str(caught.value)


def test_another_depth_than_the_others_is_refused(tmp_path):
    deep_files(tmp_path)
    Image.fromarray(noise(4, 5)).save(tmp_path / "x.png")
    with pytest.raises(RequestError, match=r"gray.png: pixels of integers of more than 8 bits"):
        decode_image(tmp_path / "gray.png", 1)
    with pytest.raises(RequestError, match=r"x.png: pixels of 8 bits, but the others have more"):
        decode_image(tmp_path / "x.png", 1, pixel_range=(0, 9))


def exif_of(kind, count, value):
    """EXIF whose one entry is an orientation of that TIFF type."""
    entry = struct.pack("<HHI", 274, kind, count) + value.ljust(4, b"\0")
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", 0)


@pytest.mark.parametrize(
    "exif",
    [
        exif_of(2, 3, b"ab\0"),  # text
        exif_of(7, 1, b"\x06"),  # bytes
        exif_of(11, 1, struct.pack("<f", float("nan"))),
        b"Exif\0\0no header of TIFF",
    ],
)
def test_damaged_metadata_leave_the_pixels_whole(tmp_path, exif):
    pixels = noise(4, 6, 3)
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    with pytest.warns(UserWarning, match="its metadata cannot be read"):
        assert shape_of(tmp_path / "x.png") == (4, 6, 3)
    with pytest.warns(UserWarning, match="taken as upright"):
        assert np.array_equal(decode_image(tmp_path / "x.png", 3), pixels)


def damaged_metadata(folder, count):
    """Files that Pillow warns of."""
    paths = [folder / f"{number}.jpg" for number in range(count)]
    for path in paths:
        # EXIF with an entry that is said to lie beyond its end.
        entry = struct.pack("<HHII", 0x010E, 2, 400, 900)
        exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 1) + entry + bytes(4)
        Image.fromarray(noise(4, 5, 3)).save(path, exif=exif)
    return paths


def test_warnings_are_said_once_with_a_file(tmp_path):
    paths = damaged_metadata(tmp_path, 30)
    with pytest.warns(UserWarning, match=r"jpg: .* \(and so 29 more files\)$") as caught:
        map_threads(read_header, paths)
    assert len(caught) == 1
    assert str(caught[0].message).startswith(f"{tmp_path}/")


def test_a_folder_left_in_its_files_says_a_warning_once(tmp_path, monkeypatch):
    monkeypatch.setattr("ssfnas.data.file_warnings._said", set())
    images = FolderImages(tuple(damaged_metadata(tmp_path, 6)), 4, 5, 3, False)
    with pytest.warns(UserWarning, match="and so 2 more files") as caught:
        images[[0, 1, 2]]
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images[[3, 4, 5]]


def test_reading_in_threads_leaves_the_settings_of_warnings(tmp_path):
    images = FolderImages(tuple(damaged_metadata(tmp_path, 40)), 4, 5, 3, False)
    filters, show = list(warnings.filters), warnings.showwarning
    with pytest.warns(UserWarning, match=r"and so 39 more files") as caught:
        map_threads(lambda position: images[[position]], range(40))
    assert len(caught) == 1
    assert warnings.showwarning is show
    assert list(warnings.filters) == filters
