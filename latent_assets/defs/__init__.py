"""Dagster's face: one module per group of assets. Thin: reads inputs, calls the library, reports metadata."""
