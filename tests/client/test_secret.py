"""The hospital's secret, and the processes that ask for it at once."""

import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from consortium.client.secret import SECRET, read_secret
from consortium.core.errors import EnvironmentProblem


def test_it_is_drawn_once_and_only_its_owner_reads_it(tmp_path):
    home, other = tmp_path / "home", tmp_path / "other"
    secret = read_secret(home)
    assert len(secret) == 32
    assert read_secret(home) == secret
    assert read_secret(other) != secret
    assert stat.S_IMODE((home / SECRET).stat().st_mode) == 0o600
    assert [path.name for path in home.iterdir()] == [SECRET]


def test_all_who_ask_at_once_get_the_same(tmp_path):
    with ThreadPoolExecutor(16) as executor:
        drawn = set(executor.map(read_secret, [tmp_path / "home"] * 64))
    assert len(drawn) == 1
    assert [path.name for path in (tmp_path / "home").iterdir()] == [SECRET]


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 33])
def test_a_damaged_secret_is_named_and_not_replaced(tmp_path, content):
    (tmp_path / SECRET).write_bytes(content)
    with pytest.raises(EnvironmentProblem, match="bad-secret"):
        read_secret(tmp_path)
    assert (tmp_path / SECRET).read_bytes() == content
