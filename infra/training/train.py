"""Trains the demo's models: `python -m infra.training.train {data,vae,clip,diffusion,all}`.

Here: the command line and the order of the stages. Each model's recipe is in the module of its name.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

STAGES = ("data", "vae", "clip", "diffusion")


def main() -> None:
    """Parse the command line and run the chosen stage, or all of them in order."""
    parser = argparse.ArgumentParser(prog="python -m infra.training.train", description=__doc__)
    parser.add_argument("stage", choices=(*STAGES, "all"))
    parser.add_argument("--out", type=Path, default=Path("build/demo-models"), help="working directory")
    parser.add_argument("--steps", type=int, help="training steps instead of the recipe's")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    parser.add_argument("--ship", action="store_true", help="put the result into latent_assets/openmoji/models")
    arguments = parser.parse_args()
    for stage in STAGES if arguments.stage == "all" else (arguments.stage,):
        run_stage(stage, arguments.out, arguments.steps, arguments.resume, arguments.threads)
        if arguments.ship and stage != "data":
            ship(stage, arguments.out)


def run_stage(stage: str, out: Path, steps: int | None, resume: bool, threads: int | None) -> None:
    """Run one stage; its files land below `out`."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    if stage == "data":
        from infra.training.pictures import load_pictures

        load_pictures(out / "data")
    elif stage == "vae":
        from infra.training.vae import train_vae

        print(train_vae(out, steps, resume))
    elif stage == "clip":
        from infra.training.clip import train_clip

        print(train_clip(out, steps, resume))
    elif stage == "diffusion":
        from infra.training.diffusion import train_diffusion

        print(train_diffusion(out, steps, resume))


def ship(stage: str, out: Path) -> None:
    """Copy a stage's export into the package and draw its picture from what was shipped."""
    from infra.training.shipped import DIFFUSION, MODELS, VAE, load_pipeline, load_vae

    shutil.copytree(out / stage / "export", MODELS / stage, dirs_exist_ok=True)
    for weights in (MODELS / stage).rglob("*.safetensors"):
        weights.chmod(0o644)
    if stage == "vae":
        import torch

        from infra.training.pictures import load_pictures
        from infra.training.vae import reconstruction_sheet

        pictures = load_pictures(out / "data")
        sample = pictures.plain(torch.arange(7, len(pictures.small), len(pictures.small) // 32)[:32])
        reconstruction_sheet(load_vae(), sample).save(VAE / "reconstructions.webp", quality=88)
    elif stage == "diffusion":
        from infra.training.sheet import SHEET_PROMPTS, generated_sheet

        generated_sheet(load_pipeline(), SHEET_PROMPTS).save(DIFFUSION / "sheet.webp", quality=88)


if __name__ == "__main__":
    main()
