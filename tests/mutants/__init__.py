"""Mutants: small wrong changes of the code, each with the named property that has to notice it."""
