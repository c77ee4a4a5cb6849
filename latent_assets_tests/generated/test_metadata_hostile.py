"""Files made to break the reader: it says what it can, never raises, and spends neither memory nor time on them."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from latent_assets.generated.metadata.embedded_text import embedded_texts
from latent_assets.generated.metadata.generation import PROMPT_LIMIT, RAW_LIMIT, Generation
from latent_assets.generated.metadata.reading import read_generation
from latent_assets_tests.generated.tagged import (
    comfyui_graph,
    comfyui_png,
    imagesharp_exif,
    node,
    piexif_exif,
    png,
    saved,
    tiff,
)

# what takes seconds at most takes minutes where the work grows with the square of the size
pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")]
_PARAMETERS = "Steps: 15, Sampler: UniPC, CFG scale: 5, Seed: 3, Size: 512x400"
_MiB = 1 << 20


@contextmanager
def at_most(mebibytes: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < mebibytes * _MiB
    finally:
        tracemalloc.stop()


def text_png(text: str) -> bytes:
    return png(chunks=[(b"tEXt", b"parameters\0" + text.encode("latin-1", "replace"))])


def assert_sound(generation: Generation) -> None:
    """Everything is what its type says, and can be stored and shown."""
    limits = {"prompt": PROMPT_LIMIT, "negative_prompt": PROMPT_LIMIT, "raw": RAW_LIMIT}
    for name, value in asdict(generation).items():
        if name in ("seed", "steps", "width", "height"):
            assert value is None or (type(value) is int and 0 <= value < 2**64)
        elif name == "guidance":
            assert value is None or (type(value) is float and 0 <= value <= 1000)
        elif value is not None:
            assert type(value) is str and 0 < len(value) <= limits.get(name, 500)
            value.encode()
            assert not any(ord(letter) < 0x20 and letter not in "\n\t" for letter in value)


# -- values ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"seed": 2**64 - 1, "steps": 20.0, "width": "512"}, {"seed": 2**64 - 1, "steps": 20, "width": 512}),
        ({"seed": "20.0", "guidance": "7.50", "height": " 64 "}, {"seed": 20, "guidance": 7.5, "height": 64}),
        ({"seed": 2**64, "steps": 10_001, "width": 0, "guidance": 1001}, {}),
        ({"seed": -1, "steps": -1, "guidance": -1.0}, {}),
        ({"seed": True, "steps": 1.5, "guidance": False, "width": [64], "height": {}}, {}),
        ({"seed": "9" * 5000, "steps": "1e3", "guidance": "x" * 5000, "width": "\N{SUPERSCRIPT TWO}"}, {}),
        ({"guidance": float("nan"), "seed": float("inf"), "steps": float("-inf")}, {}),
        ({"prompt": ["a"], "model": {"a": 1}, "sampler": 5, "tool": None}, {}),
        ({"prompt": " \n\0 ", "sampler": "", "tool": "\x1b\x07"}, {}),
        ({"prompt": "a\0b\x1b[31mc\x9bd\r\ne\tf \ud83d<b>"}, {"prompt": "ab[31mcd\ne\tf \N{REPLACEMENT CHARACTER}<b>"}),
        ({"prompt": "x" * 100_000, "model": "y" * 600, "raw": "z" * 70_000},
         {"prompt": "x" * 20_000, "model": "y" * 500, "raw": "z" * 65_536}),
    ],
)  # fmt: skip
def test_values_are_made_sound_or_left_out(values: dict[str, Any], expected: dict[str, Any]) -> None:
    generation = Generation(**values)
    assert {name: value for name, value in asdict(generation).items() if value is not None} == expected
    assert_sound(generation)


def test_values_of_json_that_python_refuses_to_read() -> None:
    text = '{"prompt": "a \\ud83d \\u0000b", "seed": %s, "steps": NaN, "guidance_scale": 1e999, "width": -Infinity}'
    found = read_generation(png({"parameters": text % ("9" * 10_000)}))
    assert found == Generation(prompt="a \N{REPLACEMENT CHARACTER} b", raw=text % ("9" * 10_000))


# -- texts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["parameters", "prompt", "invokeai_metadata", "sd-metadata", "workflow", "other"])
def test_deep_json_is_broken_json(key: str) -> None:
    deep = '{"prompt":' * 100_000
    found = read_generation(png({key: deep, "negative_prompt": "x"}), ("x.txt", b"a prompt"))
    assert found.prompt == "a prompt"
    assert_sound(read_generation(png({key: '{"a": ' + "[" * 900 + "]" * 900 + "}"})))


@pytest.mark.parametrize("key", ["parameters", "prompt", "image", "invokeai_metadata", "sui_image_params"])
def test_layouts_in_layouts_are_not_followed(key: str) -> None:
    nested = '{"prompt": "the deepest"}'
    for _ in range(300):
        nested = f'{{"{key}": {nested}}}'
    assert read_generation(png({"parameters": nested}), ("x.json", nested.encode())).prompt is None


def test_bombs_are_not_inflated() -> None:
    bomb = zlib.compress(bytes(100 * _MiB), 9)
    bombs = [(b"zTXt", f"junk{number}".encode() + b"\0\0" + bomb) for number in range(40)]
    bombs += [(b"iTXt", b"parameters\0\1\0\0\0" + bomb)]
    data = png(chunks=[(b"tEXt", b"parameters\0a duck\n" + _PARAMETERS.encode()), *bombs[:40]])
    with at_most(64):
        assert read_generation(data).prompt == "a duck"
    with at_most(64):
        assert_sound(read_generation(png(chunks=bombs)))


def test_long_texts() -> None:
    data = text_png("long " * (10 * _MiB) + "\n" + _PARAMETERS)
    with at_most(32):
        found = read_generation(data, ("x.txt", b"x"))
    assert found.prompt is not None and len(found.prompt) == PROMPT_LIMIT - 1  # stripped
    assert found.raw is not None and len(found.raw) == RAW_LIMIT
    whole = read_generation(text_png("a" * 100_000 + "\n" + _PARAMETERS))
    assert (whole.prompt, whole.seed) == ("a" * PROMPT_LIMIT, 3)


@pytest.mark.parametrize(
    "piece",
    [
        "word ", "a:", "ab: ", 'ab: "', 'ab: "\\', ",ab:\"x", ", ", " ", "\n", "\n:", "Steps: 1,", "\nSteps: 1", "[",
        "-s ", "-s", '"', "\\", "Negative prompt:", "\nTemplate: ", "{", "1x",
    ],
)  # fmt: skip
@pytest.mark.parametrize("key", ["parameters", "Dream"])
def test_texts_made_for_slow_patterns(piece: str, key: str) -> None:
    text = (piece * (_MiB // len(piece))).encode()
    for content in (text, text + b"\n" + _PARAMETERS.encode(), b"ab: " + text + b"!"):
        assert_sound(read_generation(png(chunks=[(b"tEXt", key.encode() + b"\0" + content)])))


def test_thousands_of_chunks_and_keys() -> None:
    chunks = [(b"tEXt", b"parameters\0a")] + [(b"tEXt", b"key\0value")] * 20_000
    broken = [(b"zTXt", b"key\0\0" + zlib.compress(bytes(3 * _MiB))[:-4] + b"junk")] * 5_000
    for found in (read_generation(png(chunks=chunks)), read_generation(png(chunks=[chunks[0], *broken]))):
        assert found.prompt == "a"
    many = json.dumps({str(key): key for key in range(300_000)} | {"prompt": "late"})
    assert read_generation(png(), ("x.json", many.encode())).prompt is None


@pytest.mark.parametrize(
    "chunk",
    [
        (b"tEXt", b"parameters"), (b"tEXt", b"\0text"), (b"tEXt", b""), (b"zTXt", b"parameters\0"),
        (b"zTXt", b"parameters\0\0not zlib"), (b"iTXt", b"parameters\0"), (b"iTXt", b"parameters\0\0\0en"),
        (b"iTXt", b"parameters\0\1\0\0\0not zlib"), (b"tEXt", b"x" * 200 + b"\0text"), (b"comf", b"prompt"),
        (b"eXIf", b""), (b"eXIf", b"II*\0\xff\xff\xff\xff"), (b"eXIf", b"MM\0*\0\0\0\x08\xff\xff"),
    ],
)  # fmt: skip
def test_broken_chunks(chunk: tuple[bytes, bytes]) -> None:
    assert read_generation(png(chunks=[chunk])) == Generation()


def test_text_that_is_not_utf8() -> None:
    found = read_generation(png(chunks=[(b"iTXt", b"parameters\0\0\0\0\0caf\xe9 \xff")]))
    assert found.prompt == "caf\N{REPLACEMENT CHARACTER} \N{REPLACEMENT CHARACTER}"


# -- EXIF --------------------------------------------------------------------------------------------------


def test_exif_fields_that_lie_over_the_same_megabytes() -> None:
    """65,535 fields of 8 MiB each, half a terabyte together."""
    count = 65_535
    fields = b"".join(struct.pack("<HHII", tag, 2, 8 * _MiB, 0) for tag in range(count))
    block = b"II*\0" + struct.pack("<IH", 8, count) + fields + bytes(8 * _MiB)
    data = b"RIFF\0\0\0\0WEBP" + b"EXIF" + struct.pack("<I", len(block)) + block
    with at_most(100):
        assert_sound(read_generation(data))


@pytest.mark.parametrize(
    "exif",
    [
        tiff({0x8769: (4, 1, struct.pack("<I", 8))}, {}),
        tiff({0x8769: (4, 1, b"\xff\xff\xff\xff")}, {}),
        tiff({0x9286: (7, 0xFFFFFFFF, struct.pack("<I", 4))}, {}),
        tiff({0x9286: (7, 100, b"\xff\xff\xff\xff")}, {}),
        tiff({0x9286: (5, 3, b"abcd")}, {0x0110: (2, 0, b"abcd")}),
        tiff({0x9286: (7, 3, b"abcd")}, {}),
        tiff({0x9286: (7, 9, struct.pack("<I", 32))}, {}, b"UNICODE\0x"),
        tiff({0x9286: (7, 12, struct.pack("<I", 32))}, {}, b"UNICODE\0\xff\xfe\xd8\x00"),
    ],
)
def test_broken_exif(exif: bytes) -> None:
    for kind in ("JPEG", "WEBP", "AVIF"):
        assert_sound(read_generation(saved(kind, exif=exif)))


def test_a_size_that_nobody_can_decode_is_no_matter() -> None:
    data = png({"parameters": f"a duck\n{_PARAMETERS}"})
    header = b"IHDR" + struct.pack(">II", 60_000, 60_000) + data[24:29]
    huge = data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(huge))
    assert read_generation(huge).prompt == "a duck"


# -- graphs ------------------------------------------------------------------------------------------------


def test_graphs_in_circles() -> None:
    circle = {
        "n3": comfyui_graph()["3"] | {},
        "n4": node("LoraLoader", model=["4", 0], lora_name="x"),
        "n5": node("LatentUpscale", samples=["3", 0], width=["20", 0], height=["5", 0]),
        "n6": node("ConditioningCombine", conditioning_1=["6", 0], conditioning_2=["21", 0]),
        "n20": node("Reroute", value=["20", 0]),
        "n21": node("CLIPTextEncode", text=["22", 0], clip=["4", 1]),
        "n22": node("StringConcatenate", string_a=["22", 0], string_b="end", delimiter="-"),
    }
    found = read_generation(comfyui_png(comfyui_graph(**circle)))
    assert (found.prompt, found.model, found.width) == ("-end", None, None)
    assert found.seed == comfyui_graph()["3"]["inputs"]["seed"]
    everything = {key: value for key, value in comfyui_graph(**circle).items() if key not in "89"}
    assert read_generation(comfyui_png(everything)).prompt == "-end"


def test_texts_that_double_at_each_node_and_long_chains() -> None:
    doubling = {
        f"n{100 + at}": node("Concat", text_a=[str(101 + at), 0], text_b=[str(101 + at), 0], delimiter="")
        for at in range(60)
    }
    found = read_generation(
        comfyui_png(comfyui_graph(n6=node("E", text=["100", 0]), **doubling, n160=node("T", text="ab")))
    )
    assert found.prompt == ("ab" * PROMPT_LIMIT)[:PROMPT_LIMIT]
    chain = {f"n{100 + at}": node("Reroute", value=[str(101 + at), 0]) for at in range(5_000)}
    found = read_generation(comfyui_png(comfyui_graph(n6=node("E", text=["100", 0]), **chain)))
    assert (found.tool, found.prompt, found.steps) == ("ComfyUI", None, 20)
    passes = {
        f"n{100 + at}": node("KSampler", seed=at, positive=["6", 0], latent_image=[str(101 + at), 0])
        for at in range(5_000)
    }
    found = read_generation(comfyui_png(comfyui_graph(n8=node("VAEDecode", samples=["100", 0]), **passes)))
    assert found.prompt == "a glass bottle, a galaxy inside"


@pytest.mark.parametrize(
    "graph",
    [
        {},
        {"3": None, "4": 5, "5": [], "6": {"inputs": []}, "7": {"class_type": 3, "inputs": {}}},
        {"3": node("KSampler")},
        {"3": node("KSampler", seed=1, positive=None, negative=[], latent_image={})},
        {
            "3": node(
                "KSampler", seed=[1], positive=["x", 0], negative=["3", "0"], model=[None, 0], latent_image=["3", 0]
            )
        },
        {
            "3": node(
                "KSampler", seed={"a": 1}, steps=[["3", 0], 0], positive=["3", 0], negative=["3", 1], guider=["3", 0]
            )
        },
    ],
)
def test_graphs_of_wrong_types(graph: dict[str, Any]) -> None:
    assert_sound(read_generation(comfyui_png(graph)))


# -- anything ----------------------------------------------------------------------------------------------

_KEYS = st.sampled_from(
    ["inputs", "class_type", "text", "positive", "negative", "seed", "steps", "latent_image", "model", "cfg", "guider",
     "conditioning", "delimiter", "value", "3", "4", "5", "prompt", "parameters", "sui_image_params", "sui_models",
     "image", "invokeai_metadata", "size", "tool", "guidance", "NaN", "filename_prefix", "sigmas", "width"]
)  # fmt: skip
_LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.tuples(st.sampled_from(["3", "4", "5", 3]), st.integers(0, 2)).map(list)
)  # fmt: skip
_TREES = st.recursive(
    _LEAVES, lambda tree: st.lists(tree, max_size=3) | st.dictionaries(_KEYS, tree, max_size=6), max_leaves=30
)
_NODES = st.builds(lambda kind, inputs: {"class_type": kind, "inputs": inputs}, _LEAVES | st.just("KSampler"),
                   st.dictionaries(_KEYS, _LEAVES, max_size=12))  # fmt: skip
_OBJECTS = st.dictionaries(_KEYS, _TREES, max_size=6) | st.dictionaries(st.sampled_from("345"), _NODES, min_size=2)
_NAMES = st.sampled_from(["parameters", "prompt", "invokeai_metadata", "sd-metadata", "Dream", "workflow", "other"])


@settings(max_examples=400)
@given(_NAMES, _OBJECTS | st.fixed_dictionaries({"prompt": _OBJECTS}))
def test_any_json(name: str, found: dict[str, Any]) -> None:
    assert_sound(read_generation(png({name: json.dumps(found)})))
    assert_sound(read_generation(png(), ("x.json", json.dumps(found).encode())))


@given(_NAMES, st.text(), st.binary())
def test_any_text(name: str, text: str, sidecar: bytes) -> None:
    content = text.encode("utf-16", "replace")
    assert_sound(
        read_generation(png(chunks=[(b"iTXt", name.encode() + b"\0\0\0\0\0" + text.encode("utf-8", "replace"))]))
    )
    assert_sound(
        read_generation(saved("JPEG", exif=tiff({0x9286: (7, len(content), struct.pack("<I", 32))}, {}, content)))
    )
    for extension in ("txt", "json"):
        assert_sound(read_generation(png(), (f"x.{extension}", sidecar)))


_FILES = [
    comfyui_png(comfyui_graph()),
    saved("JPEG", exif=piexif_exif(f"a\n{_PARAMETERS}")),
    saved("WEBP", exif=imagesharp_exif(f"a\n{_PARAMETERS}")),
    saved("AVIF", exif=piexif_exif(f"a\n{_PARAMETERS}")),
]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(_FILES), st.data())
def test_damaged_files(file: bytes, data: st.DataObject) -> None:
    damaged = bytearray(file[: data.draw(st.integers(0, len(file)) | st.just(len(file)))])
    for _ in range(data.draw(st.integers(0, 8))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.sampled_from([0, 1, 8, 0x7F, 0xFF]))
    assert_sound(read_generation(bytes(damaged)))


@pytest.mark.parametrize(
    "data", [b"", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"\xff\xd8\xff", b"<svg/>", b"GIF89a"]
)
def test_files_without_anything(data: bytes) -> None:
    assert embedded_texts(data) == {}
    assert read_generation(data) == Generation()
