from __future__ import annotations

import pytest

from netwright.compress import CATALOGUE
from netwright.testing.compress import check_compressor


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_contract(name, tmp_path):
    check_compressor(CATALOGUE[name](), tmp_path)
