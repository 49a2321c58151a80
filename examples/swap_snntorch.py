"""One line makes an snnTorch network's neurons learnable; the outputs stay the same until it trains."""

import copy

import snntorch as snn
import torch
from snntorch import utils
from torch import nn

import snn_lnm

torch.manual_seed(0)
net = nn.Sequential(
    nn.Conv2d(1, 8, 3),
    snn.Leaky(beta=0.9, init_hidden=True),
    nn.Flatten(),
    nn.Linear(8 * 6 * 6, 10),
    snn.Leaky(beta=0.8, init_hidden=True, output=True),
)
native = copy.deepcopy(net)

print(snn_lnm.swap(net, degree=3))  # the one line

images, labels = torch.rand(16, 1, 8, 8), torch.randint(10, (16,))
for _ in range(25):
    for ours, theirs in zip(net(images), native(images), strict=True):
        assert torch.equal(ours, theirs)
print("25 steps: spikes and membranes are equal to the bit.")

optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)  # after the swap, so that it has the coefficients
for epoch in range(20):
    utils.reset(net)  # snnTorch's own helpers find the new neurons
    membranes = torch.stack([net(images)[1] for _ in range(25)])
    loss = nn.functional.cross_entropy(membranes.flatten(0, 1), labels.repeat(25))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if epoch % 5 == 4:
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}")
print(f"learned coefficients: {net.get_parameter('4.coefficients').tolist()}")
