"""How the shipped demo models were trained: pictures in memory, one training loop, one module per model.

Entry points, from the root of a checkout: `python -m infra.training.train`, and `python -m infra.training.evaluate`
for the figures that the models' cards state. Loading the shipped weights is `shipped`.
"""
