"""A C++ compiler for mutants: `compiler.py KEPT COMPILER ARGUMENTS...` does not optimise and compiles nothing twice.

A source that is the same as an earlier one once its headers are in it gets that one's object, out of the folder KEPT:
most mutants change what only one or two of the engine's sources see.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path


def main(kept: str, compiler: str, *arguments: str) -> int:
    command = [compiler, *arguments, "-O0"]
    if "-c" not in arguments:
        return subprocess.run(command).returncode
    target = arguments[arguments.index("-o") + 1]
    expand = ["-E" if word == "-c" else "-" if word == target else word for word in command]
    expanded = subprocess.run([*expand, "-P"], stdout=subprocess.PIPE)  # writes the list of headers, too
    if expanded.returncode:
        return expanded.returncode
    found = Path(kept) / hashlib.sha256(expanded.stdout).hexdigest()
    if not found.exists():
        compiled = subprocess.run(command).returncode
        if compiled:
            return compiled
        part = found.with_suffix(f".{os.getpid()}")  # another process never sees half an object
        shutil.copy(target, part)
        part.replace(found)
    shutil.copy(found, target)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
