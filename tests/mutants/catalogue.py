"""All mutants."""

from tests.mutants import adapters, cpp, law, modules

MUTANTS = [*law.MUTANTS, *modules.MUTANTS, *adapters.MUTANTS, *cpp.MUTANTS]
