"""Hypothesis profiles and fixtures. `pytest --hypothesis-profile=nightly` looks longer, `quick` less long."""

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
hypothesis.settings.register_profile("quick", max_examples=10, derandomize=True, **common)
hypothesis.settings.register_profile("nightly", max_examples=20_000, **common)
hypothesis.settings.load_profile("ci")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
