"""Archives that the orchestrator refuses to store."""

import io
import stat
import zipfile

import pytest

from consortium.core.errors import Refused
from consortium.flare.parent.archive import check_archive


def archive(*entries):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as opened:
        for entry in entries:
            opened.writestr(entry, "{}")
    return content.getvalue()


def test_a_job_as_flare_packs_it_is_accepted(tmp_path):
    whole = archive("job/meta.json", "job/app/config/settings.json", "job/..hidden")
    check_archive(whole)
    (tmp_path / "job.zip").write_bytes(whole)
    check_archive(str(tmp_path / "job.zip"))


@pytest.mark.parametrize("name", ["../out", "/etc/out", "job/../../out", "job\\..\\..\\out"])
def test_an_entry_that_would_land_outside_is_refused(name):
    with pytest.raises(Refused, match="unsafe-archive: the entry would land outside") as refused:
        check_archive(archive("job/meta.json", name))
    assert refused.value.where == repr(name)


def test_links_and_duplicate_entries_are_refused():
    link = zipfile.ZipInfo("job/app")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(Refused, match="the entry is a symbolic link, 'job/app'"):
        check_archive(archive("job/meta.json", link))
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = archive("job/meta.json", "job/meta.json")
    with pytest.raises(Refused, match=r"the archive has this entry 2 times, 'job/meta\.json'"):
        check_archive(twice)


def test_a_file_that_is_no_archive_is_refused(tmp_path):
    with pytest.raises(Refused, match="unsafe-archive: the archive cannot be read"):
        check_archive(b"rubbish")
    with pytest.raises(Refused, match="unsafe-archive: the archive cannot be read"):
        check_archive(str(tmp_path / "nothing"))
