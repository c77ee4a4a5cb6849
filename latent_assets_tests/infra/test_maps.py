"""The benchmark of maps runs as it will on a machine with a GPU: by umap-learn here, at a small size."""

import json
import subprocess
import sys

from latent_assets_tests.projection.synthetic import REPOSITORY


def test_maps_are_measured_in_one_command() -> None:
    call = [sys.executable, "-m", "infra.bench.gpu_maps", "--rows", "900", "--fit-rows", "500"]
    done = subprocess.run(call, cwd=REPOSITORY, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["rows"], found["fitted"], found["placed"]) == (900, 500, 400)
    assert found["backend"] in found["versions"]
    for space in ("clip", "vae", "joint"):
        figures = found["spaces"][space]
        assert 0.5 < figures["quality"]["trustworthiness"] <= 1 and figures["placed"]["probe_rows"] == 400
        assert figures["warm"]["drift"]["median"] >= 0 and figures["warm"]["floor"]["median"] > 0
