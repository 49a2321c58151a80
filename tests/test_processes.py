"""Several processes: data-parallel training, and starts that build the engine together, after a kill, or cannot."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import snntorch as snn
import torch
from snntorch import utils
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

import snn_lnm
from snn_lnm.engines import cpp

STEPS, BATCH = 4, 6

# ---- data-parallel training


def make(swapped):
    """A net and a batch; in doubles where possible: the native neuron's spikes are always float32."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(5, 8), snn.Leaky(0.9, init_hidden=True),
        nn.Linear(8, 3), snn.Leaky(0.8, init_hidden=True, output=True),
    )  # fmt: skip
    x = 2 * torch.randn(STEPS, BATCH, 5)
    if not swapped:
        return net, x
    snn_lnm.swap(net)
    return net.double(), x.double()


class Loss(nn.Module):
    """Averaged over the batch, with the loop over time inside.

    (DDP around one step copies the buffers at every step; until that left their version alone, no
    backward pass through several steps was possible, not of snnTorch's own neurons either.)
    """

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        utils.reset(self.net)
        return sum(self.net(x_t)[1].square().mean() for x_t in x)


def gradients(loss, x):
    loss(x).backward()
    return [value.grad for value in loss.parameters()]


def membranes_agree(net, parallel, x):
    """Whether the hidden membranes within DDP are those of the same net alone on the same data."""
    found = []
    for model in (net, parallel):
        utils.reset(net)
        for x_t in x:
            model(x_t)  # with gradients: without, DDP does not synchronise
        found.append(net[1].mem.detach().clone())
    return torch.equal(*found)


def one_rank(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2)
    found = {}
    for swapped in (False, True):
        net, x = make(swapped)
        x = x.chunk(2, dim=1)[rank]
        found[swapped, "membranes agree"] = membranes_agree(net, DistributedDataParallel(net), x)
        if swapped:
            found["gradients"] = gradients(DistributedDataParallel(Loss(net)), x)
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What two processes found, each on its half of the batch."""
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(one_rank, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def test_two_halves_are_the_whole_batch(ranks):
    """DDP averages the gradients of equal halves: the same sums in another order, some hundred terms of
    which each rounding is 2⁻⁵³ of the largest."""
    net, x = make(swapped=True)
    whole = gradients(Loss(net), x)
    assert len(whole) == 6 and all(value.any() for value in whole)
    for rank in ranks:
        for mine, true in zip(rank["gradients"], whole, strict=True):
            assert (mine - true).abs().max() <= 1000 * 2**-53 * true.abs().max()


def test_each_rank_keeps_its_membranes(ranks):
    """snnTorch's are buffers, and DDP copies rank 0's buffers over the others' at every step."""
    assert [rank[False, "membranes agree"] for rank in ranks] == [True, False]
    assert [rank[True, "membranes agree"] for rank in ranks] == [True, True]


# ---- starts of the C++ engine

START = """
import hashlib, torch, snn_lnm
for backend in {backends!r}:
    torch.manual_seed(0)
    neuron, x = snn_lnm.LNM(degree=3, backend=backend), 2 * torch.randn(9, 4, 33)
    spikes, state = neuron(x)
    print(hashlib.sha256(spikes.detach().numpy().tobytes() + state.v.detach().numpy().tobytes()).hexdigest())
"""


def start(folder, *backends, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", START.format(backends=backends or ["cpp"])],
        env={**os.environ, "TORCH_EXTENSIONS_DIR": str(folder), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def copying_compiler(folder):
    """A compiler that gives, for the operator, the library that this process has: it takes a second for each of its
    sources, and leaves a mark in ``folder``. A neuron's kernels it compiles.

    All else of a build is as ever: the lock, a folder of its own, and the move into place.
    """
    cpp.load()
    (library,) = (path for path in torch.ops.loaded_libraries if "snn_lnm_operator" in path)
    path = folder / "c++"
    path.write_text(
        f"""#!/bin/sh
for last; do :; done
case "$last" in *snn_lnm_operator*) ;; *) exec c++ "$@";; esac
case " $* " in *" -c "*) echo x >> {folder}/compilations; sleep 1;; esac
cp {library} "$last"
"""
    )
    path.chmod(0o755)
    return {"CXX": str(path), "OMP_NUM_THREADS": "1"}


def end(*processes):
    """What each printed on stdout and stderr; a start that hangs fails here."""
    try:
        return [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def listing(folder):
    """Without what is inside the build folders: the killed start's compiler may be at work in its own."""
    return {path: path.is_dir() or path.stat().st_mtime_ns for path in folder.glob("*/*")}


@pytest.fixture(scope="module")
def bits(tmp_path_factory):
    """What the reference prints."""
    ((out, _),) = end(start(tmp_path_factory.mktemp("reference"), "reference"))
    assert len(out.strip()) == 64
    return out


@pytest.fixture(scope="module")
def compiler(tmp_path_factory):
    return copying_compiler(tmp_path_factory.mktemp("compiler"))


@pytest.fixture(scope="module")
def killed(tmp_path_factory, compiler):
    """A folder in which a build was killed, with the compiler at work."""
    folder, mark = tmp_path_factory.mktemp("extensions"), Path(compiler["CXX"]).with_name("compilations")
    process = start(folder, **compiler)
    try:
        deadline = time.monotonic() + 60
        while not mark.exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert list(folder.rglob("build-*")) and not list(folder.glob("*/*.so"))
    return folder


@pytest.fixture(scope="module")
def built(killed, bits, compiler):
    """The folder after three processes that started together."""
    assert [out for out, _ in end(*(start(killed, **compiler) for _ in range(3)))] == [bits] * 3
    return killed


def test_three_start_together_after_a_kill(built):
    operator, kernel = sorted(built.glob("*/*.so"), reverse=True)
    assert "operator" in operator.name and "kernel" in kernel.name
    assert all(library.stem == library.parent.name for library in (operator, kernel))


def test_once_built_nothing_is_written_and_no_compiler_needed(built, bits):
    before = listing(built)
    ((out, _),) = end(start(built, CXX="no-such-compiler"))
    assert out == bits
    assert listing(built) == before


def broken_compiler(folder):
    path = folder / "c++"
    path.write_text("#!/bin/sh\necho no room for this 1>&2; exit 1\n")
    path.chmod(0o755)
    return {"CXX": str(path)}


@pytest.mark.parametrize(
    "folder, environment, message",
    [
        ("a file/extensions", lambda folder: {}, "set that to a folder that can be written"),
        ("extensions", lambda folder: {"CXX": "no-such-compiler"}, "no C++ compiler found"),
        ("extensions", broken_compiler, "no room for this"),
    ],
    ids=["folder that cannot be written", "no compiler", "compiler that fails"],
)
def test_what_cannot_be_built_is_said(tmp_path, bits, folder, environment, message):
    (tmp_path / "a file").touch()
    ((out, said),) = end(start(tmp_path / folder, "auto", "cpp", **environment(tmp_path)))
    warning, _, error = said.partition("Traceback")
    assert out == bits and message in warning and warning.count("RuntimeWarning") == 1
    assert message in error and "RuntimeError: backend='cpp' cannot run here" in error


@pytest.mark.parametrize("breaks, message", [(None, "no C++ compiler found"), (broken_compiler, "no room for this")])
def test_a_kernel_that_cannot_be_built_is_said(tmp_path, built, bits, breaks, message):
    """The operator is there, the neuron's kernel is not: auto says why and runs the reference, cpp fails."""
    for library in built.glob("snn_lnm_operator*/*.so"):
        (tmp_path / library.parent.name).mkdir()
        shutil.copy(library, tmp_path / library.parent.name)
    environment = {"CXX": "no-such-compiler"} if breaks is None else breaks(tmp_path)
    ((out, said),) = end(start(tmp_path, "auto", "cpp", **environment))
    warning, _, error = said.partition("Traceback")
    assert out == bits and message in warning and warning.count("RuntimeWarning") == 1
    assert "RuntimeError: backend='cpp' cannot run here" in error
