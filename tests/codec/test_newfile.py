"""New clips: what was there stays until the first frame is whole; full disks leave nothing half-written."""

import itertools
import resource
import signal
from contextlib import contextmanager
from dataclasses import replace

import pytest
from clips import moving

from plisse.codec import files
from plisse.codec.rate import Rate
from plisse.codec.video import Settings, encode_file, encode_files, open_clip
from plisse.data.video import open_video
from plisse.data.video_out import write_video
from plisse.errors import BudgetError, OutputError

TINY = Settings("warp", "fast", Rate(crf=30), key_interval=2)


@pytest.fixture
def source(tmp_path):
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in" / "in.y4m", moving(5), 25)
    return open_video(tmp_path / "in" / "in.y4m")


@pytest.fixture(params=[1, 2], ids=["one job", "two jobs"])
def jobs(request, monkeypatch):
    monkeypatch.setattr(files, "fanned", lambda tasks, jobs, backend: (task() for task in tasks))
    return request.param


@contextmanager
def files_up_to(n_bytes: int):
    """Writing beyond fails, as on a full disk."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def folder_of(path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in path.iterdir() if each.is_file()}


def test_a_failure_before_the_first_frame_leaves_what_was_there(tmp_path, source, jobs):
    path = tmp_path / "c.plv"
    path.write_bytes(b"a good file")
    for left in ({"c.plv": b"a good file"}, {}):
        with pytest.raises(BudgetError):
            encode_file(source, path, replace(TINY, rate=Rate(bpp=0.0001)), jobs=jobs)
        assert folder_of(tmp_path) == left
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("old", [True, False], ids=["a good file", "no file"])
def test_a_disk_that_fills_up_in_the_first_frame(tmp_path, source, jobs, old):
    path = tmp_path / "c.plv"
    if old:
        path.write_bytes(b"a good file")
    before = folder_of(tmp_path)
    with files_up_to(100), pytest.raises(OutputError, match=r"c\.plv', which cannot be written"):
        encode_file(source, path, TINY, jobs=jobs)
    assert folder_of(tmp_path) == before


def test_from_the_first_frame_on_the_new_file_has_the_name(tmp_path, source, jobs):
    path, count = tmp_path / "c.plv", itertools.count(1)
    path.write_bytes(b"a good file")

    def stop(coded):
        assert path.read_bytes().startswith(b"\x89PLVID")
        if next(count) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_file(source, path, TINY, report=stop, jobs=jobs)
    assert list(folder_of(tmp_path)) == ["c.plv"]
    assert len(list(open_clip(path).frames())) == 3


def test_a_disk_that_fills_up_later_leaves_whole_frames(tmp_path, source, jobs):
    path = tmp_path / "c.plv"
    encode_file(source, path, TINY)
    whole = path.read_bytes()
    limit = open_clip(path).chunks()[3].offset + 3
    with files_up_to(limit), pytest.raises(OutputError):
        encode_file(source, path, TINY, jobs=jobs)
    assert path.read_bytes() == whole[:limit]
    with pytest.warns(UserWarning, match="breaks off"):
        assert len(open_clip(path).chunks()) == 3


def test_links_are_followed_and_devices_left_alone(tmp_path, source):
    (tmp_path / "link.plv").symlink_to(tmp_path / "c.plv")
    encode_file(source, tmp_path / "link.plv", TINY)
    assert (tmp_path / "link.plv").is_symlink()
    assert len(open_clip(tmp_path / "c.plv").chunks()) == 5
    with pytest.raises(OutputError, match="no regular file"):
        encode_files([(source, tmp_path / "in")], TINY)
