"""The embedded default: a small real data set (OpenMoji) and three small models trained on it.

The pictures and names live in `dataset`, the HTTP server that stands in for the web in `server`, the shipped
weights in `models`. What trained them is no part of the package: `infra/training`.
"""
