"""What `latent-assets build` shows while it works: a line per stage with its rate and what is left."""

from __future__ import annotations

import time
from contextlib import ExitStack
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from latent_assets.defs.build import StageResult
from latent_assets.progress import Progress as Report
from latent_assets.progress import listening


class BuildDisplay:
    """Context manager that listens to progress reports; on a terminal as bars, elsewhere as plain lines."""

    def __init__(self, console: Console) -> None:
        self._console, self._stack = console, ExitStack()
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<32}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]} {task.fields[rate]} {task.fields[note]}", markup=False),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
        )
        self._task = self._bars.add_task("starting", total=None, unit="", rate="", note="")
        self._stage, self._due, self._shard, self._began = "", 0, 0, 0.0
        self._base, self._last, self._reported = 0, 0, ""

    def __enter__(self) -> BuildDisplay:
        self._stack.enter_context(listening(self._tell))
        if self._console.is_terminal:
            self._stack.enter_context(self._bars)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def begin(self, stage: str, due: int, total: int) -> None:
        """A stage begins with `due` of its `total` artefacts to make."""
        self._stage, self._due, self._began = stage, due, time.perf_counter()
        self._base, self._last, self._reported = 0, 0, ""
        self._bars.reset(self._task, description=stage, total=None, unit="", rate="", note="")
        if due and not self._console.is_terminal:
            self._console.print(f"{stage}: {due} of {total} to do", highlight=False)

    def end(self, result: StageResult) -> None:
        """Print a stage's line: made, unchanged, failed, waiting, and how long it took."""
        failed = len(result.failed) - len(result.waiting)
        mark = "[red]✗[/red]" if failed else "[yellow]…[/yellow]" if result.waiting else "[green]✓[/green]"
        parts = [f"{result.done} made"] if result.done else []
        parts += [f"{result.unchanged} unchanged"] if result.unchanged else []
        parts += [f"[red]{failed} failed[/red]"] if failed else []
        parts += [f"[yellow]{len(result.waiting)} waiting[/yellow]"] if result.waiting else []
        units = f", {self._reported}" if self._reported and result.done else ""
        self._console.print(
            f"{mark} {result.stage:<20} {', '.join(parts) or 'nothing to do'}  {result.seconds:.1f} s{units}",
            highlight=False,
            markup=True,
        )

    def _tell(self, report: Report) -> None:
        """Add up the reports of the shards of a stage: each shard counts from zero again."""
        if report.lasting:
            self._console.print(f"{report.stage}: {report.note}", highlight=False, markup=False)
            return
        if report.done < self._last:
            self._base += self._last
        self._last = report.done
        done = self._base + report.done
        seconds = max(1e-6, time.perf_counter() - self._began)
        rate = f"{done / seconds:,.0f}/s" if done and report.unit != "spaces" else ""
        # `total` is the shard's; the stage's is estimated from the shards that are to do
        total = report.total * max(1, self._due) if report.total is not None and self._due else report.total
        self._reported = f"{done:,} {report.unit} {rate}".strip()
        self._bars.update(
            self._task,
            completed=done,
            total=max(total, done) if total is not None else None,
            unit=report.unit,
            rate=rate,
            note=report.note,
        )
