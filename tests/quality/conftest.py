import pytest
from toy_metrics import night


@pytest.fixture
def runs():
    """Two runs that share visits 3 to 6."""
    return {"a": night(range(1, 7)), "b": night(range(3, 9), noise=1.2)}
