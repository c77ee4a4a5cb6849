"""Prompts and parameters from files laid out as each tool's own source writes them, and round trips of our own."""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from latent_assets.generated.metadata.generation import Generation
from latent_assets.generated.metadata.reading import TOOL, read_generation, write_parameters, write_sidecar
from latent_assets_tests.generated.tagged import (
    comfyui_graph,
    comfyui_png,
    imagesharp_exif,
    piexif_exif,
    pillow_exif,
    png,
    saved,
    tiff,
)

_DUCK = "photo of a duck, 鴨 \N{DUCK}\non a pond"
_PARAMETERS = (
    "Steps: 15, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 5.5, Seed: 235284042, Size: 512x400, "
    "Model hash: c0d1994c73, Model: realisticVision_v20, Denoising strength: 0.4, "
    'Lora hashes: "duck: 1ba60a4cff60, pond: b75b64b701c4", Hires upscale: 2, Version: '
)
_A1111 = f"{_DUCK}\nNegative prompt: monochrome\nlow quality\n{_PARAMETERS}v1.10.1"
_EXPECTED = Generation(
    tool="AUTOMATIC1111",
    prompt=_DUCK,
    negative_prompt="monochrome\nlow quality",
    seed=235284042,
    steps=15,
    guidance=5.5,
    sampler="DPM++ 2M",
    model="realisticVision_v20",
    model_hash="c0d1994c73",
    width=512,
    height=400,
    raw=_A1111,
)


def said(generation: Generation) -> dict[str, object]:
    """What is known, without the raw text."""
    return {name: value for name, value in asdict(generation).items() if value is not None and name != "raw"}


# -- AUTOMATIC1111 and its forks ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(png({"parameters": _A1111}), id="png"),
        pytest.param(saved("JPEG", exif=piexif_exif(_A1111)), id="jpeg"),
        pytest.param(saved("WEBP", exif=piexif_exif(_A1111)), id="webp"),
        pytest.param(saved("AVIF", exif=piexif_exif(_A1111)), id="avif"),
        pytest.param(png(exif=piexif_exif(_A1111)), id="png-exif"),
        pytest.param(saved("JPEG", exif=imagesharp_exif(_A1111)), id="little-endian"),
    ],
)
def test_automatic1111_in_every_format(data: bytes) -> None:
    assert read_generation(data) == _EXPECTED


def test_a_text_of_ascii_code_and_one_without_any() -> None:
    text = f"a duck\n{_PARAMETERS}v1.10.1"
    for comment in (b"ASCII\0\0\0" + text.encode(), bytes(8) + text.encode() + b"\0", text.encode()):
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0x9286] = comment
        assert read_generation(saved("JPEG", exif=exif.tobytes())).prompt == "a duck"


def test_byte_order_is_told_by_the_text_where_the_file_says_otherwise() -> None:
    comment = b"UNICODE\0" + f"鴨\n{_PARAMETERS}v1".encode("utf-16-be")
    exif = tiff({0x9286: (7, len(comment), struct.pack("<I", 32))}, {}, comment)
    assert exif[6 + 32 :] == comment
    assert read_generation(saved("JPEG", exif=exif)).prompt == "鴨"


def test_a_compressed_text_and_one_behind_the_pixels() -> None:
    texts = PngInfo()
    texts.add_text("parameters", _A1111, zip=True)
    data = saved("PNG", pnginfo=texts)
    assert b"duck" not in data
    assert read_generation(data) == _EXPECTED
    plain = png({"parameters": _A1111})
    at = plain.index(b"iTXt") - 4
    length = 12 + int.from_bytes(plain[at : at + 4], "big")
    moved = plain[:at] + plain[at + length : -12] + plain[at : at + length] + plain[-12:]
    assert moved.index(b"IDAT") < moved.index(b"iTXt")
    assert read_generation(moved) == _EXPECTED


def test_forge_with_a_distilled_guidance() -> None:
    text = (
        "a castle\nSteps: 20, Sampler: Euler, Schedule type: Simple, CFG scale: 1, Distilled CFG Scale: 3.5, "
        "Seed: 42, Size: 896x1152, Model: flux1-dev-Q8_0, Version: f2.0.1v1.10.1-previous-313-g8a042934, Module 1: ae"
    )
    found = read_generation(png({"parameters": text}))
    assert (found.tool, found.guidance, found.width, found.height) == ("Forge", 3.5, 896, 1152)
    assert found.negative_prompt is None


def test_sdnext_with_templates() -> None:
    text = (
        "a red fox\nNegative prompt: \nTemplate: a {red|blue} fox\nNegative template: n\n"
        "Steps: 20, Size: 1024x1024, Sampler: DEIS, Scheduler: DEISMultistepScheduler, Seed: 7, CFG scale: 6.0, "
        "App: SD.Next, Version: 1a2b3c4, Pipeline: StableDiffusionXLPipeline, Operations: txt2img, Model: juggernaut"
    )
    assert said(read_generation(saved("WEBP", exif=piexif_exif(text)))) == {
        "tool": "SD.Next", "prompt": "a red fox", "seed": 7, "steps": 20, "guidance": 6.0, "sampler": "DEIS",
        "model": "juggernaut", "width": 1024, "height": 1024,
    }  # fmt: skip


def test_lines_that_extensions_add_after_the_parameters() -> None:
    found = read_generation(png({"parameters": _A1111 + "\nTemplate: a {b|c}\nNegative Template: d"}))
    assert said(found) == said(_EXPECTED)


def test_a_prompt_without_parameters() -> None:
    found = read_generation(png({"parameters": "hair: red, eyes: blue, dress: green\nNegative prompt: hat"}))
    assert said(found) == {"prompt": "hair: red, eyes: blue, dress: green", "negative_prompt": "hat"}


def test_words_of_a_camera_are_no_prompt() -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Canon", "EOS: {5D}"
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0Holidays: in Rome, with: friends, and: dogs"
    assert read_generation(saved("JPEG", exif=exif.tobytes())) == Generation()


# -- InvokeAI ----------------------------------------------------------------------------------------------


def test_invokeai() -> None:
    metadata = {
        "generation_mode": "sdxl_txt2img", "positive_prompt": "oil painting", "negative_prompt": "photo",
        "width": 1024, "height": 768, "seed": 3293022630, "rand_device": "cpu", "cfg_scale": 8.0, "steps": 35,
        "scheduler": "euler", "app_version": "5.6.0", "positive_style_prompt": "",
        "model": {"key": "4f1c", "hash": "blake3:ab12", "name": "Juggernaut XL", "base": "sdxl", "type": "main"},
    }  # fmt: skip
    graph = json.dumps({"nodes": [{"prompt": "no"}]})
    data = png({"invokeai_metadata": json.dumps(metadata), "invokeai_workflow": graph})
    assert said(read_generation(data)) == {
        "tool": "InvokeAI", "prompt": "oil painting", "negative_prompt": "photo", "seed": 3293022630, "steps": 35,
        "guidance": 8.0, "sampler": "euler", "model": "Juggernaut XL", "model_hash": "blake3:ab12",
        "width": 1024, "height": 768,
    }  # fmt: skip
    older = metadata | {"model": {"model_name": "juggernautXL", "base_model": "sdxl"}}
    assert read_generation(png({"invokeai_metadata": json.dumps(older)})).model == "juggernautXL"
    flux = metadata | {"cfg_scale": 1.0, "guidance": 4.0}
    assert read_generation(png({"invokeai_metadata": json.dumps(flux)})).guidance == 4.0


_INVOKEAI_2 = {
    "tool": "InvokeAI", "prompt": "a fox, (soft)  light", "negative_prompt": "night, rain", "seed": 2980747362,
    "steps": 50, "guidance": 7.5, "sampler": "k_lms", "width": 512, "height": 768,
}  # fmt: skip


def test_invokeai_2() -> None:
    image = {
        "prompt": [{"prompt": "a fox, (soft) [night] light [rain]", "weight": 1.0}], "steps": 50, "cfg_scale": 7.5,
        "threshold": 0, "height": 768, "width": 512, "seed": 2980747362, "type": "txt2img", "sampler": "k_lms",
    }  # fmt: skip
    metadata = {"model": "stable diffusion", "model_weights": "deliberate_v08", "model_hash": "56d1", "image": image}
    data = png({"Dream": '"another" -s 1', "sd-metadata": json.dumps(metadata)})
    assert said(read_generation(data)) == _INVOKEAI_2 | {"model": "deliberate_v08", "model_hash": "56d1"}


@pytest.mark.parametrize(
    "dream",
    [
        '"a fox, (soft) [night] light [rain]" -s 50 -S 2980747362 -W 512 -H 768 -C 7.5 -A k_lms -G 0.9 -U 4 0.95',
        "a fox, (soft) [night] light [rain] -s 50 -S 2980747362 -W 512 -H 768 -C 7.5 --seamless -A k_lms",
        '"a fox, (soft) [night] light [rain]" -s50 -W512 -H768 -C7.5 -Ak_lms -S2980747362',
    ],
)
def test_invokeai_1(dream: str) -> None:
    assert said(read_generation(png({"Dream": dream}))) == _INVOKEAI_2


# -- Fooocus -----------------------------------------------------------------------------------------------

_FOOOCUS = {
    "adm_guidance": "(1.5, 0.8, 0.3)", "base_model": "juggernautXL_v8Rundiffusion", "base_model_hash": "aeb7e9e689",
    "full_negative_prompt": ["(worst quality:1.4)", "anime"], "full_prompt": ["cinematic still a goldfish .", "vivid"],
    "guidance_scale": 4, "loras": [["sd_xl_offset", 0.1, "4852686128"]], "metadata_scheme": "fooocus",
    "negative_prompt": "", "performance": "Speed", "prompt": "a goldfish\nin a bowl", "resolution": "(1152, 896)",
    "sampler": "dpmpp_2m_sde_gpu", "scheduler": "karras", "seed": "6952411511246973023", "steps": 30,
    "version": "Fooocus v2.5.5",
}  # fmt: skip
_FOOOCUS_A1111 = (
    "cinematic still a goldfish ., vivid\nNegative prompt: (worst quality:1.4), anime\n"
    "Steps: 30, Sampler: DPM++ 2M SDE Karras, Seed: 6952411511246973023, Size: 1152x896, CFG scale: 4, Sharpness: 2, "
    'ADM Guidance: "(1.5, 0.8, 0.3)", Model: juggernautXL_v8Rundiffusion, Model hash: aeb7e9e689, Performance: Speed, '
    'Scheduler: karras, VAE: Default (model), Raw prompt: "a goldfish\\nin a bowl", Raw negative prompt: , '
    "Styles: \"['Fooocus V2']\", Version: Fooocus v2.5.5"
)


@pytest.mark.parametrize(
    ("text", "scheme", "sampler"),
    [
        (json.dumps(_FOOOCUS), "fooocus", "dpmpp_2m_sde_gpu"),
        (_FOOOCUS_A1111, "a1111", "DPM++ 2M SDE Karras"),
    ],
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_fooocus(text: str, scheme: str, sampler: str, kind: str) -> None:
    if kind == "PNG":
        data = png({"parameters": text, "fooocus_scheme": scheme})
    else:
        data = saved(kind, exif=pillow_exif(t9286=text, t0131="Fooocus v2.5.5", t927C=scheme))
    assert said(read_generation(data)) == {
        "tool": "Fooocus", "prompt": "a goldfish\nin a bowl", "seed": 6952411511246973023, "steps": 30,
        "guidance": 4.0, "sampler": sampler, "model": "juggernautXL_v8Rundiffusion", "model_hash": "aeb7e9e689",
        "width": 1152, "height": 896,
    }  # fmt: skip


# -- SwarmUI -----------------------------------------------------------------------------------------------

_SWARM = {
    "sui_image_params": {
        "prompt": "a photo of a cat", "model": "OfficialStableDiffusion/sd_xl_base_1.0", "seed": 1, "steps": "20",
        "cfgscale": "7.0", "aspectratio": "1:1", "width": 1024, "height": 1024, "sampler": "dpmpp_2m",
        "negativeprompt": "dog", "swarm_version": "0.9.3.1",
    },
    "sui_extra_data": {"date": "2025-01-25", "original_prompt": "a photo of a <random:cat>"},
    "sui_models": [
        {"name": "detail.safetensors", "param": "loras", "hash": "0x01"},
        {"name": "OfficialStableDiffusion/sd_xl_base_1.0.safetensors", "param": "model", "hash": "0xd7a9"},
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(png({"parameters": json.dumps(_SWARM, indent=2)}), id="png"),
        pytest.param(saved("JPEG", exif=imagesharp_exif(json.dumps(_SWARM, indent=2))), id="jpeg"),
        pytest.param(saved("WEBP", exif=imagesharp_exif(json.dumps(_SWARM))), id="webp"),
        pytest.param(saved("JPEG", exif=pillow_exif(t0110=json.dumps(_SWARM))), id="legacy"),
    ],
)
def test_swarmui(data: bytes) -> None:
    assert said(read_generation(data)) == {
        "tool": "SwarmUI", "prompt": "a photo of a cat", "negative_prompt": "dog", "seed": 1, "steps": 20,
        "guidance": 7.0, "sampler": "dpmpp_2m", "model": "OfficialStableDiffusion/sd_xl_base_1.0",
        "model_hash": "0xd7a9", "width": 1024, "height": 1024,
    }  # fmt: skip


# -- diffusers, sidecars, our own --------------------------------------------------------------------------

_DIFFUSERS = {
    "prompt": "an astronaut", "negative_prompt": "blurry", "num_inference_steps": 28, "guidance_scale": 7.5,
    "seed": 0, "model_id": "stabilityai/stable-diffusion-xl-base-1.0", "scheduler": "EulerDiscreteScheduler",
    "width": 1024, "height": 512,
}  # fmt: skip
_ASTRONAUT = {
    "tool": "diffusers", "prompt": "an astronaut", "negative_prompt": "blurry", "seed": 0, "steps": 28,
    "guidance": 7.5, "sampler": "EulerDiscreteScheduler", "model": "stabilityai/stable-diffusion-xl-base-1.0",
    "width": 1024, "height": 512,
}  # fmt: skip


@pytest.mark.parametrize(
    "texts",
    [
        {"generation_config": json.dumps(_DIFFUSERS)},
        {"Title": "AI generated image", "parameters": json.dumps(_DIFFUSERS)},
        {name: str(value) for name, value in _DIFFUSERS.items()},
    ],
)
def test_diffusers_as_people_store_it(texts: dict[str, str]) -> None:
    assert said(read_generation(png(texts))) == _ASTRONAUT


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("x.txt", _A1111.encode() + b"\n", said(_EXPECTED)),
        ("x.txt", _A1111.replace("\n", "\r\n").encode("utf-16"), said(_EXPECTED)),
        ("X.TXT", b"\xef\xbb\xbfa {red|blue} apple\n", {"prompt": "a {red|blue} apple"}),
        ("x.txt", b"{red|blue} apple", {"prompt": "{red|blue} apple"}),
        ("x.json", json.dumps(_DIFFUSERS).encode(), _ASTRONAUT),
        ("x.json", json.dumps({"parameters": _A1111}).encode(), said(_EXPECTED)),
        ("x.json", json.dumps({"invokeai_metadata": {"positive_prompt": "p"}}).encode(),
         {"tool": "InvokeAI", "prompt": "p"}),
        ("x.json", json.dumps(_SWARM).encode(), said(read_generation(png({"parameters": json.dumps(_SWARM)})))),
        ("x.json", json.dumps(comfyui_graph()).encode(), said(read_generation(comfyui_png(comfyui_graph())))),
        ("x.json", json.dumps({"prompt": comfyui_graph()}).encode(),
         said(read_generation(comfyui_png(comfyui_graph())))),
        ("x.json", json.dumps({"Prompt": "p", "CFG Scale": "3", "Size": "64 x 32"}).encode(),
         {"prompt": "p", "guidance": 3.0, "width": 64, "height": 32}),
        ("x.json", b"not JSON: at, all: you, see: 1", {}),
        ("x.json", b"[1, 2]", {}),
        ("x.md", b"a duck", {}),
    ],
)  # fmt: skip
def test_sidecars(name: str, content: bytes, expected: dict[str, object]) -> None:
    assert said(read_generation(png(), (name, content))) == expected


def test_the_image_comes_before_its_sidecar() -> None:
    assert read_generation(png({"parameters": _A1111}), ("x.txt", b"something else")) == _EXPECTED
    broken = png({"parameters": '{"prompt": "a'})
    assert read_generation(broken, ("x.txt", b"a prompt")).prompt == "a prompt"
    assert read_generation(broken) == Generation(raw='{"prompt": "a')


_VALUES = st.builds(
    Generation,
    tool=st.just(TOOL),
    prompt=st.text() | st.sampled_from(
        ["a\nNegative prompt: b", "a\nSteps: 1, Seed: 2, Size: 3x4", '{"', '{"prompt": "x"}', '"', "a\r\nb"]
    ),
    negative_prompt=st.none() | st.text() | st.sampled_from(["x\nNegative template: y", "Negative prompt:", '"']),
    seed=st.none() | st.integers(0, 2**64 - 1),
    steps=st.none() | st.integers(1, 1000),
    guidance=st.none() | st.floats(0, 100),
    sampler=st.none() | st.text(),
    model=st.none() | st.text() | st.sampled_from(["a, b: c", "C:\\models\\x", '"quoted"', "stabilityai/sd-turbo"]),
    model_hash=st.none() | st.just("c0d1994c73"),
    width=st.just(64),
    height=st.just(96),
)  # fmt: skip


@given(_VALUES)
def test_our_own_images_and_sidecars_come_back(generation: Generation) -> None:
    text = write_parameters(generation)
    assert replace(read_generation(png({"parameters": text})), raw=None) == generation
    sidecar = write_sidecar(generation)
    assert replace(read_generation(png(), ("x.json", sidecar.encode())), raw=None) == generation
    assert list(json.loads(sidecar)) == [name for name in asdict(generation) if name != "raw"]


def test_our_own_text_is_what_automatic1111_reads() -> None:
    generation = replace(_EXPECTED, tool=TOOL, raw=None)
    assert write_parameters(generation) == (
        f"{_DUCK}\nNegative prompt: monochrome\nlow quality\nSteps: 15, Sampler: DPM++ 2M, CFG scale: 5.5, "
        "Seed: 235284042, Size: 512x400, Model hash: c0d1994c73, Model: realisticVision_v20, Version: latent-assets"
    )
