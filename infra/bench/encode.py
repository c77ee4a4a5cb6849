"""Throughput of the embeddings pass: images a second and memory, for the demo's or the real architectures.

    .venv/bin/python infra/bench/encode.py [--architecture demo|laion] [--images N]

`laion` is ViT-L-14 at 224 px and Stable Diffusion's autoencoder at 512 px with random weights (speed does not
depend on them). Decoding, encoding and writing run as in a build. "Shared cores allow" is what the same work takes
when its parts run one after the other, each as it is in the pass but alone on all cores.
"""

from __future__ import annotations

import argparse
import io
import resource
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

if TYPE_CHECKING:
    from latent_assets.models.encoder import Encoder


def jpegs(count: int, size: int) -> Iterator[tuple[str, bytes]]:
    """`count` rows over 32 different photographs-like JPEGs of `size` px."""
    rng = np.random.default_rng(0)
    files = []
    for _ in range(32):
        coarse = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).resize((size, size))
        noise = Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        Image.blend(coarse, noise, 0.08).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    for row in range(count):
        yield f"{row:08}", files[row % len(files)]


def random_models(folder: Path) -> tuple[object, object]:
    """Profile sections of the real architectures with random weights, written below `folder`."""
    import open_clip
    from diffusers import AutoencoderKL
    from safetensors.torch import save_file

    from latent_assets.profile import ClipModel, VaeModel

    model = open_clip.create_model("ViT-L-14")
    save_file(
        {key: value.half().contiguous() for key, value in model.state_dict().items()}, folder / "clip.safetensors"
    )
    AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[128, 256, 512, 512],
        layers_per_block=2,
        latent_channels=4,
        sample_size=256,
    ).save_pretrained(folder / "vae")
    return (
        ClipModel(name="ViT-L-14", pretrained=str(folder / "clip.safetensors"), batch_size=256),
        VaeModel(model=str(folder / "vae"), size=512, batch_size=16),
    )


def main() -> None:
    """Print images a second of passes and of their parts; the best of three, for other work disturbs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", choices=("demo", "laion"), default="demo")
    parser.add_argument("--images", type=int, default=2000)
    arguments = parser.parse_args()

    from latent_assets.embeddings.shard import ThumbnailOutput, VectorOutput, embed_shard
    from latent_assets.images.decode.image import decode_image
    from latent_assets.models.clip import load_clip
    from latent_assets.models.device import device_name
    from latent_assets.models.vae import load_vae
    from latent_assets.profile import Table, load_profile
    from latent_assets.storage import Storage

    with tempfile.TemporaryDirectory() as folder:
        storage = Storage(folder)
        if arguments.architecture == "demo":
            models = load_profile("demo").models
            clip_spec, vae_spec, size = models.clip, models.vae, 256
        else:
            clip_spec, vae_spec = random_models(Path(folder))  # type: ignore[assignment]
            size = 512
        assert clip_spec and vae_spec
        clip, vae = load_clip(clip_spec), load_vae(vae_spec)
        vectors = [
            VectorOutput(clip, "embeddings/c/0.arrow", clip_spec.batch_size),
            VectorOutput(vae, "embeddings/v/0.arrow", vae_spec.batch_size, "latent"),
        ]
        thumbnails = ThumbnailOutput("thumbnails/t/0.arrow", Table())
        images = arguments.images
        print(f"{device_name(clip.device)}; CLIP {clip.dtype}, VAE {vae.dtype}; {images} JPEGs of {size} px")

        def rate(outputs: Sequence[VectorOutput | ThumbnailOutput], count: int = images) -> float:
            return max(embed_shard(storage, jpegs(count, size), count, outputs).rate for _ in range(3))

        def encoding(output: VectorOutput) -> float:
            """Seconds an image that encoding takes alone: a pass over pixels that are ready."""
            ready = decode_image(next(iter(jpegs(1, size)))[1])
            pixels = output.encoder.pixels(ready)
            waiting = replace(output, encoder=_Ready(output.encoder, pixels))
            tiny = io.BytesIO()
            Image.new("RGB", (1, 1)).save(tiny, "PNG")
            rows = [(f"{row:08}", tiny.getvalue()) for row in range(images)]
            return min(embed_shard(storage, rows, images, [waiting]).seconds for _ in range(3)) / images

        parts = {"decoding and crops": 1 / rate([replace(v, encoder=_Blind(v.encoder)) for v in vectors])}
        parts |= {"CLIP": encoding(vectors[0]), "VAE": encoding(vectors[1])}
        for name, seconds in parts.items():
            print(f"{name + ' alone':<25} {1 / seconds:8.0f} images/s")
        together, allowed = rate(vectors), 1 / sum(parts.values())
        print(f"{'shared cores allow':<25} {allowed:8.0f} images/s")
        print(f"{'CLIP and VAE':<25} {together:8.0f} images/s, {together / allowed:.0%} of that")
        print(f"{'with thumbnails':<25} {rate([*vectors, thumbnails]):8.0f} images/s")
        print(f"{'thumbnails alone':<25} {rate([thumbnails]):8.0f} images/s")
        print(f"{'a shard of one image':<25} {1 / rate(vectors, 1):8.3f} s")
        print(f"peak memory               {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:8.0f} MiB")


class _Ready:
    """An encoder whose pixels cost nothing."""

    def __init__(self, encoder: Encoder, pixels: np.ndarray) -> None:
        self._encoder, self._pixels = encoder, pixels

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def pixels(self, image: Image.Image) -> np.ndarray:
        return self._pixels


class _Blind:
    """An encoder whose encoding costs nothing."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: torch.zeros(len(pixels), width) for name, width in self._encoder.columns.items()}


if __name__ == "__main__":
    main()
