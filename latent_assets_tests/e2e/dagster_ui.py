"""A real Dagster webserver on loopback, asked over GraphQL what a person would see in the UI."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

_NODES = """
query Staleness($keys: [AssetKeyInput!]!) {
  assetNodes(assetKeys: $keys) {
    assetKey { path } groupName description kinds
    owners { __typename ... on TeamAssetOwner { team } }
    isPartitioned staleStatus
    partitionKeys
  }
}"""
_PARTITIONS = """
query Partitions($key: AssetKeyInput!, $partitions: [String!]!) {
  assetNodeOrError(assetKey: $key) {
    ... on AssetNode { staleStatusByPartition(partitions: $partitions) }
  }
}"""


@dataclass(frozen=True)
class DagsterUI:
    """The webserver's GraphQL endpoint."""

    url: str
    profile: str = "small"

    def query(self, query: str, **variables: Any) -> Any:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    def staleness(self, names: Sequence[str]) -> dict[str, str | list[str]]:
        """FRESH, STALE or MISSING per asset; for a partitioned one a list in partition order."""
        nodes = self.query(_NODES, keys=[{"path": [self.profile, name]} for name in names])["assetNodes"]
        found: dict[str, str | list[str]] = {}
        for node in nodes:
            name = node["assetKey"]["path"][1]
            if not node["isPartitioned"]:
                found[name] = node["staleStatus"]
                continue
            answer = self.query(_PARTITIONS, key={"path": [self.profile, name]}, partitions=node["partitionKeys"])
            found[name] = answer["assetNodeOrError"]["staleStatusByPartition"]
        return found

    def nodes(self, names: Sequence[str]) -> dict[str, Any]:
        """Description, group, kinds and owners per asset."""
        nodes = self.query(_NODES, keys=[{"path": [self.profile, name]} for name in names])["assetNodes"]
        return {node["assetKey"]["path"][1]: node for node in nodes}


@contextmanager
def serving_ui(instance_home: str, profile: str) -> Iterator[DagsterUI]:
    """Start `dagster-webserver` on an instance, for the profile file `profile`; stop it afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "DAGSTER_HOME": instance_home, "LATENT_ASSETS_PROFILE": profile}
    command = [sys.executable, "-m", "dagster_webserver", "-m", "latent_assets.definitions", "-h", "127.0.0.1"]
    process = subprocess.Popen(
        [*command, "-p", str(port), "--log-level", "warning"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        ui = DagsterUI(f"http://127.0.0.1:{port}")
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{ui.url}/server_info", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, process.stdout.read().decode() if process.stdout else ""
                assert time.monotonic() < deadline, "the webserver did not start within 120 s"
                time.sleep(0.3)
        yield ui
    finally:
        process.terminate()
        process.wait(30)
