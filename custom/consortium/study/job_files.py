"""Reads a job's files into memory, from a folder or an archive, without following or unpacking.

Invariants: nothing is written; a link, a device or an entry outside of the job's folder is refused;
no more than `MAX_BYTES` are read, whatever the sizes that an archive declares.
"""

import io
import os
import stat
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from consortium.core.errors import Refused

MAX_FILES = 1000
"""Number of entries of a job; a job that carries this package has about 500."""
MAX_BYTES = 16 * 2**20
"""Bytes of all files of a job, and of an archive of it."""
MAX_RATIO = 100
"""Bytes of a file for each byte that it takes in the archive."""
_ENCRYPTED = 0x1  # bit of an entry's flags

Files = dict[str, bytes]
"""Content of each file, by its path in the job with `/` between the parts."""


def read_folder(folder: Path) -> Files:
    """Reads the files of a folder.

    Raises:
        Refused: `unsafe-archive`, if it holds a link, a device or too much, or cannot be read.
    """
    files: Files = {}
    left = MAX_BYTES
    try:
        for path in _walk(folder, MAX_FILES):
            name = path.relative_to(folder).as_posix()
            files[name] = _read_file(path, left)
            left -= len(files[name])
    except OSError as error:
        raise Refused(
            "unsafe-archive",
            f"a file of the job cannot be read ({error.strerror or error})",
            str(folder),
            "export the job again",
        ) from None
    return files


def _walk(folder: Path, most: int) -> Iterator[Path]:
    """Yields the plain files below a folder."""
    waiting, seen = [folder], 0
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                seen += 1
                if seen > most:
                    raise _unsafe(f"the job has more than {most} files", entry.name)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
                elif entry.is_file(follow_symlinks=False):
                    yield Path(entry.path)
                else:
                    raise _unsafe("not a plain file", entry.name)


def _read_file(path: Path, most: int) -> bytes:
    # Between the look and the opening a link or a pipe may have taken the file's place.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _unsafe("not a plain file", path.name)
        content = file.read(most + 1)
    if len(content) > most:
        raise _too_large(path.name)
    return content


def read_archive(archive: str | bytes) -> Files:
    """Reads the files of a zip archive.

    Args:
        archive: its bytes, or the path of its file.

    Raises:
        Refused: `unsafe-archive`, with the entry.
    """
    files: Files = {}
    left = MAX_BYTES
    try:
        size = len(archive) if isinstance(archive, bytes) else Path(archive).stat().st_size
        if size > MAX_BYTES:
            raise _too_large("the archive")
        with ZipFile(io.BytesIO(archive) if isinstance(archive, bytes) else archive) as opened:
            entries = opened.infolist()
            _check_entries(entries)
            for entry in entries:
                if not entry.is_dir():
                    files[entry.filename] = _read_entry(opened, entry, left)
                    left -= len(files[entry.filename])
    except (OSError, BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError) as error:
        raise _unsafe(f"the archive cannot be read ({error})", "the archive") from None
    return files


def _check_entries(entries: list[ZipInfo]) -> None:
    """Checks that an archive extracts into its own folder only, each file once."""
    if len(entries) > MAX_FILES:
        raise _unsafe(f"the archive has more than {MAX_FILES} entries", "the archive")
    for entry in entries:
        name = entry.filename
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts:
            raise _unsafe("the entry would land outside of the job's folder", name)
        if entry.orig_filename != name or "\\" in name or str(path) != name.rstrip("/"):
            raise _unsafe("the entry's name is not a plain path", name)
        mode = entry.external_attr >> 16
        if stat.S_ISLNK(mode):
            raise _unsafe("the entry is a symbolic link", name)
        if stat.S_IFMT(mode) not in (0, stat.S_IFDIR if entry.is_dir() else stat.S_IFREG):
            raise _unsafe("the entry is not a plain file", name)
        if entry.flag_bits & _ENCRYPTED or entry.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
            raise _unsafe("the entry is encrypted or packed in an unusual way", name)
        if entry.file_size > MAX_BYTES or entry.file_size > MAX_RATIO * max(entry.compress_size, 1):
            raise _too_large(name)
    for name, count in Counter(entry.filename.rstrip("/") for entry in entries).items():
        if count > 1:
            raise _unsafe(f"the archive has this entry {count} times", name)


def _read_entry(archive: ZipFile, entry: ZipInfo, most: int) -> bytes:
    with archive.open(entry) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise _too_large(entry.filename)
    return content


def _too_large(entry: str) -> Refused:
    return _unsafe(f"the job is larger than {MAX_BYTES // 2**20} MiB, or packed too tightly", entry)


def _unsafe(problem: str, entry: str) -> Refused:
    return Refused("unsafe-archive", problem, repr(entry), "submit the job's folder as it was made")
