"""Several devices in one machine: a process for each encodes the shards of a run, and the run records what they made.

Which devices there are is said by $LATENT_ASSETS_DEVICES (`cuda:0,cuda:1`), else all CUDA GPUs are taken. A worker
makes whole shards as any process does, with their claims and manifests; so it does not matter for the result which of
them made which, nor how many there are.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from latent_assets.models.device import DEVICE_VARIABLE, devices
from latent_assets.pipeline.states import DUE
from latent_assets.profile import profile_toml
from latent_assets.progress import report

if TYPE_CHECKING:
    from latent_assets.pipeline.lineage import Lineage, MakeOptions

BATCH = "embeddings"  # the stages that run on devices
PROFILE = "LATENT_ASSETS_WORKER_PROFILE"  # the resolved profile as TOML, for a worker


def make_on_devices(lineage: Lineage, stages: Sequence[str], keys: Sequence[str], options: MakeOptions) -> set[str]:
    """Have a worker on each device make the artefacts of `stages` that are due, shard by shard.

    The keys of shards that workers made. None, and nothing done, with less than two devices or shards. What fails is
    left to whoever asked: it is tried once more there, and its error is then the usual one.
    """
    available = devices()
    if len(available) < 2 or len(keys) < 2 or options.force or options.retry:
        return set()
    due = [key for key in keys if any(lineage.artifact(stage, key).state in DUE for stage in stages)]
    if len(due) < 2:
        return set()
    queue, lock = deque(due), threading.Lock()
    made: set[str] = set()

    def serve(device: str) -> None:
        """One worker: asks for a shard when it is done with the one before."""
        with _worker(lineage, stages, device) as process:
            assert process.stdin is not None and process.stdout is not None
            while True:
                with lock:
                    if not queue:
                        break
                    key = queue.popleft()
                try:
                    process.stdin.write(f"{key}\n")
                    process.stdin.flush()
                    answer = process.stdout.readline().split()
                except OSError:
                    answer = []
                if not answer:
                    break  # it died: the shard is made by whoever asked
                if answer == ["made", key]:
                    with lock:
                        made.add(key)
                        report(BATCH, len(made), len(due), "shards")
            with suppress(OSError):
                process.stdin.close()

    threads = [threading.Thread(target=serve, args=(device,)) for device in available[: len(due)]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return made


def _worker(lineage: Lineage, stages: Sequence[str], device: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "latent_assets.pipeline.workers", *stages]
    environment = {**os.environ, DEVICE_VARIABLE: device, PROFILE: profile_toml(lineage.profile)}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def main(stages: Sequence[str]) -> None:
    """A worker: a shard's key on each line of its input, `made KEY` or `failed KEY` on each of its output."""
    import tomllib
    from pathlib import Path

    from latent_assets.pipeline.lineage import Lineage
    from latent_assets.profile import parse_profile

    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    profile = parse_profile(tomllib.loads(os.environ[PROFILE]), Path("worker.toml"), Path.cwd())
    lineage = Lineage(profile)
    for line in sys.stdin:
        key = line.strip()
        results = lineage.ensure(stages, key)
        failed = any(isinstance(result, Exception) for result in results.values())
        answers.write(f"{'failed' if failed else 'made'} {key}\n")
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
