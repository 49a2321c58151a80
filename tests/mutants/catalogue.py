"""All mutants."""

from tests.mutants import (
    adapters,
    cpp,
    equations,
    following,
    fuse,
    generator,
    held,
    law,
    modules,
    prepared,
    swapping,
    triton,
)

MUTANTS = [
    *law.MUTANTS,
    *modules.MUTANTS,
    *prepared.MUTANTS,
    *swapping.MUTANTS,
    *adapters.MUTANTS,
    *held.MUTANTS,
    *following.MUTANTS,
    *fuse.MUTANTS,
    *equations.MUTANTS,
    *triton.MUTANTS,
    *cpp.MUTANTS,
    *generator.MUTANTS,
]
