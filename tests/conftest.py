"""What tests of several rooms need."""

from pathlib import Path

import pytest

from nightlab.errors import MissingData


@pytest.fixture(scope="session")
def stripe82() -> Path:
    """Folder of the SDSS Stripe 82 pair."""
    from nightlab.data.locate import data_set

    try:
        return data_set("stripe82")
    except MissingData as error:
        pytest.skip(str(error))
