"""How tests run: threads, hosts without their warnings, and what Hypothesis draws."""

import collections
import gc
import importlib
import importlib.util
import os
import time
import warnings

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported, here and in processes that tests start

import hypothesis
import pytest
import rotation
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is first imported: our kernels run on the CPU

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the host's own import warnings are not ours
    for host in ("norse.torch", "snntorch", "snntorch.functional"):
        importlib.import_module(host)

FORMS = 4  # of neurons, of which properties draw, others at every commit: a kernel is compiled for each
MORE_FORMS = 30  # for a longer run, and for mutants, which must not depend on the commit

# Nothing is remembered from run to run: the seed alone decides.
common = {"deadline": None, "database": None, "print_blob": True, "suppress_health_check": list(hypothesis.HealthCheck)}
hypothesis.settings.register_profile("ci", max_examples=30, **common)
hypothesis.settings.register_profile("quick", max_examples=10, **common)
hypothesis.settings.register_profile("nightly", max_examples=200, **common)
# For tests/mutants: always the same examples, and a failure need not be made small; "brief" only shows that all runs.
found = {"derandomize": True, "phases": [hypothesis.Phase.explicit, hypothesis.Phase.generate], **common}
hypothesis.settings.register_profile("mutants", max_examples=60, **found)
hypothesis.settings.register_profile("brief", max_examples=3, **found)
hypothesis.settings.load_profile("ci")


@pytest.hookimpl(tryfirst=True)  # before Hypothesis reads it; workers get the options of their controller
def pytest_configure(config):
    profile = hypothesis.settings.get_current_profile_name()
    if config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(rotation.number())
    from snn_lnm.testing import strategies  # not before the profile is loaded: its properties take the one of then

    seed = config.option.hypothesis_seed if profile == "nightly" else rotation.number()
    strategies.FORMS[:] = strategies.forms(MORE_FORMS if profile in ("nightly", "mutants") else FORMS, seed)


def pytest_report_header(config):
    return [
        f"what takes turns is chosen by {rotation.reason()}; again: SNN_LNM_TURN={rotation.number()} pytest",
        f"only its examples: --hypothesis-seed={config.option.hypothesis_seed}; "
        f"mutants: SNN_LNM_MUTANTS={rotation.mutants()}",
    ]


# The longest files, and of them first those that need no C++ engine: it is being built.
LONGEST = [
    "test_triton_gradients",
    "test_audit",
    "test_exact",
    "test_conformance",
    "test_processes",
    "test_fuse_compiled",
    "test_mutants",
    "test_jelly_gradients",
    "test_oracle_forward",
    "test_oracle_gradients",
    "test_jelly_conformance",
    "test_held",
    "test_cli",
    "test_hard_use",
    "test_fuse_exact",
    "test_write_an_adapter",
]


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what is slow
def pytest_collection_modifyitems(items):
    """Of a test with `turns(N)` all but each N-th case are slow, others at the next commit.

    The longest files come first, so that all workers end together (`--dist loadfile` takes files in this order).
    """
    seen = collections.Counter()
    for item in items:
        if mark := item.get_closest_marker("turns"):
            seen[item.function] += 1
            if (seen[item.function] + rotation.number()) % mark.args[0]:
                item.add_marker("slow")
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))
    gc.freeze()  # what was imported lives on: collections need not look at it


def pytest_runtest_setup():
    if time.time() > float(os.environ.get("SNN_LNM_UNTIL", "inf")):
        pytest.skip("the time is over")  # tests/nightly.py


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
