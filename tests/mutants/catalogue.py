"""All mutants."""

from tests.mutants import adapters, cpp, law, modules, triton

MUTANTS = [*law.MUTANTS, *modules.MUTANTS, *adapters.MUTANTS, *triton.MUTANTS, *cpp.MUTANTS]
