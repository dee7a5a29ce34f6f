"""A progress bar on standard error: steps, time left, running loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(label: str | None, steps: int, done: int = 0) -> Iterator[Callable[[float | None], None]]:
    """A context that gives `advance(loss)`, called once per step; None leaves the shown loss as it is.

    label: what is shown before the bar; None shows nothing at all.
    """
    if label is None:
        yield lambda loss: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        row = bar.add_task(label, total=steps, completed=done, loss="")

        def advance(loss: float | None) -> None:
            if loss is None:
                bar.advance(row)
            else:
                bar.update(row, advance=1, loss=f"loss {loss:.4g}")

        yield advance
