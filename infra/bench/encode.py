"""Throughput of the embeddings pass: images a second and memory, for the demo's or the real architectures.

    .venv/bin/python -m infra.bench.encode [--architecture demo|laion] [--images N] [--dtype auto]
    .venv/bin/python -m infra.bench.encode --compare ViT-L-14 "VAE 512" [--seconds 8] [--ways eager OpenVINO]

`laion` is ViT-L-14 at 224 px and Stable Diffusion's autoencoder at 512 px with random weights (speed does not
depend on them). Decoding, encoding and writing run as in a build. "Shared cores allow" is what the same work takes
when its parts run one after the other, each as it is in the pass but alone on all cores. `--compare` prints how fast
models are by number format, layout, batch, threads and library (`ways`), and how their outputs agree with float32's.
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
    from diffusers import AutoencoderKL

    from latent_assets.models.encoder import Encoder
    from latent_assets.profile import ClipModel, VaeModel


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


def clip_section(folder: Path, name: str = "ViT-L-14") -> ClipModel:
    """[models.clip] of a named architecture with random weights, written below `folder` once."""
    import open_clip
    from safetensors.torch import save_file

    from latent_assets.profile import ClipModel

    file = folder / f"{name}.safetensors"
    if not file.is_file():
        state = open_clip.create_model(name).state_dict()
        save_file({key: value.half().contiguous() for key, value in state.items()}, file)
    return ClipModel(name=name, pretrained=str(file), batch_size=256)


def stable_diffusion(channels: Sequence[int] = (128, 256, 512, 512)) -> AutoencoderKL:
    """Stable Diffusion's autoencoder (or a narrower one) with random weights."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=list(channels),
        layers_per_block=2,
        latent_channels=4,
        sample_size=256,
    )


def vae_section(folder: Path, size: int = 512, channels: Sequence[int] = (128, 256, 512, 512)) -> VaeModel:
    """[models.vae] of `stable_diffusion`, written below `folder` once."""
    from latent_assets.profile import VaeModel

    if not (folder / "vae").is_dir():
        stable_diffusion(channels).save_pretrained(folder / "vae")
    return VaeModel(model=str(folder / "vae"), size=size, batch_size=16, feature_dim=64)


def table(models: Sequence[str], seconds: float, wanted: Sequence[str]) -> None:
    """Print how each way to run each model does."""
    from infra.bench.ways import compare

    print(
        f"{'model':<10}{'format':<10}{'batch':>5}  {'way':<24}{'images/s':>9}{'per CPU s':>10}{'cosine':>9}{'start':>8}"
    )
    for name in models:
        for row in compare(name, seconds, list(wanted)):
            head = f"{row['model']:<10}{row['dtype']:<10}{row['batch']:>5}  {row['way']:<24}"
            if "failed" in row:
                print(f"{head}{row['failed']}", flush=True)
                continue
            rates = f"{row['images/s']:>9.3g}{row['images/CPU s']:>10.3g}"
            print(f"{head}{rates}{row['cosine']:>9.6f}{row['start']:>6.1f} s", flush=True)


def main() -> None:
    """Print images a second of passes and of their parts; the best of three, for other work disturbs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", choices=("demo", "laion"), default="demo")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto")
    parser.add_argument("--compare", nargs="+", metavar="MODEL", help="ViT-B-32, ViT-L-14, VAE 256, VAE 512, ...")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--ways", nargs="*", default=[])
    arguments = parser.parse_args()
    if arguments.compare:
        table(arguments.compare, arguments.seconds, arguments.ways)
        return

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
            clip_spec, vae_spec, size = clip_section(Path(folder)), vae_section(Path(folder)), 512
        assert clip_spec and vae_spec
        clip_spec, vae_spec = (spec.model_copy(update={"dtype": arguments.dtype}) for spec in (clip_spec, vae_spec))
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
