"""Throughput of the embeddings pass: images a second and memory, for the demo's or the real architectures.

    .venv/bin/python infra/bench/encode.py [--architecture demo|laion] [--images N] [--batch N]

`laion` is ViT-L-14 at 224 px and Stable Diffusion's autoencoder at 512 px with random weights (speed does not
depend on them). Decoding, encoding and writing run as in a build; the decode-only line shows the headroom.
"""

from __future__ import annotations

import argparse
import io
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image


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
    """Encode twice (the first pass warms up) and print images a second."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", choices=("demo", "laion"), default="demo")
    parser.add_argument("--images", type=int, default=2000)
    arguments = parser.parse_args()

    from latent_assets.embeddings.shard import Target, encode_shard
    from latent_assets.models.clip import load_clip
    from latent_assets.models.device import device_name
    from latent_assets.models.preprocessing import decode
    from latent_assets.models.vae import load_vae
    from latent_assets.profile import load_profile
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
        targets = [
            Target(clip, "embeddings/c/0.arrow", clip_spec.batch_size),
            Target(vae, "embeddings/v/0.arrow", vae_spec.batch_size),
        ]
        print(f"{device_name(clip.device)}; CLIP {clip.dtype}, VAE {vae.dtype}; {arguments.images} JPEGs of {size} px")
        started = time.perf_counter()
        for _, data in jpegs(256, size):
            decode(data)
        print(f"decode alone, one thread  {256 / (time.perf_counter() - started):8.0f} images/s")
        for name, chosen in (("CLIP and VAE", targets), ("CLIP alone", targets[:1]), ("VAE alone", targets[1:])):
            encode_shard(storage, jpegs(64, size), 64, chosen)
            report = encode_shard(storage, jpegs(arguments.images, size), arguments.images, chosen)
            print(f"{name:<25} {report.rate:8.0f} images/s")
        print(f"peak memory               {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:8.0f} MiB")


if __name__ == "__main__":
    main()
