"""Fully sharded data parallel training over gloo, two processes: the gradients of one process on the whole batch.

And unequal last batches, which change the shape of the neurons' state from one step of training to the next.
"""

import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

import snn_lnm

pytestmark = pytest.mark.skipif(
    torch.__version__ < "2.7", reason="PyTorch 2.6 cannot shard on CPUs: its Stream has no record_event there"
)

STEPS = 4


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.neuron = nn.Linear(5, 8), snn_lnm.LNM(channels=8, charge="map", threshold=0.5)
        self.last = nn.Linear(8, 2)

    def forward(self, x):
        return self.last(self.neuron(self.first(x))[0]).square().mean()


def make():
    torch.manual_seed(0)
    return Net().double()


def batch(samples, seed=0):
    return 2 * torch.randn(STEPS, samples, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gradients(net, x):
    net(x).backward()
    return {name: value.grad for name, value in net.named_parameters()}


def one_rank(rank, folder):
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2)
    mesh = distributed.init_device_mesh("cpu", (2,))
    net = make()
    for part in (net.first, net.neuron, net):
        fully_shard(part, mesh=mesh)
    found = gradients(net, batch(6).chunk(2, 1)[rank])
    sharded = {name: value.full_tensor() for name, value in found.items()}
    whole = {name: value.shape != found[name].to_local().shape for name, value in sharded.items()}

    parallel = DistributedDataParallel(make())
    optimiser = torch.optim.SGD(parallel.parameters(), lr=0.1)
    for k, sizes in enumerate([(4, 4), (3, 1)]):  # the last batch: three samples here, one there
        optimiser.zero_grad()
        parallel(batch(sum(sizes), k).split(sizes, 1)[rank]).backward()
        optimiser.step()
    unequal = {name: value.detach() for name, value in parallel.module.named_parameters()}
    torch.save((sharded, whole, unequal), f"{folder}/{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    multiprocessing.spawn(one_rank, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def close(mine, true):
    """Sums of some hundred terms in another order, each rounding 2⁻⁵³ of the largest."""
    return (mine - true).abs().max() <= 1000 * 2**-53 * (1 + true.abs().max())


def test_sharded_gradients_are_those_of_one_process(ranks):
    alone = gradients(make(), batch(6))
    for sharded, split, _ in ranks:
        assert all(close(sharded[name], value) and value.any() for name, value in alone.items())
        assert split["neuron.coefficients"], "the coefficients were not sharded"


def test_unequal_last_batches(ranks):
    """DDP averages the two ranks' gradients; one process that does the same by hand ends at the same numbers."""
    net = make()
    for k, sizes in enumerate([(4, 4), (3, 1)]):
        halves = [torch.autograd.grad(net(part), [*net.parameters()]) for part in batch(sum(sizes), k).split(sizes, 1)]
        with torch.no_grad():
            for value, *pair in zip(net.parameters(), *halves, strict=True):
                value -= 0.1 * sum(pair) / 2
    for _, _, unequal in ranks:
        assert all(close(unequal[name], value) for name, value in net.named_parameters())
