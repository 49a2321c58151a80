"""Mutants of the C++ engine: law.h, kernels.h, ops.cpp. Each is compiled (without optimisation)."""

from tests.mutants.mutant import Mutant

MUTANTS: list[Mutant] = []
