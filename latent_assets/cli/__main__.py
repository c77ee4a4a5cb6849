"""`python -m latent_assets.cli` is `latent-assets`."""

from latent_assets.cli import main

main()
