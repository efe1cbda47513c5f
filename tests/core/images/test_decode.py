"""The decoder's rule, mode by mode, against Pillow's functions and numbers worked out by hand."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from tinyvit.core.images.decode import decode, decode_size, is_plain, read_file, read_sizes, to_rgb
from tinyvit.core.images.files import ImageFiles
from tinyvit.core.images.preprocess import Preprocess


def encoded(image: Image.Image, kind: str = "PNG", **settings: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **settings)
    return stream.getvalue()


def first_pixel(data: bytes, rule: int = 2) -> tuple[int, ...]:
    pixel = decode(data, rule).getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return pixel


@pytest.fixture
def photo() -> Image.Image:
    """An image without symmetry, 7 x 5."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8))


def with_orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


# --- orientation --------------------------------------------------------------


@pytest.mark.parametrize("value", range(10))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied_once(kind: str, value: int, photo: Image.Image) -> None:
    settings = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(photo, kind, exif=with_orientation(value), **settings)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    found = decode(data)
    assert found.size == expected.size == decode_size(data)
    assert found.tobytes() == expected.tobytes()
    # Decoded already, or handed over as Pillow opened it, it ends upright too.
    assert to_rgb(found).tobytes() == expected.tobytes()
    assert to_rgb(Image.open(io.BytesIO(data))).tobytes() == expected.tobytes()
    assert Preprocess((4, 4)).crop(Image.open(io.BytesIO(data))).tobytes() == Preprocess((4, 4)).crop(found).tobytes()


@pytest.mark.parametrize("value", [3, 6, 8])
def test_the_earlier_rule_ignores_orientation(value: int, photo: Image.Image) -> None:
    data = encoded(photo, "PNG", exif=with_orientation(value))
    found = decode(data, 1)
    assert found.tobytes() == photo.tobytes()
    assert decode_size(data, 1) == photo.size
    assert to_rgb(found).tobytes() == photo.tobytes()  # the rule's result is not turned later


def test_orientation_in_a_chunk_behind_the_pixels(photo: Image.Image) -> None:
    whole = encoded(photo, "PNG", exif=with_orientation(6))
    at = whole.index(b"eXIf") - 4
    (length,) = struct.unpack(">I", whole[at : at + 4])
    chunk, rest = whole[at : at + 12 + length], whole[:at] + whole[at + 12 + length :]
    end = rest.index(b"IEND") - 4
    data = rest[:end] + chunk + rest[end:]
    assert decode(data).tobytes() == decode(whole).tobytes()
    assert decode_size(data) == (5, 7)
    assert not is_plain(data)


@pytest.mark.parametrize(
    "exif",
    [
        b"garbage",
        b"Exif\0\0",
        b"Exif\0\0MM\0*\0\0\0\x08\0\xff",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04abc\0\0\0\0\0",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0\0\0\0\0",
    ],
)
def test_damaged_exif_data_is_no_orientation(exif: bytes, photo: Image.Image) -> None:
    assert decode(encoded(photo, "PNG", exif=exif)).tobytes() == photo.tobytes()


# --- values -------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_of_grey_are_scaled(kind: str) -> None:
    values = np.array([[0, 255, 256, 511], [512, 32768, 65279, 65535]], np.uint16)
    data = encoded(Image.fromarray(values), kind)
    assert np.asarray(decode(data))[..., 0].tolist() == [[0, 0, 1, 1], [2, 128, 254, 255]]
    assert np.asarray(decode(data, 1))[..., 0].max() == 255
    assert np.asarray(decode(data, 1))[0, 2, 0] == 255  # clipped
    assert not is_plain(data)


def test_sixteen_bits_of_colour_are_scaled_as_grey_is() -> None:
    rows = np.array([[[256, 511, 65535], [0, 32768, 65279]]], ">u2")
    body = b"".join(b"\0" + row.tobytes() for row in rows)

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
    start, end = b"\x89PNG\r\n\x1a\n", chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")
    assert np.asarray(decode(start + head + end)).tolist() == [[[1, 1, 255], [0, 128, 254]]]
    transparent = chunk(b"tRNS", struct.pack(">HHH", 256, 511, 65535))
    assert np.asarray(decode(start + head + transparent + end)).tolist() == [[[255, 255, 255], [0, 128, 254]]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.25, 1.0], [0, 64, 255]),
        ([0.0, 100.4, 255.0], [0, 100, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([0.0, 500.0, 1000.0], [0, 128, 255]),
        ([np.nan, 0.5, 1.0], [0, 128, 255]),
        ([np.nan, -2.0, np.inf], [0, 0, 0]),
        ([3000.0, 3000.0, 3000.0], [0, 0, 0]),
    ],
)
def test_floats_are_scaled(values: list[float], expected: list[int]) -> None:
    data = encoded(Image.fromarray(np.array([values], np.float32)), "TIFF")
    assert np.asarray(decode(data))[0, :, 0].tolist() == expected


def test_floats_of_which_none_is_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="none of its values is finite"):
        decode(encoded(Image.fromarray(np.full((2, 2), np.nan, np.float32)), "TIFF"))


@pytest.mark.parametrize(
    ("values", "expected"), [([0, 256, 65535], [0, 1, 255]), ([-5, 0, 5], [0, 128, 255]), ([0, 1, 70000], [0, 0, 255])]
)
def test_integers_of_32_bits_are_scaled(values: list[int], expected: list[int]) -> None:
    data = encoded(Image.fromarray(np.array([values], np.int32)), "TIFF")
    assert np.asarray(decode(data))[0, :, 0].tolist() == expected


# --- alpha, palettes, colours -------------------------------------------------


def test_alpha_is_composited_on_white() -> None:
    half = Image.new("RGBA", (2, 2), (0, 100, 200, 128))
    for kind in ("PNG", "TIFF"):
        assert first_pixel(encoded(half, kind)) == (127, 177, 227)
    assert first_pixel(encoded(half, "WEBP", lossless=True)) == (127, 177, 227)
    assert first_pixel(encoded(half), 1) == (0, 100, 200)
    assert first_pixel(encoded(Image.new("LA", (2, 2), (10, 0)))) == (255, 255, 255)
    assert first_pixel(encoded(Image.new("LA", (2, 2), (10, 255)))) == (10, 10, 10)
    assert not is_plain(encoded(half))


def test_transparent_colours_become_white() -> None:
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([9, 9, 9, 200, 100, 50])
    assert first_pixel(encoded(palette)) == (200, 100, 50)
    for kind in ("PNG", "GIF"):
        assert first_pixel(encoded(palette, kind, transparency=1)) == (255, 255, 255)
    assert first_pixel(encoded(palette, transparency=b"\xff\x80")) == (227, 177, 152)
    for mode, colour in (("L", 7), ("RGB", (1, 2, 3)), ("1", 0)):
        assert first_pixel(encoded(Image.new(mode, (2, 2), colour), transparency=colour)) == (255, 255, 255)
    sixteen = Image.fromarray(np.array([[300, 301]], np.uint16))
    assert np.asarray(decode(encoded(sixteen, transparency=300)))[0, :, 0].tolist() == [255, 1]


def test_colour_spaces_of_print_become_rgb(photo: Image.Image) -> None:
    cmyk = photo.convert("CMYK")
    assert decode(encoded(cmyk, "TIFF")).tobytes() == photo.tobytes()
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    soft = Image.fromarray(90 + np.asarray(photo) // 3)
    lab = ImageCms.applyTransform(soft, to_lab)
    assert lab is not None
    back = np.asarray(decode(encoded(lab, "TIFF"))).astype(int)
    assert np.abs(back - np.asarray(soft)).max() <= 3  # eight bits of LAB hold less than RGB


@pytest.mark.parametrize("mode", ["RGBA", "LA", "La", "PA", "RGBa", "P", "L", "1", "CMYK", "YCbCr", "HSV", "I", "F"])
def test_every_mode_of_pillow_becomes_rgb(mode: str, photo: Image.Image) -> None:
    image = photo.convert("L").convert("LA").convert(mode) if mode == "La" else None
    found = to_rgb(image or (photo.convert("RGBA") if mode == "RGBa" else photo).convert(mode))
    assert (found.mode, found.size) == ("RGB", photo.size)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation_counts(kind: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    settings = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **settings)
    assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 2
    assert first_pixel(data) == (255, 0, 0)


# --- what is refused ----------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM"])
def test_truncated_files_are_refused(kind: str) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(image, kind)
    for length in (len(data) // 2, len(data) * 9 // 10):
        with pytest.raises((OSError, ValueError, EOFError)):
            decode(data[:length])


def test_a_tiff_file_with_fewer_strips_than_rows_is_refused(photo: Image.Image) -> None:
    """Its header says twice the height that it holds; Pillow leaves the rest black."""
    data = bytearray(encoded(photo, "TIFF"))
    (begin,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, begin)
    places = [begin + 2 + 12 * entry for entry in range(entries)]
    height = next(at for at in places if struct.unpack_from("<H", data, at)[0] == 0x0101)
    kind = struct.unpack_from("<H", data, height + 2)[0]
    struct.pack_into({3: "<H", 4: "<I"}[kind], data, height + 8, 10)
    assert Image.open(io.BytesIO(data)).size == (7, 10)
    with pytest.raises(ValueError, match="the file is truncated: it lacks a part of its pixels"):
        decode(bytes(data))


def test_too_many_pixels_are_refused_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="has more than 200 pixels; make it smaller"):
        decode(encoded(Image.new("RGB", (20, 20))))


def test_files_that_a_program_would_have_to_draw_are_refused(photo: Image.Image) -> None:
    with pytest.raises(ValueError, match="EPS files need another program to draw them; convert it to PNG"):
        decode(encoded(photo, "EPS"))


def test_bytes_of_no_image_and_rules_of_later_versions() -> None:
    with pytest.raises(ValueError, match="not an image of a known format"):
        decode(b"text")
    assert not is_plain(b"text")
    with pytest.raises(ValueError, match="decoding rule 3 is not known here; use one of 1, 2"):
        decode(encoded(Image.new("L", (1, 1))), 3)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
def test_a_fifo_is_an_error_and_nothing_waits(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.jpg")
    with pytest.raises(OSError, match=r"x\.jpg is a FIFO, not a file"):
        read_file(tmp_path / "x.jpg")
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "none.jpg")
    with pytest.raises(IsADirectoryError):
        read_file(tmp_path)


# --- rules compared -----------------------------------------------------------


def test_plain_files_are_the_same_in_all_rules(photo: Image.Image) -> None:
    plain = [encoded(photo, kind) for kind in ("JPEG", "PNG", "BMP", "WEBP", "PPM", "TIFF")]
    plain += [encoded(photo.convert(mode), "TIFF") for mode in ("L", "1", "CMYK", "P")]
    plain.append(encoded(photo.convert("P"), "GIF"))
    for data in plain:
        assert is_plain(data)
        assert decode(data).tobytes() == decode(data, 1).tobytes()


def test_real_photographs_are_the_same_in_all_rules(test_data: Path) -> None:
    images = ImageFiles(test_data / "imagenet-sample" / "images")
    for key in list(images)[::10]:
        data = images.read(key)
        assert decode(data).tobytes() == decode(data, 1).tobytes() or not is_plain(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("value", range(1, 9))
def test_both_sizes_of_a_file_are_read(photo: Image.Image, tmp_path: Path, kind: str, value: int) -> None:
    path = tmp_path / "image"
    path.write_bytes(encoded(photo, kind, exif=with_orientation(value)))
    upright = decode(path.read_bytes()).size
    assert read_sizes(path) == (upright, photo.size, value)
    assert (upright == photo.size) == (value < 5)
    with pytest.raises(FileNotFoundError):
        read_sizes(tmp_path / "none")
