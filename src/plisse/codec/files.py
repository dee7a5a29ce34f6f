"""Videos on disk to clips on disk: one or several, anew or after an interruption, over several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path

from plisse.codec.encoder import Coded, Settings
from plisse.codec.fanout import fanned
from plisse.codec.groups import Group, Span, encode_span, encoder_for, marked, spans
from plisse.codec.kept import again, kept_of
from plisse.codec.newfile import put_new
from plisse.codec.stream import Header
from plisse.codec.threads import one_thread
from plisse.codec.writing import Report, go_on, put_groups, started
from plisse.data.video import Video
from plisse.errors import OutputError


def encode_file(
    video: Video,
    path: str | Path,
    settings: Settings = Settings(),
    resume: bool = False,
    report: Report = lambda coded: None,
    jobs: int = 1,
    backend: str = "loky",
    seen: Callable[[int], None] = lambda count: None,
) -> int:
    """Write a clip to a file. After an interruption the file is shorter, but whole; resume: go on with it.

    The file that is gone on with is the one that would have been written at once, and so is that of several
    jobs. Returns the number of frames. Raises InputError for a file of other frames or settings, which stays
    as it is, OutputError where it cannot be written. For the rest see `encode_files`.
    """
    return encode_files([(video, Path(path))], settings, resume, report, jobs, backend, seen)[0]


def encode_files(
    clips: Sequence[tuple[Video, Path]],
    settings: Settings = Settings(),
    resume: bool = False,
    report: Report = lambda coded: None,
    jobs: int = 1,
    backend: str = "loky",
    seen: Callable[[int], None] = lambda count: None,
) -> list[int]:
    """Videos to the paths beside them; numbers of frames.

    jobs: so many groups of frames, each from key frame to key frame, are coded at a time, over all clips;
    they are written in order. Where a rate is in bits per pixel, clips go in parallel, but not their groups.
    backend: see `plisse.codec.fanout`; workers read the videos by their paths. report: hears of each frame
    that is in its file. seen: hears of how many more frames are coded, from another thread where there are
    several jobs.
    """
    try:
        if (jobs == 1 and backend == "loky") or (len(clips) == 1 and not settings.groups_alone):
            return [_one(video, path, settings, resume, _both(report, seen)) for video, path in clips]
        return _many(clips, settings, resume, report, jobs, backend, seen)
    except OSError as error:
        name = str(error.filename or clips[0][1])
        raise OutputError(f"{name!r}, which cannot be written ({error.strerror})") from error


def _both(report: Report, seen: Callable[[int], None]) -> Report:
    def told(coded: Coded) -> None:
        report(coded)
        seen(1)

    return told


def _one(video: Video, path: Path, settings: Settings, resume: bool, report: Report) -> int:
    if resume and path.exists():
        return _resumed(path, video, settings, report)
    originals = iter(video)
    first = next(originals, None)
    header, scheme = started(first, video.rate, settings)
    assert first is not None
    encoder = encoder_for(video, header, scheme, settings)
    with one_thread():
        return put_new(path, header, map(encoder.chunk, chain([first], originals)), report)


def _resumed(path: Path, video: Video, settings: Settings, report: Report) -> int:
    """Go on in one process: from the last key frame, or, where all frames are bound together, the first."""
    header, scheme = started(next(iter(video), None), video.rate, settings)
    kept = kept_of(path, header)
    encoder, originals = again(path, kept, video, header, scheme, settings)
    if kept.complete:
        return len(kept.offsets)
    with open(path, "r+b") as out:
        out.seek(kept.end)
        out.truncate()
        return go_on(out, originals, encoder, report)


@dataclass(frozen=True)
class _Plan:
    """A clip and the groups that it lacks. at: where they go in the file, None for a new one. count: frames
    that stay. complete: the file is as it should be."""

    video: Video
    path: Path
    header: Header
    spans: tuple[Span, ...]
    at: int | None = None
    count: int = 0
    complete: bool = False


def _planned(video: Video, path: Path, settings: Settings, resume: bool) -> _Plan:
    header, scheme = started(next(iter(video), None), video.rate, settings)
    every = tuple(spans(video, settings))
    if not (resume and path.exists()):
        return _Plan(video, path, header, every)
    kept = kept_of(path, header)
    again(path, kept, video, header, scheme, settings)
    count = len(kept.offsets)
    if kept.complete:
        return _Plan(video, path, header, (), kept.end, count, True)
    left = tuple(span for span in every if span.stop is None or span.stop > count)
    whole = left[0].start if left else count
    return _Plan(video, path, header, left, kept.offsets[whole] if whole < count else kept.end, whole)


def _many(
    clips: Sequence[tuple[Video, Path]],
    settings: Settings,
    resume: bool,
    report: Report,
    jobs: int,
    backend: str,
    seen: Callable[[int], None],
) -> list[int]:
    plans = [_planned(video, path, settings, resume) for video, path in clips]
    with marked(seen) as marks:
        tasks: list[Callable[[], Group]] = [
            partial(encode_span, plan.video, plan.header, settings, span, marks)
            for plan in plans
            for span in plan.spans
        ]
        results = iter(fanned(tasks, jobs, backend))
        counts = [_written(plan, islice(results, len(plan.spans)), report) for plan in plans]
        next(results, None)
        return counts


def _written(plan: _Plan, groups: Iterator[Group], report: Report) -> int:
    if plan.complete:
        return plan.count
    if plan.at is None:
        return put_new(plan.path, plan.header, chain.from_iterable(groups), report)
    with open(plan.path, "r+b") as out:
        out.seek(plan.at)
        out.truncate()
        return put_groups(out, groups, plan.count, report)
