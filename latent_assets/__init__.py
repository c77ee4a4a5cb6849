"""latent_assets: a Dagster data platform for versioned 3D atlases of latent space."""

__version__ = "0.1.0"
