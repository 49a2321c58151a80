"""Hypothesis profiles and fixtures. `pytest --hypothesis-profile=nightly` looks longer, for days."""

import importlib
import warnings

import hypothesis
import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the host's own import warnings are not ours
    for host in ("norse.torch", "snntorch", "snntorch.functional"):
        importlib.import_module(host)

common = {"deadline": None, "print_blob": True, "suppress_health_check": list(hypothesis.HealthCheck)}
hypothesis.settings.register_profile("ci", max_examples=60, derandomize=True, **common)
hypothesis.settings.register_profile("nightly", max_examples=100_000, **common)
# For tests/mutants: the examples of ci, but a failure need not be made small; "brief" is only to see that all runs.
found = {"derandomize": True, "phases": [hypothesis.Phase.explicit, hypothesis.Phase.generate], **common}
hypothesis.settings.register_profile("mutants", max_examples=60, **found)
hypothesis.settings.register_profile("brief", max_examples=3, **found)
hypothesis.settings.load_profile("ci")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
