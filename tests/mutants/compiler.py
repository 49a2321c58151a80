"""A C++ compiler for mutants: `compiler.py KEPT COMPILER ARGUMENTS...` does not optimise and compiles nothing twice.

A source gets an earlier object of it, out of the folder KEPT, when it and all headers that it included are as they
were: most mutants change what only one of the operator's sources sees. What headers there are, the compiler has
said the last time; one that is new is included by another that has changed.
"""

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path


def digest(command: list[str], headers: list[str]) -> str:
    files = [path.read_bytes() for path in map(Path, headers) if path.exists()]
    return hashlib.sha256(b"\0".join([repr(command).encode(), *files])).hexdigest()


def main(kept: str, compiler: str, *arguments: str) -> int:
    command = [compiler, *arguments, "-O0"]
    if "-c" not in arguments:  # a kernel, which has a name of its own where it is kept
        return subprocess.run(command).returncode
    target = Path(arguments[arguments.index("-o") + 1])
    asked = [word.replace(str(target.parent), ".") for word in command]  # each build has a folder of its own
    listed = Path(kept) / hashlib.sha256(repr(asked).encode()).hexdigest()
    if listed.exists():
        found = Path(kept) / digest(asked, listed.read_text().splitlines())
        if found.exists():
            shutil.copy(found, target)
            return 0
    depends = target.with_suffix(".d")
    compiled = subprocess.run([*command, "-MMD", "-MF", str(depends)]).returncode
    if compiled == 0:
        headers = re.split(r"[\s\\]+", depends.read_text().strip())[1:]
        listed.write_text("\n".join(headers))
        shutil.copy(target, Path(kept) / digest(asked, headers))
    return compiled


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
