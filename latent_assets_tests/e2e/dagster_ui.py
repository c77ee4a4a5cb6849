"""A real Dagster on loopback, webserver and daemon, asked over GraphQL what a person would see and click in the UI."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latent_assets.defs.instance import LOCATION

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


_LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchPipelineExecution(executionParams: $params) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } } ... on PipelineNotFoundError { message }
  }
}"""
_BACKFILL = """
mutation Backfill($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message }
  }
}"""
_RUN = "query Run($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }"
_BACKFILL_STATUS = """
query Backfill($backfill: String!) {
  partitionBackfillOrError(backfillId: $backfill) { ... on PartitionBackfill { status } ... on PythonError { message } }
}"""
_ERRORS = """
query Errors($run: ID!) {
  logsForRun(runId: $run) {
    ... on EventConnection { events { ... on ExecutionStepFailureEvent { error { message } } } }
  }
}"""
_STATUSES = """
query Statuses($key: AssetKeyInput!) {
  assetNodeOrError(assetKey: $key) { ... on AssetNode { assetPartitionStatuses {
    ... on DefaultPartitionStatuses { materializedPartitions failedPartitions materializingPartitions }
  } } }
}"""
_CHECKS = """
query Checks($key: AssetKeyInput!) {
  assetNodeOrError(assetKey: $key) { ... on AssetNode { assetChecksOrError { ... on AssetChecks { checks {
    name partitionStatuses { ... on AssetCheckDefaultPartitionStatuses {
      succeededPartitions failedPartitions inProgressPartitions skippedPartitions executionFailedPartitions
    } }
  } } } } }
}"""


def wait_until(condition: Callable[[], Any], seconds: float) -> Any:
    """What `condition` gives once that is not None or False; fails when it takes longer."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found is not None and found is not False:
            return found
        assert time.monotonic() < deadline, f"nothing after {seconds} s"
        time.sleep(0.3)


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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

    # -- what a person clicks ----------------------------------------------------------------------------

    def launch(
        self,
        assets: Sequence[str] = (),
        partition: str | None = None,
        checks: Sequence[tuple[str, str]] = (),
        config: dict[str, Any] | None = None,
        job: str = "__ASSET_JOB",
        profile: str | None = None,
    ) -> str:
        """Start a run of assets or of checks alone (asset, check); returns its id."""
        name = profile or self.profile
        selector: dict[str, Any] = {
            "repositoryName": "__repository__",
            "repositoryLocationName": LOCATION,
            "pipelineName": job,
        }
        if job == "__ASSET_JOB":
            selector["assetSelection"] = [{"path": [name, asset]} for asset in assets]
            if checks or not assets:
                selector["assetCheckSelection"] = [
                    {"assetKey": {"path": [name, asset]}, "name": check} for asset, check in checks
                ]
        tags = [{"key": "dagster/partition", "value": partition}] if partition else []
        parameters = {
            "selector": selector,
            "mode": "default",
            "runConfigData": json.dumps(config or {}),
            "executionMetadata": {"tags": tags},
        }
        answer = self.query(_LAUNCH, params=parameters)["launchPipelineExecution"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return str(answer["run"]["runId"])

    def backfill(self, assets: Sequence[str], partitions: Sequence[str]) -> str:
        """Materialize partitions of assets, as the dialog of the UI does; returns the backfill's id."""
        parameters = {
            "assetSelection": [{"path": [self.profile, asset]} for asset in assets],
            "partitionNames": list(partitions),
        }
        answer = self.query(_BACKFILL, params=parameters)["launchPartitionBackfill"]
        assert answer["__typename"] == "LaunchBackfillSuccess", answer
        return str(answer["backfillId"])

    # -- what a person sees --------------------------------------------------------------------------------

    def wait_for_run(self, run: str, seconds: float = 180) -> str:
        """The status of a run when it has ended."""

        def ended() -> str | None:
            status = str(self.query(_RUN, run=run)["runOrError"]["status"])
            return status if status in ("SUCCESS", "FAILURE", "CANCELED") else None

        return str(wait_until(ended, seconds))

    def wait_for_backfill(self, backfill: str, seconds: float = 240) -> str:
        """The status of a backfill when it and its runs have ended."""

        def ended() -> str | None:
            found = self.query(_BACKFILL_STATUS, backfill=backfill)["partitionBackfillOrError"]
            return str(found["status"]) if found["status"] not in ("REQUESTED", "CANCELING", "FAILING") else None

        return str(wait_until(ended, seconds))

    def errors(self, run: str) -> str:
        """What the failed steps of a run say."""
        events = self.query(_ERRORS, run=run)["logsForRun"]["events"]
        return "\n".join(event["error"]["message"] for event in events if event.get("error"))

    def partitions(self, asset: str) -> dict[str, list[str]]:
        """Partition keys of an asset by their state: materialized, failed, ..."""
        found = self.query(_STATUSES, key={"path": [self.profile, asset]})["assetNodeOrError"]
        names = {name: keys for name, keys in found["assetPartitionStatuses"].items() if isinstance(keys, list)}
        return {name.removesuffix("Partitions"): sorted(keys) for name, keys in names.items()}

    def check(self, asset: str, name: str) -> dict[str, list[str]]:
        """Partition keys of a check by their state: succeeded, failed, skipped, ..."""
        checks = self.query(_CHECKS, key={"path": [self.profile, asset]})["assetNodeOrError"]["assetChecksOrError"]
        statuses = next(c for c in checks["checks"] if c["name"] == name)["partitionStatuses"]
        return {
            key.removesuffix("Partitions"): sorted(value) for key, value in statuses.items() if isinstance(value, list)
        }

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
def serving_ui(instance_home: str, profile: str, daemon: bool = False, name: str = "small") -> Iterator[DagsterUI]:
    """Start Dagster on an instance, for the profile file `profile` (several with commas); stop it afterwards.

    Without the `daemon`, nothing that was launched is run: enough to look at.
    """
    port = free_port()
    home = Path(instance_home)
    environment = {**os.environ, "DAGSTER_HOME": instance_home, "LATENT_ASSETS_PROFILE": profile}
    workspace = home / "workspace.yaml"
    location = f"      module_name: latent_assets.definitions\n      location_name: {LOCATION}\n"
    workspace.write_text(f"load_from:\n  - python_module:\n{location}", encoding="utf-8")
    program = ["dagster", "dev"] if daemon else ["dagster_webserver"]
    command = [sys.executable, "-W", "ignore", "-m", *program, "-w", str(workspace), "-h", "127.0.0.1"]
    log = home / f"ui-{port}.log"
    with running([*command, "-p", str(port), "--log-level", "warning"], home, log, environment) as process:
        ui = DagsterUI(f"http://127.0.0.1:{port}", name)
        deadline = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(f"{ui.url}/server_info", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, f"Dagster did not start within 180 s: {log.read_text()}"
                time.sleep(0.3)
        yield ui


@contextmanager
def running(
    command: Sequence[str], folder: Path, log: Path, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A command that runs in `folder` and says what it says to `log`; ended afterwards with all that it started."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, cwd=folder, start_new_session=True
        )
    try:
        yield process
    finally:
        # also where whoever runs the tests had interrupts ignored
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
