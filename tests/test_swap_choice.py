"""What `swap` is asked for: single layers, an optimizer, a model that is not wrapped."""

import norse.torch as norse
import pytest
import snntorch as snn
import torch
from torch import distributed, nn

import snn_lnm
from snn_lnm import Memory


def model():
    net = nn.Sequential()
    net.features = nn.Sequential(nn.Linear(4, 4), snn.Leaky(0.9), nn.Linear(4, 4), norse.LIFCell())
    net.head = snn.Synaptic(0.5, 0.9)
    return net


def outcomes(report):
    return {row.path: row.outcome for row in report.rows}


@pytest.mark.parametrize(
    "words, swapped",
    [
        ({"include": "features"}, ["features.1", "features.3"]),
        ({"include": "features.*"}, ["features.1", "features.3"]),
        ({"include": "features.1"}, ["features.1"]),
        ({"include": snn.Leaky}, ["features.1"]),
        ({"include": [snn.Synaptic, "*.3"]}, ["features.3", "head"]),
        ({"exclude": "head"}, ["features.1", "features.3"]),
        ({"exclude": (snn.SpikingNeuron,)}, ["features.3"]),
        ({"include": "features", "exclude": norse.LIFCell}, ["features.1"]),
    ],
)
def test_paths_and_classes_choose(words, swapped):
    net = model()
    report = snn_lnm.swap(net, strict=True, **words)
    assert [row.path for row in report.swapped] == swapped and {*outcomes(report).values()} == {"swapped", "kept"}
    assert {row.reason for row in report.kept} <= {"excluded", "not included"}


def test_an_excluded_neuron_cannot_fail_strict_and_a_shared_one_is_one():
    net = nn.Sequential(snn.Alpha(0.9, 0.8), snn.Leaky(0.9))
    net.again = net[1]
    assert [row.outcome for row in snn_lnm.swap(net, strict=True, exclude=("0", "again")).rows] == ["kept"] * 3
    assert net[1] is net.again and type(net[1]) is snn.Leaky


def test_layers_have_options_of_their_own_and_the_later_wins():
    net = model()
    options = {"features": {"degree": 5}, snn.Synaptic: {"learn_coefficients": False}}
    options |= {norse.LIFCell: {"domain": (-1.0, 2.0)}, "features.1": {"degree": 2, "memory": Memory(recompute=2)}}
    snn_lnm.swap(net, 4, layers=options)
    assert [net.features[1].degree, net.features[3].degree, net.head.degree] == [2, 5, 4]
    assert net.features[3].domain == (-1.0, 2.0) and "coefficients" not in dict(net.head.named_parameters())
    assert net.features[1].memory == Memory(recompute=2) and net.head.memory == Memory()


CALLS = [
    ("a path that meets nothing", ValueError, lambda: snn_lnm.swap(model(), include="fc*")),
    ("a class that meets nothing", ValueError, lambda: snn_lnm.swap(model(), exclude=[snn.Alpha])),
    ("layers that meet nothing", ValueError, lambda: snn_lnm.swap(model(), layers={"head2": {}})),
    ("no path", TypeError, lambda: snn_lnm.swap(model(), include=3)),
    ("an instance", TypeError, lambda: snn_lnm.swap(model(), exclude=[nn.Linear(2, 2)])),
    ("layers as a list", TypeError, lambda: snn_lnm.swap(model(), layers=["head"])),
    ("no options", TypeError, lambda: snn_lnm.swap(model(), layers={"head": 2})),
    ("an unknown option", TypeError, lambda: snn_lnm.swap(model(), layers={"head": {"tau": 2.0}})),
    ("a degree", ValueError, lambda: snn_lnm.swap(model(), layers={"head": {"degree": 0}})),
    ("a quadratic degree", ValueError, lambda: snn_lnm.swap(model(), neuron="qif", layers={"head": {"degree": 3}})),
    ("a backend", ValueError, lambda: snn_lnm.swap(model(), layers={"head": {"backend": "cuda"}})),
    ("no bool", TypeError, lambda: snn_lnm.swap(model(), layers={"head": {"learn_coefficients": "no"}})),
    ("no optimizer", TypeError, lambda: snn_lnm.swap(model(), optimizer=3)),
    ("a stranger", ValueError, lambda: snn_lnm.swap(model(), optimizer=optimizer_of(nn.Linear(2, 2)))),
    ("a scheduler", ValueError, lambda: with_scheduler()),
    ("one group", ValueError, lambda: swap_with(model(), torch.optim.LBFGS)),
    ("a replica", ValueError, lambda: snn_lnm.swap(nn.DataParallel(model()))),
]


def optimizer_of(net):
    return torch.optim.SGD(net.parameters(), lr=0.1)


def swap_with(net, kind):
    return snn_lnm.swap(net, optimizer=kind(net.parameters()))


def with_scheduler():
    net = model()
    optimizer = optimizer_of(net)
    torch.optim.lr_scheduler.StepLR(optimizer, 2)
    snn_lnm.swap(net, optimizer=optimizer)


@pytest.mark.parametrize("name, kind, call", CALLS, ids=[name for name, *_ in CALLS])
def test_a_wrong_call_says_so_before_anything_changes(name, kind, call, monkeypatch):
    made, real = [], globals()["model"]
    monkeypatch.setitem(globals(), "model", lambda: made.append(real()) or made[-1])
    with pytest.raises(kind):
        call()
    assert [type(m) for net in made for m in net.modules()] == [type(m) for _ in made for m in real().modules()]


def test_the_errors_name_the_neurons_there_are():
    with pytest.raises(ValueError, match=r"'fc\*' meets no neuron.*features\.1, features\.3, head"):
        snn_lnm.swap(model(), include="fc*")
    with pytest.raises(ValueError, match="Alpha meets no neuron"):
        snn_lnm.swap(model(), exclude=snn.Alpha)


# ---- an optimizer that is there already


def learned():
    return nn.Sequential(nn.Linear(4, 3), snn.Leaky(0.9, init_hidden=True, learn_beta=True, learn_threshold=True))


def step(net, optimizer, x):
    out = net(x)
    optimizer.zero_grad()
    (out[1] if isinstance(out, tuple) else out).sum().backward()
    optimizer.step()


@pytest.mark.parametrize("named", [False, True])
def test_the_new_parameters_train_and_the_old_ones_are_gone(named):
    net = learned()
    beta, threshold = net[1].beta, net[1].threshold
    outside = net[0].bias  # on purpose: the user does not want it trained
    chosen = [(name, p) for name, p in net.named_parameters() if p is not outside]
    optimizer = torch.optim.AdamW(chosen if named else [p for _, p in chosen], lr=0.1, weight_decay=0.5)
    step(net, optimizer, torch.ones(2, 4) * 3)
    assert beta in optimizer.state
    report = snn_lnm.swap(net, optimizer=optimizer)
    first, second = optimizer.param_groups
    assert [id(p) for p in first["params"]] == [id(net[0].weight), id(threshold)]
    assert [id(p) for p in second["params"]] == [id(net[1].coefficients)]
    assert (second["weight_decay"], second["lr"], first["weight_decay"]) == (0.0, 0.1, 0.5)
    assert beta not in optimizer.state and threshold in optimizer.state
    assert str(report).endswith("The AdamW has 1 new parameters, in a group of their own; 1 replaced ones left it.")
    if named:
        assert (first["param_names"], second["param_names"]) == (["0.weight", "1.threshold"], ["1.coefficients"])
    net[1].reset_mem()
    before = net[1].coefficients.detach().clone()
    net(torch.ones(2, 4))
    step(net, optimizer, torch.ones(2, 4) * 3)
    assert not torch.equal(net[1].coefficients, before)
    fresh = torch.optim.AdamW(learned().parameters())
    assert fresh.param_groups[0].keys() - {"param_names"} == second.keys() - {"param_names"}


def test_the_way_back_takes_the_optimizer_along():
    net = learned()
    snn_lnm.swap(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    step(net, optimizer, torch.ones(2, 4))
    with torch.no_grad():
        net[1].coefficients.copy_(torch.tensor([0.0, 0.8, 0.0, 0.0]))
    theta = net[1].coefficients
    net[1].reset_mem()
    snn_lnm.swap_back(net, strict=True, optimizer=optimizer)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert any(p is net[1].beta for p in held) and not any(p is theta for p in [*held, *optimizer.state])


def test_a_group_that_loses_all_goes_on():
    net = learned()
    optimizer = torch.optim.Adam([{"params": net[0].parameters()}, {"params": [net[1].beta], "lr": 0.5}])
    snn_lnm.swap(net, optimizer=optimizer)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 0, 1]
    step(net, optimizer, torch.ones(2, 4))


def test_a_plateau_scheduler_knows_new_groups():
    net = learned()
    optimizer = optimizer_of(net)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    snn_lnm.swap(net, optimizer=optimizer)
    for _ in range(3):
        scheduler.step(1.0)
    assert optimizer.param_groups[1]["lr"] == pytest.approx(optimizer.param_groups[0]["lr"])


def test_without_an_optimizer_the_report_says_what_to_do():
    assert "pass optimizer=..." in str(snn_lnm.swap(learned())).splitlines()[-1]
    assert not snn_lnm.swap(nn.Sequential(snn.Leaky(0.9)), learn_coefficients=False).parameters


# ---- wrapped models


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 3), snn.Leaky(0.9, init_hidden=True))

    def forward(self, x):
        return self.body(x)


def compiled():
    net = Net()
    net.body.compile()
    return net


@pytest.mark.parametrize(
    "make, text",
    [
        (lambda: nn.DataParallel(Net()), r"the model is wrapped by DataParallel.*swap\(model\.module\)"),
        (lambda: torch.compile(Net()), r"the model is wrapped by OptimizedModule.*swap\(model\._orig_mod\)"),
        (lambda: nn.Sequential(nn.DataParallel(Net())), r"^0 is wrapped by DataParallel.*swap\(model\.0\.module\)"),
        (compiled, r"^body is wrapped by torch\.compile.*swap the model first, then wrap it\."),
    ],
)
def test_wrapped_models_are_refused(make, text):
    net = make()
    kept = [*net.modules()]
    with pytest.raises(ValueError, match=text):
        snn_lnm.swap(net)
    assert [*map(id, net.modules())] == [*map(id, kept)]


def test_the_way_back_is_refused_too():
    net = Net()
    snn_lnm.swap(net)
    with pytest.raises(ValueError, match="the model is wrapped by DataParallel"):
        snn_lnm.swap_back(nn.DataParallel(net))


def test_what_is_wrapped_beside_the_neurons_and_averages_are_fine():
    net = nn.Sequential(nn.DataParallel(nn.Linear(4, 3)), snn.Leaky(0.9))
    assert snn_lnm.swap(net).swapped
    assert snn_lnm.swap(torch.optim.swa_utils.AveragedModel(Net())).swapped


def test_sharded_and_data_parallel_models_are_refused_from_inside_and_outside(tmp_path):
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/init", rank=0, world_size=1)
    try:
        net = Net()
        assert snn_lnm.swap(Net()).swapped
        parallel = nn.parallel.DistributedDataParallel(net)
        with pytest.raises(ValueError, match=r"DistributedDataParallel.*swap\(model\.module\)"):
            snn_lnm.swap(parallel)
        with pytest.raises(ValueError, match="a DistributedDataParallel holds this model"):
            snn_lnm.swap(net)
        del parallel
        assert snn_lnm.swap(net).swapped
        from torch.distributed.fsdp import fully_shard

        if torch.__version__ >= "2.7":  # which can shard on CPUs
            sharded = Net()
            fully_shard(sharded.body, mesh=distributed.init_device_mesh("cpu", (1,)))
            with pytest.raises(ValueError, match=r"^body is wrapped by FSDPModule"):
                snn_lnm.swap(sharded)
    finally:
        distributed.destroy_process_group()
