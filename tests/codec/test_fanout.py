"""Fan-out over groups of frames and clips: the bytes are the same whatever the number of jobs; interrupted
files are whole and go on; real local clusters of Dask and Ray."""

import itertools
import os
import warnings
from dataclasses import replace
from fractions import Fraction
from functools import partial

import pytest
from clips import moving

from plisse.codec import files, video
from plisse.codec.fanout import fanned
from plisse.codec.groups import Span, encode_span, marked, spans
from plisse.codec.rate import Rate
from plisse.codec.video import Settings, encode, encode_file, encode_files, open_clip
from plisse.data.video import open_video
from plisse.data.video_out import write_video
from plisse.errors import InputError

RATE = Fraction(25)
TINY = Settings("warp", "fast", Rate(crf=30), key_interval=2)


def number(n: int) -> tuple[int, int]:
    return n, os.getpid()


@pytest.fixture(autouse=True)
def quiet_clusters():
    """Clusters warn of what is theirs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def clips(tmp_path):
    found = []
    for name, n in (("a", 5), ("b", 3)):
        write_video(tmp_path / f"{name}.y4m", moving(n, seed=n), 25)
        found.append((open_video(tmp_path / f"{name}.y4m"), tmp_path / f"{name}.plv"))
    return found


def whole(source, settings) -> bytes:
    return encode(source, source.rate, settings)


def test_groups_are_known_before_anything_is_coded():
    frames = moving(5)
    other = [replace(f, planes=(255 - f.planes[0], *f.planes[1:])) for f in moving(2, seed=3)]
    cut = replace(TINY, key_interval=3)
    assert spans(frames + other, cut) == [Span(0, 3), Span(3, 5), Span(5, 7)]
    assert spans(frames, replace(TINY, stepping=False)) == [Span(i, i + 1) for i in range(5)]
    assert spans(frames, replace(TINY, rate=Rate(bpp=1))) == [Span(0, None)]
    assert spans([], TINY) == []


@pytest.mark.parametrize("rate", [Rate(crf=30), Rate(psnr=33), Rate(bpp=0.6)], ids=["crf", "psnr", "bpp"])
def test_groups_alone_are_the_groups_of_the_whole(clips, rate):
    source, path = clips[0]
    settings = replace(TINY, rate=rate)
    encode_file(source, path, settings)
    data, header = path.read_bytes(), open_clip(path).header
    for span in spans(source, settings):
        chunks = b"".join(chunk for chunk, _ in encode_span(source, header, settings, span))
        assert chunks in data


@pytest.mark.parametrize(
    "processes", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["here", "loky"]
)
def test_two_jobs_write_the_same_bytes(clips, monkeypatch, processes):
    if not processes:
        for module in (files, video):
            monkeypatch.setattr(module, "fanned", in_turn)
    seen, reported = [], []
    counts = encode_files(clips, TINY, report=reported.append, jobs=2, seen=seen.append)
    assert counts == [5, 3]
    assert [path.read_bytes() for _, path in clips] == [whole(source, TINY) for source, _ in clips]
    assert sum(seen) == 8
    assert [coded.index for coded in reported] == [0, 1, 2, 3, 4, 0, 1, 2]
    frames = moving(5, seed=5)
    assert encode(frames, RATE, TINY, jobs=2) == whole(clips[0][0], TINY)


def in_turn(tasks, jobs, backend):
    return (task() for task in tasks)


@pytest.mark.parametrize("cut", [1, 3])
def test_an_interrupted_fan_out_goes_on_to_the_same_bytes(clips, monkeypatch, cut):
    monkeypatch.setattr(files, "fanned", in_turn)
    count = itertools.count()

    def stop(coded):
        if next(count) == cut:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_files(clips, TINY, report=stop, jobs=2)
    (first, path), (second, other) = clips
    assert len(list(open_clip(path).frames())) == cut + 1
    assert not other.exists()
    encode_files(clips, TINY, resume=True, jobs=2)
    assert (path.read_bytes(), other.read_bytes()) == (whole(first, TINY), whole(second, TINY))
    assert encode_files(clips, TINY, resume=True, jobs=2) == [5, 3]


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("rate", [Rate(psnr=33), Rate(bpp=0.6)], ids=["psnr", "bpp"])
def test_a_cut_file_goes_on(clips, monkeypatch, jobs, rate):
    monkeypatch.setattr(files, "fanned", in_turn)
    source, path = clips[0]
    settings = replace(TINY, rate=rate)
    encode_file(source, path, settings)
    data = path.read_bytes()
    for length in (data.index(b"\r\n") + 40, len(data) // 2, len(data) - 4):
        path.write_bytes(data[:length])
        assert encode_file(source, path, settings, resume=True, jobs=jobs) == 5
        assert path.read_bytes() == data


def test_going_on_with_another_file(clips, monkeypatch):
    monkeypatch.setattr(files, "fanned", in_turn)
    (source, path), (short, _) = clips
    encode_file(source, path, TINY)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InputError, match="other key frames"):
        encode_file(source, path, replace(TINY, key_interval=3), resume=True, jobs=2)
    with pytest.raises(InputError, match="more frames"):
        encode_file(short, path, TINY, resume=True, jobs=2)


def test_the_old_clip_stays_where_no_frame_came(clips):
    source, path = clips[0]
    with pytest.raises(KeyboardInterrupt):
        encode_file(
            source, path, replace(TINY), report=lambda coded: (_ for _ in ()).throw(KeyboardInterrupt)
        )
    one_frame = path.read_bytes()
    assert len(list(open_clip(path).frames())) == 1
    with pytest.raises(Exception, match="key frame alone"):
        encode_file(source, path, replace(TINY, rate=Rate(bpp=0.001)))
    assert path.read_bytes() == one_frame


def test_bad_arguments(clips):
    for options in ({"jobs": 0}, {"jobs": 2, "backend": "threads"}):
        with pytest.raises(InputError):
            encode_files(clips, TINY, **options)
    assert next(iter(fanned([partial(number, 3)], jobs=4)))[0] == 3


def test_a_backend_that_is_not_there(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(InputError, match="not installed"):
        fanned([], 2, "ray")


def test_marks_are_counted():
    seen = []
    with marked(seen.append) as folder:
        encode_span(moving(3), open_header(), TINY, Span(0, 3), folder)
    assert sum(seen) == 3


def open_header():
    from plisse.codec.writing import started

    return started(moving(1)[0], RATE, TINY)[0]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["loky", "dask", "ray"])
def test_real_workers(clips, backend):
    pytest.importorskip({"dask": "distributed"}.get(backend, "joblib" if backend == "loky" else backend))
    found = list(fanned([partial(divmod, 7, n) for n in (1, 2, 3)] + [os.getpid], 2, backend))
    assert found[:3] == [(7, 0), (3, 1), (2, 1)]
    assert found[3] != os.getpid()
    with pytest.raises(InputError, match="does not exist"):
        list(fanned([partial(open_video, "/nowhere.mkv")] * 2, 2, backend))
    if backend != "loky":
        encode_files(clips, TINY, jobs=2, backend=backend)
        assert [path.read_bytes() for _, path in clips] == [whole(source, TINY) for source, _ in clips]
