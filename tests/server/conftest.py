import pytest
from tests.federations import Federation


@pytest.fixture
def federation(generated, tmp_path, tiny):
    return Federation(generated, tmp_path, tiny("rounds=3"))
