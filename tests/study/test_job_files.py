"""Archives and folders of jobs that are not read."""

import io
import os
import stat
import zipfile

import pytest

from consortium.core.errors import Refused
from consortium.study.job_files import MAX_BYTES, MAX_FILES, read_archive, read_folder


def archive(*entries):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as opened:
        for entry in entries:
            opened.writestr(entry, "{}")
    return content.getvalue()


def test_a_job_as_flare_packs_it_is_accepted(tmp_path):
    whole = archive("job/meta.json", "job/app/config/settings.json", "job/..hidden")
    read_archive(whole)
    (tmp_path / "job.zip").write_bytes(whole)
    read_archive(str(tmp_path / "job.zip"))


@pytest.mark.parametrize("name", ["../out", "/etc/out", "job/../../out", "job\\..\\..\\out"])
def test_an_entry_that_would_land_outside_is_refused(name):
    with pytest.raises(Refused, match="unsafe-archive: the entry would land outside") as refused:
        read_archive(archive("job/meta.json", name))
    assert refused.value.where == repr(name)


def test_links_and_duplicate_entries_are_refused():
    link = zipfile.ZipInfo("job/app")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(Refused, match="the entry is a symbolic link, 'job/app'"):
        read_archive(archive("job/meta.json", link))
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = archive("job/meta.json", "job/meta.json")
    with pytest.raises(Refused, match=r"the archive has this entry 2 times, 'job/meta\.json'"):
        read_archive(twice)


def test_a_file_that_is_no_archive_is_refused(tmp_path):
    with pytest.raises(Refused, match="unsafe-archive: the archive cannot be read"):
        read_archive(b"rubbish")
    with pytest.raises(Refused, match="unsafe-archive: the archive cannot be read"):
        read_archive(str(tmp_path / "nothing"))


def test_what_is_too_large_or_too_many_is_refused_without_being_read():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("job/bomb", bytes(MAX_BYTES - 1))
    assert len(content.getvalue()) < MAX_BYTES / 100
    with pytest.raises(Refused, match="larger than 16 MiB, or packed too tightly, 'job/bomb'"):
        read_archive(content.getvalue())
    with pytest.raises(Refused, match="larger than 16 MiB"):
        read_archive(bytes(MAX_BYTES + 1))
    with pytest.raises(Refused, match="more than 1000 entries"):
        read_archive(archive(*(f"job/{number}" for number in range(MAX_FILES + 1))))


def test_a_file_that_is_longer_than_its_archive_says_is_refused():
    whole = bytearray(archive("job/file"))
    place = whole.rindex(b"PK\1\2") + 24  # the size of the file in the list at the end
    whole[place : place + 4] = (1).to_bytes(4, "little")
    with pytest.raises(Refused, match="unsafe-archive: the archive cannot be read"):
        read_archive(bytes(whole))


@pytest.mark.parametrize("name", ["job//file", "./job/file", "job/./file", "job\\file"])
def test_an_entry_has_one_name(name):
    with pytest.raises(Refused, match="unsafe-archive: the entry's name is not a plain path"):
        read_archive(archive("job/meta.json", name))


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_an_entry_is_a_plain_file(kind):
    entry = zipfile.ZipInfo("job/device")
    entry.external_attr = (kind | 0o600) << 16
    with pytest.raises(Refused, match="the entry is not a plain file"):
        read_archive(archive(entry))


def test_a_folder_is_read_as_its_archive(tmp_path):
    (tmp_path / "app" / "config").mkdir(parents=True)
    (tmp_path / "app" / "config" / "settings.json").write_text("{}")
    (tmp_path / "app" / "empty").mkdir()
    assert read_folder(tmp_path / "app") == {"config/settings.json": b"{}"}
    assert read_archive(archive("config/settings.json", "empty/")) == read_folder(tmp_path / "app")


def test_links_and_devices_in_a_folder_are_not_followed(tmp_path):
    for name in ("link", "pipe", "folder", "large"):
        (tmp_path / name).mkdir()
    (tmp_path / "link" / "passwd").symlink_to("/etc/passwd")
    (tmp_path / "folder" / "up").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe" / "waits")
    with (tmp_path / "large" / "sparse").open("wb") as file:
        file.truncate(12 * 2**30)
    for name in ("link", "pipe", "folder"):
        with pytest.raises(Refused, match="unsafe-archive: not a plain file"):
            read_folder(tmp_path / name)
    with pytest.raises(Refused, match="unsafe-archive: the job is larger than 16 MiB"):
        read_folder(tmp_path / "large")
    with pytest.raises(Refused, match="unsafe-archive: a file of the job cannot be read"):
        read_folder(tmp_path / "nothing")
