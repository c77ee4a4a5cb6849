"""Image files with metadata where each tool puts it: PNG chunks, EXIF fields by piexif, ImageSharp and Pillow."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

USER_COMMENT = 0x9286


def png(texts: Mapping[str, str] | None = None, chunks: Sequence[tuple[bytes, bytes]] = (), **options: Any) -> bytes:
    """With texts as Pillow's `add_text` writes them, and further chunks before the pixels."""
    info = PngInfo()
    for name, text in (texts or {}).items():
        info.add_text(name, text)
    for kind, content in chunks:
        info.add(kind, content)
    return saved("PNG", pnginfo=info, **options)


def saved(kind: str, size: tuple[int, int] = (16, 16), **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "orange").save(file, kind, **options)
    return file.getvalue()


def piexif_exif(text: str) -> bytes:
    """As `piexif.dump` with `UserComment.dump(text, "unicode")`: big endian, in the EXIF directory."""
    exif = Image.Exif()
    exif.get_ifd(0x8769)[USER_COMMENT] = b"UNICODE\0" + text.encode("utf-16-be")
    return exif.tobytes()


def imagesharp_exif(text: str) -> bytes:
    """As ImageSharp writes a `UserComment`: little endian, UTF-16 in that order."""
    comment = b"UNICODE\0" + text.encode("utf-16-le")
    fields = {USER_COMMENT: (7, len(comment), struct.pack("<I", 44))}
    return tiff({0x8769: (4, 1, struct.pack("<I", 26))}, fields, comment)


def tiff(first: Mapping[int, tuple[int, int, bytes]], second: Mapping[int, Any], data: bytes = b"") -> bytes:
    """A little-endian EXIF block of two directories, one after the other, and what follows them."""
    block = b"II*\0" + struct.pack("<I", 8)
    for fields in (first, second):
        block += struct.pack("<H", len(fields))
        for tag, (kind, count, value) in fields.items():
            block += struct.pack("<HHI4s", tag, kind, count, value)
        block += bytes(4)
    return b"Exif\0\0" + block + data


def pillow_exif(**fields: str) -> bytes:
    """As Fooocus and ComfyUI write through Pillow: plain strings in the main directory, by hexadecimal tag."""
    exif = Image.Exif()
    for tag, text in fields.items():
        exif[int(tag.removeprefix("t"), 16)] = text
    return exif.tobytes()


def comfyui_graph(**changes: dict[str, Any]) -> dict[str, Any]:
    """ComfyUI's default text-to-image graph; `changes` are nodes by id with an `n` before it."""
    graph = {
        "3": node("KSampler", seed=156680208700286, steps=20, cfg=8, sampler_name="euler", scheduler="normal",
                  denoise=1, model=["4", 0], positive=["6", 0], negative=["7", 0], latent_image=["5", 0]),
        "4": node("CheckpointLoaderSimple", ckpt_name="v1-5-pruned-emaonly.safetensors"),
        "5": node("EmptyLatentImage", width=512, height=768, batch_size=1),
        "6": node("CLIPTextEncode", text="a glass bottle, a galaxy inside", clip=["4", 1]),
        "7": node("CLIPTextEncode", text="text, watermark", clip=["4", 1]),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", filename_prefix="ComfyUI", images=["8", 0]),
    }  # fmt: skip
    return graph | {name.removeprefix("n"): changed for name, changed in changes.items()}


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs, "_meta": {"title": kind}}


def comfyui_png(graph: object) -> bytes:
    """As `SaveImage` writes it."""
    return png({"prompt": json.dumps(graph), "workflow": json.dumps({"nodes": [], "links": [], "version": 0.4})})
