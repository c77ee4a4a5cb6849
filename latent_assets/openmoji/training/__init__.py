"""How the shipped demo models were trained: pictures in memory, one training loop, one module per model.

Entry point: `python -m latent_assets.openmoji.train`. Loading and judging the shipped weights is not here.
"""
