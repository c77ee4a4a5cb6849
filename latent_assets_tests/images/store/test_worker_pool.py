"""Processes that store images: what happens when they crash, are killed, cannot begin, or are not needed any more."""

from __future__ import annotations

import asyncio
import errno
import gc
import hashlib
import mmap
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from PIL import Image

from latent_assets import progress
from latent_assets.errors import ResourceError, StorageError
from latent_assets.images.outcome import FetchError, Reason
from latent_assets.images.store import store_queue, worker, worker_pool
from latent_assets.images.store.journal import Journal, write_all
from latent_assets.layout import tar_name
from latent_assets.limits import MEMORY
from latent_assets.profile import Fetch
from latent_assets_tests.images.conftest import World, encoded, links_to, picture
from latent_assets_tests.images.site import Site

_START = """
import os, sys
sys.path[:] = {{path!r}}
from latent_assets.images.store import recorder, worker
store = recorder.store_image
def changed(body, settings):
    {change}
    return store(body, settings)
recorder.store_image = changed
{first}
worker.serve({{bodies}}, {{lock}})
"""


def processes() -> list[psutil.Process]:
    """Workers of this process."""
    return [
        child
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE and "serve(" in " ".join(child.cmdline())
    ]


@pytest.fixture(autouse=True)
def only_new_workers() -> Iterator[None]:
    """Workers of other tests are not used, and those of this test by no other."""
    worker_pool._end_idle()
    yield
    worker_pool._end_idle()
    assert not processes()


def start_with(monkeypatch: pytest.MonkeyPatch, change: str, first: str = "") -> None:
    """Workers run a line of Python at first and another before each image: `body` are its bytes."""
    monkeypatch.setattr(worker_pool, "_START", _START.format(change=change, first=first))


MARK = b"this one crashes the decoder"


def marked(site: Site) -> str:
    """A link to an image that holds MARK."""
    return site.add("/marked.jpg", encoded(picture(), comment=MARK))


def test_image_at_which_a_decoder_crashes_is_corrupt_and_the_others_are_stored(
    world: World, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_with(monkeypatch, f"if {MARK!r} in body: os.abort()")
    links = [*links_to(site, 40), marked(site)]
    rows = world.fetch(*links)
    crashed = rows.pop(links[-1])
    assert (crashed["outcome"], crashed["reason"], crashed["http_status"]) == ("failed", "corrupt_image", 200)
    assert "SIGABRT" in crashed["evidence"] and crashed["bytes"] > 0
    assert {row["reason"] for row in rows.values()} == {"ok"} and len(rows) == 40
    assert len(site.requests) == 41, "nothing is asked for again"


def test_worker_that_is_killed_loses_nothing(world: World, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    start_with(monkeypatch, "__import__('time').sleep(0.05)")
    links = links_to(site, 60)
    world.catalog(links)
    killed: list[int] = []

    def kill() -> None:
        while len(Journal(world.storage, "00000").entries()) < 5:
            time.sleep(0.01)
        for process in processes():
            killed.append(process.pid)
            process.send_signal(signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    report = world.run()
    killer.join()
    assert killed
    assert (report.ok, report.fetched, len(site.requests)) == (60, 60, 60)


def test_full_disk_is_one_clear_error_and_loses_no_outcome(
    world: World, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_for_nine_writes = """
import itertools
from latent_assets.images.store import journal
write, calls = journal.write_all, itertools.count()
def limited(file, pieces):
    if next(calls) < 9:
        return write(file, pieces)
    write(file, [bytes(pieces[0][:2])])
    raise OSError(28, "No space left on device")
journal.write_all = limited
"""
    world.settings |= {"per_host": 1}
    world.catalog(links_to(site, 40))
    with monkeypatch.context() as patch:
        # or a slow machine stores all in nine writes a worker
        patch.setattr("latent_assets.images.store.store_queue._TOGETHER", 1)
        start_with(patch, "pass", first=room_for_nine_writes)
        with pytest.raises(StorageError, match="is full"):
            world.run()
    kept = len(Journal(world.storage, "00000").entries())
    assert 4 <= kept < 40
    worker_pool._end_idle()
    report = world.run()
    assert (report.ok, report.fetched) == (40, 40 - kept)


def test_decoder_that_never_returns_is_ended(world: World, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = f"while {MARK!r} in body: pass"
    start_with(monkeypatch, endless, first="worker._CPU_SECONDS = 0.5")
    rows = world.fetch(*links_to(site, 10), marked(site))
    assert rows.pop(marked(site))["reason"] == "corrupt_image"
    assert {row["reason"] for row in rows.values()} == {"ok"} and len(rows) == 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("os.kill(os.getpid(), 9)", "SIGKILL again and again"),
        ("os._exit(1)", "ended with code 1 again and again"),
        ("os.abort()", "SIGABRT at an image that is in order"),
    ],
    ids=["killed", "exits", "crashes at every image"],
)
def test_no_image_is_called_corrupt_when_the_machine_is_at_fault(
    world: World, site: Site, monkeypatch: pytest.MonkeyPatch, change: str, message: str
) -> None:
    world.catalog(links_to(site, 10))
    with monkeypatch.context() as patch:
        start_with(patch, change)
        with pytest.raises(StorageError, match=message):
            world.run()
    assert Journal(world.storage, "00000").entries() == {}
    worker_pool._end_idle()
    assert world.run().ok == 10


def test_workers_are_not_ended_by_polite_signals(world: World, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    start_with(monkeypatch, "os.kill(os.getpid(), 15); os.kill(os.getpid(), 2)")
    assert {row["reason"] for row in world.fetch(*links_to(site, 5)).values()} == {"ok"}


def test_second_worker_that_cannot_begin_is_done_without(
    world: World, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, taken = worker_pool._acquire, threading.Lock()

    def only_one(job: worker.Job) -> worker_pool._Worker:
        if not taken.acquire(blocking=False):
            raise OSError(11, "no more processes")
        return take(job)

    monkeypatch.setattr(worker_pool, "_acquire", only_one)
    monkeypatch.setattr("latent_assets.images.store.store_queue._ROWS_A_WORKER", 1)
    monkeypatch.setattr("latent_assets.images.store.store_queue._processors", lambda: 3)
    world.catalog(links_to(site, 30))
    assert world.run().ok == 30
    taken.release()


@pytest.mark.filterwarnings("ignore:lance is not fork-safe")  # nothing of lance is used in the child
def test_forked_process_has_workers_of_its_own(world: World, site: Site) -> None:
    world.catalog(links_to(site, 5))
    world.run()
    assert worker_pool._idle
    child = os.fork()
    if not child:
        os._exit(len(worker_pool._idle))
    assert os.waitpid(child, 0)[1] == 0
    world.storage.delete(tar_name("00000"))
    assert world.run().fetched == 5


def test_interrupt_that_hits_the_loop_ends_the_run(world: World, site: Site) -> None:
    """Dagster raises its own BaseException wherever the program is; asyncio only logs it in a callback."""

    class Interrupt(BaseException):
        pass

    def interrupt() -> None:
        raise Interrupt

    def listener(report: progress.Progress) -> None:
        if report.done:
            asyncio.get_running_loop().call_soon(interrupt)

    world.catalog(links_to(site, 30, delay=0.02))
    with progress.listening(listener), pytest.raises(Interrupt):
        world.run()


def test_worker_that_has_ended_is_neither_written_to_nor_kept(world: World, site: Site) -> None:
    world.fetch(*links_to(site, 3))
    worker = worker_pool._idle.pop()
    number = worker._requests
    worker.end()
    read, write = os.pipe()
    os.set_blocking(read, False)
    if write != number:
        os.dup2(write, number)
    with pytest.raises(worker_pool.WorkerLostError):
        worker.close()
    with pytest.raises(BlockingIOError):
        os.read(read, 1)
    worker_pool._release(worker)
    assert worker not in worker_pool._idle
    for file in {read, write, number}:
        os.close(file)


def test_workers_are_kept_for_the_next_shard(world: World, site: Site) -> None:
    world.fetch(*links_to(site, 5))
    first = {process.pid for process in processes()}
    assert 1 <= len(first) <= (os.cpu_count() or 1)
    world.storage.delete(tar_name("00000"))
    assert world.run().fetched == 5
    assert {process.pid for process in processes()} == first


def test_idle_workers_end_by_themselves_and_others_begin(
    world: World, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        start_with(patch, "pass", first="worker._IDLE_SECONDS = 0.1")
        world.fetch(*links_to(site, 5))
        _, left = psutil.wait_procs(processes(), timeout=20)
        assert not left
    world.storage.delete(tar_name("00000"))
    report = world.run()
    assert (report.ok, report.fetched) == (5, 5)


def test_workers_that_cannot_begin_are_an_error_and_no_row_gets_an_outcome(
    world: World, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_pool, "_START", "raise SystemExit(3)")
    world.catalog(links_to(site, 5))
    with pytest.raises(StorageError, match="ended with code 3 when it was begun"):
        world.run()
    monkeypatch.undo()
    report = world.run()
    assert (report.ok, report.fetched) == (5, 5)


def test_an_error_in_a_worker_is_raised_with_its_place(
    world: World, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_with(monkeypatch, "raise LookupError('of a library')")
    world.catalog(links_to(site, 5))
    with pytest.raises(LookupError, match="of a library") as raised:
        world.run()
    assert "recorder.py" in "".join(raised.value.__notes__)


def test_what_a_library_prints_is_no_reply(
    world: World, site: Site, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    start_with(monkeypatch, "print('a remark'); os.write(1, b'another')")
    world.catalog(links_to(site, 5))
    assert world.run().ok == 5
    assert "another" in capfd.readouterr().err


def test_huge_images_take_turns_between_processes() -> None:
    holder = """
import sys
from latent_assets.images.store.worker import _ProcessLock
with _ProcessLock(int(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""
    taken = threading.Event()

    def take(number: int) -> None:
        with worker._ProcessLock(number):
            taken.set()

    with tempfile.TemporaryFile() as file:
        number = file.fileno()
        with subprocess.Popen(
            [sys.executable, "-c", holder, str(number)],
            pass_fds=[number],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdin and process.stdout and process.stdout.readline() == b"held\n"
            other = threading.Thread(target=take, args=(number,))
            other.start()
            assert not taken.wait(0.3), "the other process holds it"
            process.stdin.write(b"\n")
            process.stdin.flush()
            assert taken.wait(60)
            other.join()


SIZES = (0, worker.BODY_BYTES, 10, worker.BODY_BYTES - 2000, worker.BODY_BYTES + 5000, 3)


def test_bodies_larger_than_the_memory_that_is_kept(world: World, site: Site) -> None:
    # what is behind the end of an image is left out
    bodies = [
        encoded(picture(), comment=bytes([97 + number])) + os.urandom(extra) for number, extra in enumerate(SIZES)
    ]
    rows = world.fetch(*(site.add(f"/{number}.jpg", body) for number, body in enumerate(bodies)))
    for number, body in enumerate(bodies):
        row = rows[site.url(f"/{number}.jpg")]
        assert (row["reason"], row["sha256"]) == ("ok", hashlib.sha256(body).hexdigest())
    assert {os.fstat(idle._bodies.fileno()).st_size for idle in worker_pool._idle} == {worker.BODY_BYTES}


def test_no_room_for_what_arrived_is_one_clear_error(world: World, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    links = links_to(site, 5)
    world.catalog(links)

    def full(file: int, pieces: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(worker_pool, "write_all", full)
        with pytest.raises(StorageError, match=r"No room in .*No space left on device"):
            world.run()
    left = processes()
    assert left, "nothing is wrong with them"
    assert world.run().ok == 5
    assert {process.pid for process in processes()} >= {process.pid for process in left}


@pytest.mark.parametrize("format", ["jpeg", "raw"])
def test_library_that_cannot_be_loaded_is_no_fault_of_the_images(
    world: World, site: Site, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    world.settings |= {"format": format}
    link = site.add("/a.png", encoded(picture(), "PNG"))
    world.catalog([link])
    with monkeypatch.context() as patch:
        start_with(patch, "pass", first="sys.modules['simplejpeg'] = None")
        with pytest.raises(StorageError, match=r"cannot be decoded: .*simplejpeg.*Install"):
            world.run()
    assert Journal(world.storage, "00000").entries() == {}
    worker_pool._end_idle()
    assert world.run().ok == 1


@pytest.mark.skipif("glibc" not in platform.libc_ver(), reason="other C libraries have other ways with memory")
def test_memory_of_images_is_used_again(world: World, site: Site) -> None:
    """Given back and taken again page by page it costs a third of the time."""
    world.settings |= {"size": 512}

    def pages(number: int) -> int:
        """Those that a process took so far without waiting for a disk (proc(5): minflt)."""
        return int(Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[7])

    body = encoded(picture(1024, 768))
    world.catalog([site.add(f"/{number}.jpg", body) for number in range(40)])
    assert world.run().fetched == 40
    before = {process.pid: pages(process.pid) for process in processes()}
    world.storage.delete(tar_name("00000"))
    assert world.run().fetched == 40
    taken = sum(
        pages(number) - count for number, count in before.items()
    )  # another may have begun: it has to take some
    assert taken / 40 < 1024 * 768 * 3 / mmap.PAGESIZE / 10


def test_bodies_in_thousands_of_pieces(world: World, tmp_path: Path) -> None:
    pieces = [bytes([number % 251]) for number in range(5000)]
    with (tmp_path / "file").open("wb") as file:
        write_all(file.fileno(), pieces)
    assert (tmp_path / "file").read_bytes() == b"".join(pieces)


def test_the_collector_is_left_as_it_was(world: World, site: Site) -> None:
    before = gc.get_threshold()
    world.fetch(*links_to(site, 3))
    assert gc.get_threshold() == before


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of another process are Linux's")
def test_memory_that_is_short_stops_the_run_with_its_name(
    world: World, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image of 36 megapixels, and workers that get 64 MB more than they have."""
    monkeypatch.setattr(store_queue, "_processors", lambda: 1)
    monkeypatch.setattr(worker_pool, "patience", lambda timeout: 0.5)
    world.settings |= {"timeout": 20.0}
    world.fetch(site.add("/0.png", encoded(picture(), "PNG")), site.url("/1.png"))
    for process in processes():
        used = process.memory_info().vms
        resource.prlimit(process.pid, resource.RLIMIT_AS, (used + (64 << 20), resource.RLIM_INFINITY))
    site.add("/1.png", encoded(Image.new("RGB", (6000, 6000)), "PNG"))
    with pytest.raises(ResourceError, match="The memory of this machine ran out") as caught:
        world.run(retry=["http_not_found"])
    assert caught.value.resource == MEMORY
    for process in processes():
        resource.prlimit(process.pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    report = world.run(retry=["http_not_found"])
    assert report.reasons == {"ok": 2} and report.fetched == 1


@pytest.mark.parametrize("error", [MemoryError(), OSError("out of memory error when reading image file")])
def test_a_decoder_that_asks_for_more_than_the_pixels_need_was_led_to_it(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    from latent_assets.images.decode import image, pixels

    def failing(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(pixels, "decode", failing)
    with pytest.raises(FetchError) as caught:
        image.store_image(encoded(picture(), "PNG"), Fetch(size=64))
    assert caught.value.reason is Reason.CORRUPT
    monkeypatch.setattr(image, "_ROOM", 1 << 60)
    with pytest.raises(ResourceError, match="memory"):
        image.store_image(encoded(picture(), "PNG"), Fetch(size=64))


def test_processes_that_cannot_be_begun_are_waited_for(
    world: World, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, left = subprocess.Popen, [3]

    def refused(*arguments: object, **options: object) -> object:
        left[0] -= 1
        if left[0] >= 0:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return begin(*arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(worker_pool.subprocess, "Popen", refused)
    assert world.fetch_one(*links_to(site, 1))["reason"] == "ok"
    worker_pool._end_idle()
    left[0] = 1_000_000
    monkeypatch.setattr(worker_pool, "patience", lambda timeout: 0.3)
    world.settings |= {"format": "png"}  # stored otherwise, so asked for again
    with pytest.raises(ResourceError, match="threads and processes"):
        world.run()


def test_a_worker_loads_no_library_of_tables(tmp_path: Path) -> None:
    """Each of them would keep it in memory, for every processor, for nothing."""
    code = (
        "import os, sys; from latent_assets.images.store.worker import Job, _recorder;"
        "from latent_assets.profile import Fetch; from latent_assets.storage import Storage;"
        "_recorder(Job.of(Fetch(), Storage(sys.argv[1]), '00000'), dict(os.environ)).close();"
        "print({'polars', 'polars_hash', 'pandas', 'pyarrow', 'torch'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "set()"
