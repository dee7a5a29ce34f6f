"""Independent tasks over processes of this machine, or over a Ray or Dask cluster: joblib does the work."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from plisse.errors import InputError, PlisseError

BACKENDS = ("loky", "dask", "ray")
"""Local processes; a Dask cluster; a Ray cluster."""
Result = TypeVar("Result")


def fanned(tasks: Sequence[Callable[[], Result]], jobs: int = 1, backend: str = "loky") -> Iterator[Result]:
    """Results of all tasks, in their order, as they become known.

    jobs: so many at a time; one job runs here, in turn. backend: "loky" starts processes of this machine;
    "dask" and "ray" use the cluster that this process is connected to, or that DASK_SCHEDULER_ADDRESS or
    RAY_ADDRESS names, or else start one here with `jobs` workers.

    Raises InputError for an unknown backend, or one that is not installed, before any task begins.

    >>> list(fanned([lambda: 1, lambda: 2]))
    [1, 2]
    """
    if jobs < 1:
        raise InputError(f"{jobs} jobs", expected="1 or more")
    if backend not in BACKENDS:
        raise InputError(f"backend {backend!r}", expected=", ".join(BACKENDS))
    if backend != "loky":
        _needed(backend)
    if (jobs == 1 and backend == "loky") or len(tasks) < 2:
        return (task() for task in tasks)
    return _parallel(tasks, jobs, backend)


def _parallel(tasks: Sequence[Callable[[], Result]], jobs: int, backend: str) -> Iterator[Result]:
    import joblib

    with _cluster(backend, jobs), joblib.parallel_config(backend, n_jobs=jobs):
        if backend == "ray":
            yield from _in_rounds(tasks, jobs)
            return
        found = joblib.Parallel(return_as="generator", batch_size=1)(joblib.delayed(_run)(t) for t in tasks)
        with contextlib.closing(found):
            yield from found


def _in_rounds(tasks: Sequence[Callable[[], Result]], jobs: int) -> Iterator[Result]:
    """As many tasks at a time as there are jobs: Ray's pool gives the results of a round together."""
    import joblib
    from ray.exceptions import RayTaskError

    with joblib.Parallel(batch_size=1) as parallel:
        for at in range(0, len(tasks), jobs):
            try:
                found = parallel(joblib.delayed(_run)(task) for task in tasks[at : at + jobs])
            except RayTaskError as error:
                if isinstance(cause := getattr(error, "cause", None), PlisseError):
                    raise cause from error
                raise
            yield from found


def _run(task: Callable[[], Result]) -> Result:
    return task()


def _needed(backend: str) -> None:
    try:
        __import__({"dask": "distributed", "ray": "ray"}[backend])
    except ImportError as error:
        raise InputError(
            f"backend {backend!r}, which is not installed", expected="dask[distributed] or ray",
            hint=f"pip install 'plisse[{backend}]', or --backend loky",
        ) from error  # fmt: skip


@contextlib.contextmanager
def _cluster(backend: str, jobs: int) -> Iterator[Any]:
    """A cluster to work on; what was started here ends here."""
    if backend == "dask":
        with _dask(jobs):
            yield
    elif backend == "ray":
        with _ray(jobs):
            yield
    else:
        yield


@contextlib.contextmanager
def _dask(jobs: int) -> Iterator[None]:
    import distributed

    with contextlib.ExitStack() as stack:
        try:
            distributed.get_client()
        except ValueError:
            place: Any = os.environ.get("DASK_SCHEDULER_ADDRESS") or stack.enter_context(
                distributed.LocalCluster(n_workers=jobs, threads_per_worker=1, dashboard_address=None)
            )
            stack.enter_context(distributed.Client(place))
        yield


@contextlib.contextmanager
def _ray(jobs: int) -> Iterator[None]:
    import ray
    from ray.util.joblib import register_ray

    started = not ray.is_initialized()
    if started:
        options: dict[str, Any] = {"num_cpus": jobs, "include_dashboard": False}
        if "RAY_ADDRESS" in os.environ:
            options = {}
        ray.init(log_to_driver=False, **options)
    register_ray()
    try:
        yield
    finally:
        if started:
            ray.shutdown()
