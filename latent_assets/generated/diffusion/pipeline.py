"""The text-to-image pipeline of a profile, through diffusers. What becomes of its images is not decided here."""

from __future__ import annotations

import inspect
import json
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL, AutoPipelineForText2Image

from latent_assets.errors import ModelError, QueryError
from latent_assets.generated.diffusion.latents import slerp
from latent_assets.models.device import best_device, dtype_on
from latent_assets.models.weights import diffusion_files, model_directory, quiet_loading

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from latent_assets.generated.diffusion.request import GenerationRequest
    from latent_assets.models.weights import ModelFiles
    from latent_assets.profile import DiffusionModel


@dataclass(frozen=True, eq=False)
class TextToImage:
    """A loaded pipeline of diffusers, and the files it came from. One image at a time: hold `lock` while it draws."""

    pipeline: Any
    spec: DiffusionModel
    files: ModelFiles
    lock: threading.Lock = field(default_factory=threading.Lock)

    def draw(self, request: GenerationRequest) -> Image.Image:
        """The first image of a request. The same request gives the same image, in whatever company.

        The start noise is drawn on the CPU: a seed means the same on every device. A negative prompt of a pipeline
        whose guidance is distilled (FLUX) switches real guidance on, with the same scale. Raises QueryError for what
        the pipeline cannot do, ModelError when it fails.
        """
        options: dict[str, Any] = {"prompt": request.prompt, **self._options(request)}
        if request.negative:
            if "negative_prompt" not in self._parameters:
                raise QueryError(f"{self.files.name} takes no negative prompt: leave it out.")
            options["negative_prompt"] = request.negative
            if "true_cfg_scale" in self._parameters:
                options["true_cfg_scale"] = options.pop("guidance_scale")
        return self._drawn(request, options)

    @property
    def mixes_prompts(self) -> bool:
        """Whether `draw_between` works: pipelines of Stable Diffusion 1 and 2, whose one text encoder says it all."""
        return type(self.pipeline).__name__ == "StableDiffusionPipeline"

    def draw_between(self, start: GenerationRequest, end: GenerationRequest, share: float) -> Image.Image:
        """An image between two requests: text vectors mixed linearly, start noises spherically; 0 and 1 are `draw`'s.

        Steps, guidance and the negative prompt are those of `start`. Raises ModelError when the pipeline fails.
        """
        encode: Any = self.pipeline.encode_prompt
        guided = start.guidance > 1.0
        device = self.pipeline.device
        texts = [encode(each.prompt, device, 1, guided, start.negative) for each in (start, end)]
        options = self._options(start) | {
            "prompt_embeds": torch.lerp(texts[0][0], texts[1][0], share),
            "negative_prompt_embeds": texts[0][1],
            "latents": slerp(self._noise(start.seed), self._noise(end.seed), share).to(device),
        }
        return self._drawn(start, options)

    def _noise(self, seed: int) -> torch.Tensor:
        """The start noise that the pipeline itself would draw for a seed: on the CPU, before it is scaled."""
        side = self.spec.size // self.pipeline.vae_scale_factor
        shape = (1, self.pipeline.unet.config.in_channels, side, side)
        return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed), dtype=self.pipeline.unet.dtype)

    def _options(self, request: GenerationRequest) -> dict[str, Any]:
        return {
            "height": self.spec.size,
            "width": self.spec.size,
            "num_inference_steps": request.steps,
            "guidance_scale": request.guidance,
            "generator": torch.Generator("cpu").manual_seed(request.seed),
        }

    def _drawn(self, request: GenerationRequest, options: Mapping[str, Any]) -> Image.Image:
        try:
            image: Image.Image = self.pipeline(**_known(options, self._parameters)).images[0]
        except (ValueError, IndexError) as error:  # steps that a scheduler cannot make, sizes that do not fit
            raise ModelError(
                f"{self.files.name} cannot draw with {request.steps} steps at {self.spec.size} px: {error}. "
                "Other steps, or another models.diffusion.size in the profile, may fit."
            ) from error
        return image.convert("RGB")

    @cached_property
    def _parameters(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(type(self.pipeline).__call__).parameters

    def is_cut(self, prompt: str) -> bool:
        """Whether the text encoder reads a beginning of `prompt` only (of several encoders, the longest reading)."""
        names = [name for name in ("tokenizer", "tokenizer_2", "tokenizer_3") if getattr(self.pipeline, name, None)]
        if not names:
            return False
        tokenizers = [getattr(self.pipeline, name) for name in names]
        return all(
            len(tokenizer(prompt, truncation=False, verbose=False)["input_ids"]) > tokenizer.model_max_length
            for tokenizer in tokenizers
        )


def _known(options: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name in parameters}


def load_text_to_image(spec: DiffusionModel, device: torch.device | None = None) -> TextToImage:
    """Load the pipeline of a profile, once per process and weights. Raises ModelError when it cannot be loaded.

    Any pipeline that diffusers' auto pipeline knows: Stable Diffusion 1.5 and 2.1, SDXL, SD3, FLUX and others, by name
    or from a directory. A `text_encoder` (a Hugging Face encoder and its tokenizer) and a `vae` of the profile replace
    the pipeline's own components.
    """
    files = diffusion_files(spec)
    return _load(spec, device or best_device(), files)


@lru_cache(maxsize=1)
def _load(spec: DiffusionModel, device: torch.device, files: ModelFiles) -> TextToImage:
    """`files` is part of the cache's key: weights that changed on disk are another model."""
    folder = model_directory(spec.model, "models.diffusion.model")
    index = _index(folder, spec)
    # transformers that predict a flow, and the text encoders beside them, overflow in float16
    dtype = dtype_on(device, spec.dtype, torch.bfloat16 if "transformer" in index else torch.float16)
    # parts that were saved as absent (SD3 without its third text encoder) have to be said to be absent
    components: dict[str, Any] = {name: None for name, part in index.items() if part == [None, None]}
    if "safety_checker" in index:
        components |= {"safety_checker": None, "requires_safety_checker": False}
    try:
        with quiet_loading():
            if spec.vae:
                vae = model_directory(spec.vae, "models.diffusion.vae")
                components["vae"] = AutoencoderKL.from_pretrained(vae, dtype=dtype)
            if spec.text_encoder:
                components |= _text_components(spec)
            pipeline = AutoPipelineForText2Image.from_pretrained(folder, dtype=dtype, **components)
            pipeline.set_progress_bar_config(disable=True)
            pipeline = pipeline.to(device=device, dtype=dtype)
    except (OSError, ValueError, AttributeError, ImportError) as error:
        raise ModelError(
            f"models.diffusion.model: {spec.model} is no text-to-image pipeline that can be loaded: {error}"
        ) from error
    # of a prompt that is cut they warn at every image; `is_cut` tells
    logging.getLogger("diffusers.pipelines").setLevel(logging.ERROR)
    return TextToImage(pipeline, spec, files)


def _index(folder: Path, spec: DiffusionModel) -> dict[str, Any]:
    try:
        found = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"models.diffusion.model: {spec.model} has no readable model_index.json ({error}). Set the directory that "
            "diffusers saved a pipeline to, or a repository's name."
        ) from error
    return found if isinstance(found, dict) else {}


def _text_components(spec: DiffusionModel) -> dict[str, Any]:
    from transformers import AutoModel, AutoTokenizer

    assert spec.text_encoder is not None
    folder = model_directory(spec.text_encoder, "models.diffusion.text_encoder")
    encoder = AutoModel.from_pretrained(folder, add_pooling_layer=False)
    # the pipeline hands its tokenizer's mask on only when the encoder's configuration says so
    encoder.config.use_attention_mask = True
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = spec.text_length
    return {"text_encoder": encoder.eval(), "tokenizer": tokenizer}
