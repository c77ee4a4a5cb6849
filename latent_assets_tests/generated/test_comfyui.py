"""Prompts and parameters from ComfyUI's graphs, wired as its templates and common extensions wire them."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from latent_assets.generated.metadata.generation import Generation
from latent_assets.generated.metadata.reading import read_generation
from latent_assets_tests.generated.tagged import comfyui_graph, comfyui_png, node, pillow_exif, png, saved

_GRAPH = json.dumps(comfyui_graph())
_EXPECTED = Generation(
    tool="ComfyUI",
    prompt="a glass bottle, a galaxy inside",
    negative_prompt="text, watermark",
    seed=156680208700286,
    steps=20,
    guidance=8.0,
    sampler="euler",
    model="v1-5-pruned-emaonly.safetensors",
    width=512,
    height=768,
    raw=_GRAPH,
)


def read(**changes: dict[str, Any]) -> Generation:
    return read_generation(comfyui_png(comfyui_graph(**changes)))


def sampler(**changes: Any) -> dict[str, Any]:
    return node("KSampler", **(comfyui_graph()["3"]["inputs"] | changes))


def test_png_webp_and_animated_png() -> None:
    assert read_generation(comfyui_png(comfyui_graph())) == _EXPECTED
    exif = pillow_exif(t0110=f"prompt:{_GRAPH}", t010F='workflow:{"nodes": []}', t010E='extra:{"a": 1}')
    assert read_generation(saved("WEBP", exif=exif)) == _EXPECTED
    info = PngInfo()
    info.add(b"comf", b"prompt\0" + _GRAPH.encode("latin-1"), after_idat=True)
    info.add(b"comf", b"workflow\0{}", after_idat=True)
    file = io.BytesIO()
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    frames[0].save(file, "PNG", pnginfo=info, save_all=True, duration=100, append_images=frames[1:])
    assert file.getvalue().index(b"comf") > file.getvalue().index(b"IDAT")
    assert read_generation(file.getvalue()) == _EXPECTED


def test_a_parameters_text_beside_the_graph_comes_first() -> None:
    text = "a bottle\nSteps: 9, Sampler: euler_normal, CFG scale: 8.0, Seed: 3, Size: 512x512, Version: ComfyUI"
    found = read_generation(png({"parameters": text, "prompt": _GRAPH}))
    assert (found.tool, found.prompt, found.steps) == ("ComfyUI", "a bottle", 9)


def test_advanced_sampler_with_seed_and_steps_from_other_nodes() -> None:
    advanced = node(
        "KSamplerAdvanced", add_noise="enable", noise_seed=["20", 0], steps=["21", 0], cfg=["24", 0],
        sampler_name="dpmpp_2m", scheduler="karras", start_at_step=0, end_at_step=20, model=["10", 0],
        positive=["6", 0], negative=["7", 0], latent_image=["5", 0],
    )  # fmt: skip
    found = read(
        n3=advanced,
        n10=node("LoraLoader", lora_name="duck.safetensors", strength_model=1, model=["11", 0], clip=["4", 1]),
        n11=node("ModelSamplingDiscrete", sampling="v_prediction", model=["4", 0]),
        n20=node("Seed (rgthree)", seed=18446744073709551615),
        n21=node("Reroute", **{"": ["22", 0]}),
        n22=node("PrimitiveInt", value=["23", 0]),
        n23=node("ImpactInt", value=33),
        n24=node("PrimitiveFloat", value=6.5),
    )
    assert (found.seed, found.steps, found.guidance, found.sampler) == (2**64 - 1, 33, 6.5, "dpmpp_2m")
    assert found.model == "v1-5-pruned-emaonly.safetensors"


def test_flux_with_a_guider() -> None:
    graph = {
        "6": node("CLIPTextEncode", text="a cute anime girl", clip=["11", 0]),
        "8": node("VAEDecode", samples=["13", 0], vae=["10", 0]),
        "9": node("SaveImage", filename_prefix="flux", images=["8", 0]),
        "10": node("VAELoader", vae_name="ae.safetensors"),
        "11": node("DualCLIPLoader", clip_name1="t5xxl.safetensors", clip_name2="clip_l.safetensors", type="flux"),
        "12": node("UNETLoader", unet_name="flux1-dev.safetensors", weight_dtype="default"),
        "13": node("SamplerCustomAdvanced", noise=["25", 0], guider=["22", 0], sampler=["16", 0], sigmas=["40", 0],
                   latent_image=["27", 0]),
        "16": node("KSamplerSelect", sampler_name="euler"),
        "17": node("BasicScheduler", scheduler="simple", steps=24, denoise=1, model=["30", 0]),
        "22": node("BasicGuider", model=["30", 0], conditioning=["26", 0]),
        "25": node("RandomNoise", noise_seed=219670278747233),
        "26": node("FluxGuidance", guidance=3.5, conditioning=["6", 0]),
        "27": node("EmptySD3LatentImage", width=["34", 0], height=["35", 0], batch_size=1),
        "30": node("ModelSamplingFlux", max_shift=1.15, base_shift=0.5, width=["34", 0], height=["35", 0],
                   model=["12", 0]),
        "34": node("PrimitiveNode", value=1024),
        "35": node("INTConstant", value=896),
        "40": node("SplitSigmas", sigmas=["17", 0], step=10),
    }  # fmt: skip
    found = read_generation(comfyui_png(graph))
    assert found == Generation(
        tool="ComfyUI", prompt="a cute anime girl", seed=219670278747233, steps=24, guidance=3.5, sampler="euler",
        model="flux1-dev.safetensors", width=1024, height=896, raw=json.dumps(graph),
    )  # fmt: skip
    graph["22"] = node("CFGGuider", model=["12", 0], positive=["26", 0], negative=["7", 0], cfg=4)
    graph["7"] = node("CLIPTextEncodeFlux", clip=["11", 0], clip_l="blur", t5xxl="very blurred", guidance=1)
    graph["16"] = node("SamplerDPMPP_2M_SDE", solver_type="midpoint", eta=1)
    found = read_generation(comfyui_png(graph))
    assert (found.negative_prompt, found.guidance, found.sampler) == ("blur\nvery blurred", 4.0, "SamplerDPMPP_2M_SDE")


def test_flux_in_a_plain_sampler_has_no_negative_prompt() -> None:
    """Its negative input is the positive one, zeroed out."""
    found = read(
        n3=sampler(cfg=1.0, positive=["20", 0], negative=["21", 0]),
        n20=node("FluxGuidance", guidance=2.5, conditioning=["6", 0]),
        n21=node("ConditioningZeroOut", conditioning=["6", 0]),
    )
    assert (found.prompt, found.negative_prompt, found.guidance) == ("a glass bottle, a galaxy inside", None, 2.5)


def test_sampler_custom() -> None:
    custom = node(
        "SamplerCustom", add_noise=True, noise_seed=5, cfg=1, model=["4", 0], positive=["6", 0], negative=["7", 0],
        sampler=["20", 0], sigmas=["21", 0], latent_image=["5", 0],
    )  # fmt: skip
    found = read(
        n3=custom,
        n20=node("KSamplerSelect", sampler_name="euler_ancestral"),
        n21=node("SDTurboScheduler", steps=1, denoise=1, model=["4", 0]),
    )
    assert (found.seed, found.steps, found.sampler, found.guidance) == (5, 1, "euler_ancestral", 1.0)


@pytest.mark.parametrize(
    ("nodes", "prompt"),
    [
        ({"n6": node("CLIPTextEncode", text=["20", 0], clip=["4", 1]),
          "n20": node("StringConcatenate", string_a=["21", 0], string_b="at night", delimiter=", "),
          "n21": node("PrimitiveStringMultiline", value="a fox")}, "a fox, at night"),
        ({"n6": node("CLIPTextEncode", text=["20", 0], clip=["4", 1]),
          "n20": node("Text Concatenate", delimiter=" ", clean_whitespace="true", text_a=["21", 0], text_b=["22", 0]),
          "n21": node("Text Multiline", text="a fox"), "n22": node("ShowText|pysssss", text=["23", 0], text_0="red"),
          "n23": node("String Literal", string="red")}, "a fox red"),
        ({"n6": node("CLIPTextEncode", text=["20", 0], clip=["4", 1]),
          "n20": node("ImpactWildcardProcessor", wildcard_text="a {fox|cat}", populated_text="a cat", seed=1)},
         "a cat"),
        ({"n6": node("CLIPTextEncode", text=["20", 0], clip=["4", 1]),
          "n7": node("CLIPTextEncode", text=["20", 1], clip=["4", 1]),
          "n20": node("SDXLPromptStyler", text_positive="a fox", text_negative="text, watermark", style="base")},
         "a fox"),
        ({"n6": node("CLIPTextEncodeSDXL", width=1024, height=1024, crop_w=0, text_g="a fox", text_l="a fox",
                     clip=["4", 1])}, "a fox"),
        ({"n6": node("ConditioningCombine", conditioning_1=["20", 0], conditioning_2=["21", 0]),
          "n20": node("CLIPTextEncode", text="sky\n", clip=["4", 1]),
          "n21": node("ConditioningSetArea", width=64, strength=1.0, conditioning=["22", 0]),
          "n22": node("CLIPTextEncode", text="grass", clip=["4", 1])}, "sky\ngrass"),
        ({"n3": sampler(positive=["20", 0], negative=["20", 1]),
          "n20": node("ControlNetApplyAdvanced", positive=["21", 0], negative=["7", 0], control_net=["22", 0],
                      image=["23", 0], strength=1.0, start_percent=0),
          "n21": node("unCLIPConditioning", conditioning=["6", 0], clip_vision_output=["24", 0], strength=1),
          "n22": node("ControlNetLoader", control_net_name="c.safetensors"),
          "n23": node("LoadImage", image="pose.png"), "n24": node("CLIPVisionEncode", image=["23", 0])},
         "a glass bottle, a galaxy inside"),
        ({"n3": sampler(model=["20", 0], positive=["20", 1], negative=["20", 2]),
          "n20": node("Efficient Loader", ckpt_name="v1-5-pruned-emaonly.safetensors", positive="a fox",
                      negative="text, watermark", empty_latent_width=512)}, "a fox"),
    ],
    ids=["concatenated", "extension", "wildcards", "styler", "two-encoders", "areas", "control-net", "loader"],
)  # fmt: skip
def test_texts(nodes: dict[str, Any], prompt: str) -> None:
    found = read(**nodes)
    assert (found.prompt, found.negative_prompt) == (prompt, "text, watermark")
    assert found.model == "v1-5-pruned-emaonly.safetensors"


def test_the_first_of_several_passes_counts() -> None:
    found = read(
        n8=node("VAEDecode", samples=["20", 0], vae=["4", 2]),
        n9=node("SaveImage", filename_prefix="x", images=["30", 0]),
        n20=sampler(seed=1, steps=12, denoise=0.5, latent_image=["21", 0], positive=["22", 0]),
        n21=node("LatentUpscale", upscale_method="nearest", width=1024, height=1536, samples=["3", 0]),
        n22=node("CLIPTextEncode", text="sharp details", clip=["4", 1]),
        n30=node("FaceDetailer", image=["8", 0], seed=2, steps=5, cfg=4, sampler_name="ddim", positive=["22", 0],
                 negative=["7", 0], model=["4", 0]),
    )  # fmt: skip
    assert found.prompt == _EXPECTED.prompt
    assert (found.seed, found.steps, found.width, found.height) == (_EXPECTED.seed, 20, 512, 768)


def test_latents_that_meet_and_samplers_of_other_images() -> None:
    """Neither the subjects that were put together nor the image behind a control net give the prompt."""
    found = read(
        n3=sampler(latent_image=["20", 0], positive=["30", 0]),
        n20=node("LatentComposite", samples_to=["21", 0], samples_from=["22", 0], x=0, y=0),
        n21=sampler(seed=1),
        n22=sampler(seed=2),
        n30=node("ControlNetApply", conditioning=["6", 0], control_net=["31", 0], image=["32", 0], strength=1),
        n32=node("VAEDecode", samples=["33", 0], vae=["4", 2]),
        n33=sampler(seed=3, positive=["7", 0], latent_image=["32", 0]),
    )
    assert (found.prompt, found.seed) == (_EXPECTED.prompt, _EXPECTED.seed)


def test_a_graph_without_a_sampler_is_comfyui_and_no_more() -> None:
    graph = {"1": node("LoadImage", image="x.png"), "2": node("SaveImage", filename_prefix="x", images=["1", 0])}
    assert read_generation(comfyui_png(graph)) == Generation(tool="ComfyUI", raw=json.dumps(graph))


def test_nan_as_comfyui_writes_it() -> None:
    graph = comfyui_graph(n12=node("LoadImage", image="x.png") | {"is_changed": float("nan")})
    assert "NaN" in json.dumps(graph)
    assert read_generation(comfyui_png(graph)).prompt == _EXPECTED.prompt
