"""A per-step snnTorch network runs over whole sequences: same spikes, no loop over time."""

import snntorch as snn
import torch
from snntorch import utils
from torch import nn

import snn_lnm

torch.manual_seed(0)
net = nn.Sequential(
    nn.Conv2d(1, 8, 3),
    nn.MaxPool2d(2),
    snn.Leaky(beta=0.9, init_hidden=True),
    nn.Flatten(),
    nn.Linear(8 * 3 * 3, 10),
    snn.Leaky(beta=0.8, init_hidden=True, output=True),
)
snn_lnm.swap(net)
fused = snn_lnm.fuse_time(net, exact=True)  # exact: equal to the bit for every batch size; leave it out for speed
print(fused)

frames, labels = 2 * torch.rand(25, 16, 1, 8, 8), torch.randint(10, (16,))  # [time, batch, channels, height, width]
utils.reset(net)
spk_rec, mem_rec = (torch.stack(values) for values in zip(*[net(frame) for frame in frames], strict=True))
utils.reset(fused)
spikes, membranes = fused(frames)
assert torch.equal(spikes, spk_rec) and torch.equal(membranes, mem_rec)

fused = snn_lnm.fuse_time(net)
optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)  # the fused model has the very parameters of net
for epoch in range(20):
    utils.reset(fused)
    _, membranes = fused(frames)
    loss = nn.functional.cross_entropy(membranes.flatten(0, 1), labels.repeat(25))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if epoch % 5 == 4:
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}")
