"""One predictor for all tests: fitting takes a second."""

import pytest

from cprune_rl.latency.predictor import LatencyPredictor
from tests.latency.measured_networks import measured_networks, samples


@pytest.fixture(scope="session")
def predictor() -> LatencyPredictor:
    """Fitted on three of the four networks."""
    return LatencyPredictor.fit(samples(measured_networks()[1:]))
