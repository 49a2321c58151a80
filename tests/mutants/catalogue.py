"""All mutants."""

from tests.mutants import adapters, cpp, fuse, law, modules, prepared, triton

MUTANTS = [
    *law.MUTANTS,
    *modules.MUTANTS,
    *prepared.MUTANTS,
    *adapters.MUTANTS,
    *fuse.MUTANTS,
    *triton.MUTANTS,
    *cpp.MUTANTS,
]
