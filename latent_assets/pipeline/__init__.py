"""The pipeline: which stages there are, what each should be, what is there and why. Knows no Dagster."""
