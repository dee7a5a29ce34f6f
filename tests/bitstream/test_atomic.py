from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plisse.bitstream.atomic import write_atomic
from plisse.errors import OutputError

OLD, NEW = b"old bytes", b"new bytes, and more of them"


def failing(code: int, on_call: int = 0, real: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """A function that fails at its call number `on_call` and otherwise does what `real` does."""
    calls = iter(range(1000))

    def call(*args: Any) -> Any:
        if next(calls) == on_call:
            raise OSError(code, os.strerror(code))
        assert real is not None
        return real(*args)

    return call


def test_writes_new_and_replaces_old(tmp_path: Path) -> None:
    path = tmp_path / "model.plisse"
    for data in (OLD, NEW, b""):
        write_atomic(path, data)
        assert path.read_bytes() == data
    assert os.listdir(tmp_path) == ["model.plisse"]


def test_keeps_permissions_and_follows_links(tmp_path: Path) -> None:
    path, link = tmp_path / "model.plisse", tmp_path / "link.plisse"
    path.write_bytes(OLD)
    path.chmod(0o640)
    link.symlink_to(path)
    write_atomic(link, NEW)
    assert link.is_symlink()
    assert path.read_bytes() == NEW
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_continues_after_a_partial_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, data[:5]))
    write_atomic(tmp_path / "model.plisse", NEW)
    assert (tmp_path / "model.plisse").read_bytes() == NEW


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("step", ["open", "write", "fsync", "close", "replace"])
def test_a_failure_before_the_rename_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, code: int
) -> None:
    path = tmp_path / "model.plisse"
    path.write_bytes(OLD)
    with monkeypatch.context() as patch:
        patch.setattr(os, step, failing(code))
        with pytest.raises(OutputError, match=r"model\.plisse"):
            write_atomic(path, NEW)
    assert path.read_bytes() == OLD
    assert os.listdir(tmp_path) == ["model.plisse"]


def test_a_failure_after_some_bytes_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.plisse"
    path.write_bytes(OLD)
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", failing(errno.ENOSPC, 2, lambda handle, data: real(handle, data[:4])))
        with pytest.raises(OutputError, match="expected room for 27 bytes; try: free some space"):
            write_atomic(path, NEW)
    assert path.read_bytes() == OLD
    assert os.listdir(tmp_path) == ["model.plisse"]


def test_a_failure_to_flush_the_folder_leaves_the_new_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.plisse"
    path.write_bytes(OLD)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(errno.EIO, 1, os.fsync))
        with pytest.raises(OutputError):
            write_atomic(path, NEW)
    assert path.read_bytes() == NEW
    assert os.listdir(tmp_path) == ["model.plisse"]


def test_a_folder_that_knows_no_flush_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(errno.EINVAL, 1, os.fsync))
        write_atomic(tmp_path / "model.plisse", NEW)


def test_an_interrupt_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.plisse"
    path.write_bytes(OLD)

    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_atomic(path, NEW)
    assert path.read_bytes() == OLD
    assert os.listdir(tmp_path) == ["model.plisse"]


@pytest.mark.parametrize(
    ("step", "expected"), [("write", OLD), ("fsync", OLD), ("replace", OLD), ("after", NEW)]
)
def test_a_process_that_dies_leaves_one_file_whole(tmp_path: Path, step: str, expected: bytes) -> None:
    path = tmp_path / "model.plisse"
    path.write_bytes(OLD)
    program = (
        "import os, signal, sys\n"
        "from plisse.bitstream import atomic\n"
        "def die(*args): os.kill(os.getpid(), signal.SIGKILL)\n"
        "path, step, data = sys.argv[1], sys.argv[2], sys.argv[3].encode()\n"
        "if step == 'after': atomic._flush_folder = die\n"
        "elif step == 'write': real = os.write; os.write = lambda h, d: (real(h, d[:5]), die())\n"
        "else: setattr(os, step, die)\n"
        "atomic.write_atomic(path, data)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path), step, NEW.decode()], timeout=60)
    assert done.returncode == -9
    assert path.read_bytes() == expected
    write_atomic(path, NEW)
    assert path.read_bytes() == NEW


def test_a_missing_folder_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=f"try: mkdir -p {tmp_path / 'none'}"):
        write_atomic(tmp_path / "none" / "model.plisse", NEW)


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="expected the name of a file"):
        write_atomic(tmp_path, NEW)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_forbidden_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="permission"):
        write_atomic(tmp_path / "model.plisse", NEW)
