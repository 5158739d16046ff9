from __future__ import annotations

import struct

import pytest

from airflow_mullama.byte_bounds import LARGEST_PICTURE_BYTES
from airflow_mullama.engines.pictures import NoPictureError, Picture, read_picture, trial_picture
from tests.made_pictures import FILES, png, png_of

TYPES = {
    "baseline.jpg": "image/jpeg",
    "progressive.jpg": "image/jpeg",
    "lossy.webp": "image/webp",
    "lossless.webp": "image/webp",
    "extended.webp": "image/webp",
}


@pytest.mark.parametrize("name", TYPES)
def test_a_format_is_told_by_its_first_bytes(name: str) -> None:
    data = (FILES / name).read_bytes()
    assert read_picture(data) == Picture(TYPES[name], data)


def test_png_is_one_of_them_and_so_is_the_trial() -> None:
    assert read_picture(png()).media_type == "image/png"
    assert read_picture(trial_picture().data) == trial_picture()


def resized(name: str, width: int, height: int) -> bytes:
    """The picture, with another size in its header."""
    data = bytearray(png() if name == "png" else (FILES / name).read_bytes())
    if name == "png":
        struct.pack_into(">II", data, 16, width, height)
    elif name.endswith("jpg"):
        frame = data.index(b"\xff\xc2" if name.startswith("p") else b"\xff\xc0")
        struct.pack_into(">HH", data, frame + 5, height, width)
    elif name == "lossy.webp":
        struct.pack_into("<HH", data, 26, width, height)
    elif name == "lossless.webp":
        data[21:25] = ((width - 1) | (height - 1) << 14).to_bytes(4, "little")
    else:
        data[24:30] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(data)


@pytest.mark.parametrize("name", ["png", *TYPES])
def test_a_picture_that_would_unpack_to_gigabytes_is_refused(name: str) -> None:
    assert read_picture(resized(name, 8192, 8192))
    with pytest.raises(NoPictureError, match=r"has 8193 x 8192 pixels, and 67,108,864 are the most"):
        read_picture(resized(name, 8193, 8192))


@pytest.mark.parametrize("name", ["png", "baseline.jpg", "lossy.webp"])
def test_a_picture_without_pixels_is_refused(name: str) -> None:
    with pytest.raises(NoPictureError, match="no sound header"):
        read_picture(resized(name, 0, 10))


@pytest.mark.parametrize("name", ["png", *TYPES])
def test_a_header_that_is_cut_anywhere_is_the_pictures_error(name: str) -> None:
    data = png() if name == "png" else (FILES / name).read_bytes()
    sound = 0
    for end in range(len(data)):
        try:
            read_picture(data[:end])
            sound += 1
        except NoPictureError:
            assert not sound  # from where it is sound on, it stays so


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "is empty"),
        (b"GIF89a\x01\x00", "is no PNG, JPEG or WebP: it begins with 47 49 46 38 39 61 01 00"),
        (b"<svg/>", "is no PNG, JPEG or WebP"),
        (b"RIFF\x00\x00\x00\x00WAVE", "is no PNG, JPEG or WebP"),
        (b"\xff\xd8\xff" + b"\xff" * 5000, "begins like image/jpeg and has no sound header"),
        (b"\xff\xd8" + b"\xff\xd0" * 5000, "begins like image/jpeg"),
        (b"\xff\xd8\xff\xe0\x00\x00" + b"\x00" * 100, "begins like image/jpeg"),
        (b"\xff\xd8\xff\xe0\x00\x02\x00\xc0", "begins like image/jpeg"),
        (b"\xff\xd8\xff\xda\x00\x02", "begins like image/jpeg"),
        (png_of((b"IDAT", b"x" * 30)), "begins like image/png"),
        (b"RIFF\x00\x00\x00\x00WEBPVP9 " + b"\x00" * 30, "begins like image/webp"),
        (b"\x00" * (LARGEST_PICTURE_BYTES + 1), "has 20.0 MiB, and 20 MiB is the most"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(data: bytes, sentence: str) -> None:
    with pytest.raises(NoPictureError) as refused:
        read_picture(data)
    assert sentence in str(refused.value)
