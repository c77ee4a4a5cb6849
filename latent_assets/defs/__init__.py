"""Dagster's face: one module per group of assets. Thin: reads inputs, calls the library, reports metadata."""

import warnings

import dagster as dg

# backfill policies and multi-asset observation are beta in Dagster 1.13; the lock file pins the version used
warnings.filterwarnings("ignore", category=dg.BetaWarning)
