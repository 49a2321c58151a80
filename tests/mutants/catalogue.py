"""All mutants."""

from tests.mutants import adapters, cpp, fuse, held, law, modules, prepared, triton

MUTANTS = [
    *law.MUTANTS,
    *modules.MUTANTS,
    *prepared.MUTANTS,
    *adapters.MUTANTS,
    *held.MUTANTS,
    *fuse.MUTANTS,
    *triton.MUTANTS,
    *cpp.MUTANTS,
]
