"""Hypothesis profiles and fixtures. `pytest --hypothesis-profile=nightly` looks longer, for days, `quick` less long."""

import importlib
import importlib.util
import os
import warnings

import hypothesis
import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is first imported: our kernels run on the CPU

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the host's own import warnings are not ours
    for host in ("norse.torch", "snntorch", "snntorch.functional"):
        importlib.import_module(host)

common = {"deadline": None, "print_blob": True, "suppress_health_check": list(hypothesis.HealthCheck)}
hypothesis.settings.register_profile("ci", max_examples=60, derandomize=True, **common)
hypothesis.settings.register_profile("quick", max_examples=10, derandomize=True, **common)
hypothesis.settings.register_profile("nightly", max_examples=100_000, **common)
# For tests/mutants: the examples of ci, but a failure need not be made small; "brief" is only to see that all runs.
found = {"derandomize": True, "phases": [hypothesis.Phase.explicit, hypothesis.Phase.generate], **common}
hypothesis.settings.register_profile("mutants", max_examples=60, **found)
hypothesis.settings.register_profile("brief", max_examples=3, **found)
hypothesis.settings.load_profile("ci")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _patch_the_interpreted_language_once():
    """Triton's interpreter patches its language anew for every nested call, 60 % of its time: ours share one patch."""
    if os.environ.get("TRITON_INTERPRET") != "1" or importlib.util.find_spec("triton") is None:
        yield
        return
    from triton.runtime import interpreter

    patch_lang, running = interpreter._patch_lang, []

    def patch_once(fn):
        if running and fn.__module__.startswith("snn_lnm."):
            return None  # a nested call, which never restores its patch
        scope = patch_lang(fn)
        if scope is not None and not running:  # Triton 3.4 has none: it never restores
            running.append(scope)
            restore = scope.restore
            scope.restore = lambda: (running.clear(), restore())
        return scope

    interpreter._patch_lang = patch_once
    yield
    interpreter._patch_lang = patch_lang
