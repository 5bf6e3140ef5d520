"""Files that a picture program would not make, or that one makes and few expect; all small, and all made here.

REFUSED are answered by a sentence, PICTURES are opened: a grey wheel on white, whatever the format. RECIPES are pictures
whose recipe is a stranger's.
"""

import io
import json
import struct
import zipfile
import zlib
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

SIDE = 96


def wheel(mode: str = "RGB", size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    """A wheel with three dots, so that there is something to find."""
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    w, h = size
    draw.ellipse((w * 0.1, h * 0.1, w * 0.9, h * 0.9), fill="crimson", outline="black", width=3)
    for x, y in ((0.5, 0.25), (0.28, 0.62), (0.72, 0.62)):
        draw.ellipse((w * (x - 0.08), h * (y - 0.08), w * (x + 0.08), h * (y + 0.08)), fill="black")
    return image if mode == "RGB" else image.convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **settings: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, data: bytes, *more: bytes) -> bytes:
    """A PNG of one bit per pixel whose compressed pixels are `data`."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def zeros(count: int) -> bytes:
    """That many zero bytes, compressed, without ever being there at once."""
    packer = zlib.compressobj(9)
    parts = [packer.compress(bytes(2**20)) for _ in range(count >> 20)]
    return b"".join(parts) + packer.compress(bytes(count & 0xFFFFF)) + packer.flush()


def with_recipe(text: str) -> bytes:
    info = PngInfo()
    info.add_text("sharingan", text)
    return encoded(wheel(), "PNG", pnginfo=info)


def zipped(name: str, data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return file.getvalue()


def box(kind: bytes) -> bytes:
    """The beginning of a HEIF file, and then nothing of use."""
    return struct.pack(">I", 24) + b"ftyp" + kind + bytes(4) + b"mif1" + kind + b"\x00\x00\x00\x08meta" * 9


def jpeg_of(width: int, height: int) -> bytes:
    """A JPEG that says it has another size."""
    data = encoded(wheel(), "JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def wrong_crc() -> bytes:
    data = bytearray(encoded(wheel(), "PNG"))
    data[data.index(b"IDAT") - 9] ^= 1  # the last byte of the checksum before
    return bytes(data)


def deep() -> Image.Image:
    """Grey of 16 bits, brighter from left to right."""
    return Image.fromarray(np.tile(np.linspace(0, 65_535, 128).astype(np.uint16), (64, 1)))


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(wheel(size=(SIDE * 2, SIDE)), "JPEG", exif=exif)


def upside_down() -> bytes:
    """A BMP of negative height: its first row is the top one."""
    image = wheel(size=(64, 48))
    rows = image.tobytes("raw", "BGR")
    head = struct.pack("<IiiHHIIiiII", 40, 64, -48, 1, 24, 0, len(rows), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(rows), 0, 0, 54) + head + rows


SVG = b"""<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]>
<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script><text>&x;</text></svg>"""
PNG, JPEG = encoded(wheel(), "PNG"), encoded(wheel(), "JPEG")
FRAMES = [wheel().rotate(turn) for turn in (0, 30, 60)]
MOVING: dict[str, Any] = {"save_all": True, "append_images": FRAMES[1:], "duration": 50}

REFUSED = {
    "text.png": b"no picture at all",
    "empty.png": b"",
    "cut.png": PNG[: len(PNG) // 2],
    "head.png": PNG[:20],
    "cut.jpg": JPEG[: len(JPEG) // 2],
    "bomb.png": png(20_000, 20_000, zeros(20_000 * 2_501)),
    "huge.png": png(2**31 - 1, 2**31 - 1, b""),
    "huge.jpg": jpeg_of(65_535, 65_535),
    "huge.ppm": b"P6 60000 60000 255\n",
    "dot.png": encoded(wheel(size=(1, 1)), "PNG"),
    "tiny.ppm": b"P6 1 1 255\n\x00\x00\x00",
    "tall.png": png(1, 4000, zeros(8000)),
    "wide.png": png(20_000, 1, zeros(2501)),
    "strip.png": png(20_000, 40, zeros(40 * 2501)),
    "crc.png": wrong_crc(),
    "script.svg": SVG,
    "postscript.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nquit",
    "page.html": b"<html><body><img src=x onerror=alert(1)></body></html>",
    "paper.pdf": b"%PDF-1.7\n1 0 obj << /OpenAction << /S /JavaScript /JS (app.alert(1)) >> >> endobj\n%%EOF",
    "photo.heic": box(b"heic"),
    "photo.avif": box(b"avif"),
    "icon.ico": encoded(wheel(), "ICO"),
    "pickle.jpg": b"\x80\x04cposix\nsystem\n.",
    "bomb.zip": zipped("1.png", bytes(2**24)),
    "up.zip": zipped("../../../../tmp/escaped.png", PNG),
}

PICTURES = {
    "endless.png": png(64, 64, zeros(2**27)[:-5]),
    "deep.png": encoded(deep(), "PNG"),
    "print.jpg": encoded(wheel("CMYK"), "JPEG"),
    "palette.png": encoded(wheel("P"), "PNG", transparency=0),
    "grey.png": encoded(wheel("LA"), "PNG"),
    "moving.gif": encoded(FRAMES[0], "GIF", **MOVING),
    "moving.webp": encoded(FRAMES[0], "WEBP", **MOVING),
    "moving.png": encoded(FRAMES[0], "PNG", **MOVING),
    "pages.tiff": encoded(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:]),
    "turned.jpg": turned(),
    "upside_down.bmp": upside_down(),
    "colour.png": encoded(wheel(), "PNG", icc_profile=b"no profile" * 99),
    "colour.jpg": encoded(wheel(), "JPEG", icc_profile=b"\xff" * 500),
    "exif.jpg": encoded(wheel(), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff"),
}

RECIPES = {
    "no json": "{seed: 7",
    "no object": "[1, 2]",
    "nested": "[" * 100_000,
    "deep": '{"seed": 7, "styles": ' + '{"a":' * 5_000 + "1" + "}" * 5_000 + "}",
    "not a number": '{"seed": NaN}',
    "infinite": '{"seed": 1e999}',
    "beyond": json.dumps({"seed": 2**32}),
    "below": json.dumps({"seed": -5}),
    "many digits": '{"seed": ' + "9" * 10_000 + "}",
    "path": json.dumps({"seed": 1, "order": "../../etc/passwd"}),
    "frames": json.dumps({"film": {"keyframes": []}}),
    "frames of text": json.dumps({"film": {"keyframes": "seed"}}),
    "frame of text": json.dumps({"film": {"keyframes": ["seed"]}}),
    "other frames": json.dumps({"film": 7}),
    "found": json.dumps({"seed": 1, "found": "99x9999:AAAA"}),
}
