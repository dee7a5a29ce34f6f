"""Write a file so that its path holds the old bytes whole or the new bytes whole, whatever happens."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path

from plisse.errors import OutputError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Put `data` at `path`: written beside it, flushed to the device, renamed, and the folder flushed.

    A symbolic link is followed; the permissions of a file that is replaced are kept.
    Raises OutputError, with what to do, where the file cannot be written; the old file is then as it was.
    """
    target = Path(os.path.realpath(path))
    try:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        _replace(target, data)
    except OSError as error:
        raise _explained(error, path, len(data)) from error


def _replace(target: Path, data: bytes) -> None:
    aside = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        _write_through(aside, data, _permissions(target))
        os.replace(aside, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(aside)
        raise
    _flush_folder(target.parent)


def _permissions(target: Path) -> int | None:
    """The permission bits of an existing file; None where there is none."""
    try:
        return stat.S_IMODE(target.stat().st_mode)
    except FileNotFoundError:
        return None


def _write_through(path: Path, data: bytes, permissions: int | None) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        if permissions is not None:
            os.chmod(path, permissions)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(handle, rest) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def _flush_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut, where the system knows how to."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise
    finally:
        os.close(handle)


def _explained(error: OSError, path: str | os.PathLike[str], length: int) -> OutputError:
    reason = error.strerror or str(error)
    expected, hint = "a path that can be written", "another path"
    if error.errno in FULL:
        expected, hint = f"room for {length} bytes", "free some space, or write to another disk"
    elif error.errno in FORBIDDEN:
        expected, hint = "permission to write in that folder", "another folder"
    elif error.errno == errno.ENOENT:
        folder = Path(path).parent
        expected, hint = f"an existing folder {str(folder)!r}", f"mkdir -p {folder}"
    elif error.errno == errno.EISDIR:
        expected, hint = "the name of a file", f"{Path(path) / 'model.plisse'}"
    return OutputError(f"{str(path)!r}: {reason}", expected=expected, hint=hint)
