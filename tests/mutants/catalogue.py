"""All mutants."""

from tests.mutants import adapters, cpp, fuse, law, modules, triton

MUTANTS = [*law.MUTANTS, *modules.MUTANTS, *adapters.MUTANTS, *fuse.MUTANTS, *triton.MUTANTS, *cpp.MUTANTS]
