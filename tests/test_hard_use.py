"""How PyTorch is really used: autocast, compiled and exported graphs, torch.func, copies, threads, forks."""

import copy
import io
import pickle
import threading

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, grad, jacrev, vmap
from torch.utils.data import DataLoader, Dataset

import snn_lnm
from snn_lnm import LNM, engines, functional
from snn_lnm.engines import calls

# PyTorch's own: 2.6 describes its configuration to the log that pytest captures, 2.13's inductor uses TorchScript.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Skipping serialization of:UserWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
]


def net(backend="cpp", **words):
    torch.manual_seed(1)
    return Net(LNM(degree=3, channels=6, charge="map", threshold=0.5, backend=backend, **words))


class Net(nn.Module):
    def __init__(self, neuron):
        super().__init__()
        self.linear, self.neuron, self.out = nn.Linear(4, 6), neuron, nn.Linear(6, 3)

    def forward(self, x, state=None):
        spikes, state = self.neuron(self.linear(x), state)
        return self.out(spikes), state


def sequence(steps=5, batch=3):
    return torch.randn(steps, batch, 4, generator=torch.Generator().manual_seed(steps + batch))


def gradients(model, x):
    loss = model(x)[0].square().mean()
    return dict(zip(dict(model.named_parameters()), torch.autograd.grad(loss, [*model.parameters()]), strict=True))


# ---- autocast


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_reaches_the_fused_op_with_float32_states(dtype, monkeypatch):
    seen = []
    run = calls.run
    monkeypatch.setattr(calls, "run", lambda *given: seen.append((given[5].dtype, given[6][0].dtype)) or run(*given))
    model, x = net(), sequence()
    with torch.autocast("cpu", dtype=dtype):
        out, state = model(x)
    assert seen == [(dtype, torch.float32)] and out.dtype == dtype and state.v.dtype == torch.float32
    current = model.linear(x).to(dtype)  # autocast rounds the product once, too
    spikes, law = model.neuron(current)
    assert spikes.dtype == dtype and law.v.dtype == torch.float32
    out.float().square().mean().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())
    assert model.neuron.coefficients.grad.any()


# ---- graphs


def test_one_graph_for_every_batch_and_every_length():
    graphs = []

    def count(module, inputs):
        graphs.append(module)
        return module.forward

    model = net("cpp")
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=count)
    for steps, batch in ((steps, batch) for steps in (5, 7, 9) for batch in (3, 4, 6)):
        x = sequence(steps, batch)
        assert torch.equal(compiled(x)[0], model(x)[0])
    assert len(graphs) == 1


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # Dynamo of torch 2.6 does it
@pytest.mark.parametrize("engine", ["cpp", pytest.param("reference", marks=pytest.mark.slow)])
def test_a_compiled_model_has_the_gradients_of_the_eager_one(engine):
    model = net(engine)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for x in (sequence(), sequence(9, 7)):
        for name, value in gradients(compiled, x).items():
            assert torch.equal(value, gradients(model, x)[name.removeprefix("_orig_mod.")])


def test_exported_with_any_batch_and_any_length():
    model, x = net(), sequence()
    steps, batch = torch.export.Dim("steps", min=2, max=64), torch.export.Dim("batch", min=2, max=64)
    shapes = {"x": {0: steps, 1: batch}}
    program = torch.export.export(model, (x,), dynamic_shapes=shapes)
    for other in (x, sequence(9, 7)):
        assert torch.equal(program.module()(other)[0], model(other)[0])
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    assert torch.equal(torch.export.load(file).module()(x)[0], model(x)[0])


# ---- torch.func


def spikes_of(model):
    return lambda parameters, x: functional_call(model, parameters, (x,))[0].square().mean()


def test_gradients_per_sample():
    """`vmap` over `grad`: each sample's gradient is that of the sample alone."""
    model, x = net("auto"), sequence(batch=4)
    parameters = dict(model.named_parameters())
    found = vmap(grad(spikes_of(model)), (None, 1))(parameters, x.unsqueeze(2))
    for k in range(4):
        for name, value in gradients(net("reference"), x[:, k : k + 1]).items():
            # The batched matrix products of the linear layers add 30 terms in another order.
            assert (found[name][k] - value).abs().max() <= 30 * 2**-23 * (1 + value.abs().max())


def test_an_ensemble_of_neurons():
    """`vmap` over the coefficients, whose values cannot be looked at then; bits as one by one."""
    neuron, x = LNM(degree=3, charge="map"), sequence()
    thetas = 0.3 * torch.randn(7, 4)
    found = vmap(lambda theta: functional_call(neuron, {"coefficients": theta}, (x,))[1].v)(thetas)
    for theta, v in zip(thetas, found, strict=True):
        assert torch.equal(functional_call(neuron, {"coefficients": theta}, (x,))[1].v, v)
    assert vmap(grad(lambda theta: functional_call(neuron, {"coefficients": theta}, (x,))[1].v.sum()))(thetas).any()


def test_jacobians():
    neuron, x = LNM(degree=2, charge="map"), sequence(2, 1)
    found = jacrev(lambda x: neuron(x)[1].v)(x)
    leaf = x.clone().requires_grad_()
    v = neuron(leaf)[1].v
    for k in range(4):
        (row,) = torch.autograd.grad(v[0, k], leaf, retain_graph=True)
        assert torch.equal(found[0, k], row)


def test_a_compiled_engine_says_that_it_cannot_be_transformed():
    x = sequence()
    for transform in (grad(lambda x: net("cpp")(x)[0].sum()), lambda x: vmap(net("cpp"))(x[None])):
        with pytest.raises(RuntimeError, match=r"backend='cpp' cannot run here: torch.func's transforms"):
            transform(x)
    assert engines.explain(x).startswith("auto -> cpp")
    explained = []
    grad(lambda x: explained.append(engines.explain(x)) or x.sum())(x)
    assert explained[0].startswith("auto -> reference")


# ---- copies, checkpoints, threads, processes


def test_resumed_in_the_middle_of_a_sequence(tmp_path):
    """Model, optimiser and live state through a file that holds tensors only: the rest of the run is bit-equal."""

    def start():
        model = net(learn_threshold=True, alpha=0.5)
        return model, torch.optim.Adam(model.parameters(), lr=0.1)

    def go_on(model, optimiser, state, chunks):
        for x in chunks:
            out, state = model(x, state)
            optimiser.zero_grad()
            out.square().mean().backward()
            optimiser.step()
            state = type(state)(*(value.detach() for value in state))
        return state

    chunks = sequence(12).split(3)
    model, optimiser = start()
    whole = go_on(model, optimiser, None, chunks)
    half, its = start()
    state = go_on(half, its, None, chunks[:2])
    saved = {"model": half.state_dict(), "optimiser": its.state_dict(), "state": tuple(state)}
    torch.save(saved, tmp_path / "checkpoint.pt")
    loaded = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    other, others = start()
    other.load_state_dict(loaded["model"]), others.load_state_dict(loaded["optimiser"])
    end = go_on(other, others, snn_lnm.State(*loaded["state"]), chunks[2:])
    assert all(torch.equal(a, b) for a, b in zip(end, whole, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_train_apart(copied):
    model, x = net(), sequence()
    before = gradients(model, x)
    other = copied(model)
    torch.optim.SGD(other.parameters(), lr=1.0).zero_grad()
    other(x)[0].sum().backward()
    with torch.no_grad():
        for value in other.parameters():
            value -= value.grad
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in gradients(model, x).items())
    assert not torch.equal(other(x)[0], model(x)[0])


def train(model, seed, steps=12):
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x = torch.randn(6, 8, 4, generator=generator)
        optimiser.zero_grad()
        model(x)[0].square().mean().backward()
        optimiser.step()
    return [value.detach().clone() for value in model.parameters()]


def test_two_models_train_in_two_threads():
    """Each ends where it ends alone. The threads start together, twenty times, on one pool of memory."""
    alone = [train(net(), seed) for seed in (1, 2)]
    for _ in range(20):
        found, gate = {}, threading.Barrier(2)
        models = [net(), net()]

        def work(k, found=found, gate=gate, models=models):
            gate.wait()
            found[k] = train(models[k], k + 1)

        threads = [threading.Thread(target=work, args=(k,)) for k in range(2)]
        [thread.start() for thread in threads], [thread.join() for thread in threads]
        for k in range(2):
            assert all(torch.equal(a, b) for a, b in zip(found[k], alone[k], strict=True))


class Encoded(Dataset):
    """Spikes made by a neuron, in the worker."""

    def __init__(self):
        self.neuron = LNM(backend="cpp")

    def __len__(self):
        return 6

    def __getitem__(self, index):
        with torch.no_grad():
            return self.neuron(torch.full((64, 4, 4), 0.5 + index))[0]


# fork after threads were started is the use itself; Python 3.12 and later warn of it.
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_loaders_work_after_first_use(method):
    """The engine, its threads and its pool have been at work in this process before the workers start."""
    data = Encoded()
    LNM(backend="cpp")(torch.randn(64, 64, 512))  # large enough for several threads and for the pool
    expected = torch.stack([data[k] for k in range(6)])
    loader = DataLoader(data, batch_size=2, num_workers=2, multiprocessing_context=method)
    assert torch.equal(torch.cat([*loader]), expected)


def inference(call):
    with torch.inference_mode():
        call()


def no_numbers(call):
    with FakeTensorMode(allow_non_fake_inputs=True):
        call()


def transform(call):
    grad(lambda x: call(x).sum())(torch.randn(3, 1, 7))


@pytest.mark.parametrize("first", [inference, no_numbers, transform])
def test_a_start_made_elsewhere_serves_training(first):
    """A start at zero is made once per shape: never such as belongs to a mode or a transform."""
    functional._kept_zeros.cache_clear()
    neuron = LNM(2, charge="map")

    def call(x=None):
        return neuron(torch.randn(3, 1, 7) if x is None else x)[0]

    first(call)
    start = functional.zeros(torch.Size([1, 7]), torch.randn(()))
    assert type(start) is torch.Tensor and not torch._C._functorch.is_functorch_wrapped_tensor(start)
    call().sum().backward()
    assert type(neuron.coefficients.grad) is torch.Tensor


def test_no_step_hands_out_a_start_of_its_own():
    neuron, x = LNM(2), torch.randn(0, 1, 1)
    neuron(x)[1].v.fill_(5.0)
    assert neuron(x)[1].v == 0


NOBODY = [(), (0,), (0, 3), (2, 0, 3), (1, 1), (0, 1)]


@pytest.mark.parametrize("backend", ["reference", "cpp"])
@pytest.mark.parametrize("theta", NOBODY, ids=str)
@pytest.mark.parametrize("threshold", NOBODY, ids=str)
def test_a_layer_of_no_neurons(theta, threshold, backend):
    """Steps `[2, 0, 3]`, with parameters in whatever layout fits them."""
    x, coefficients = torch.zeros(4, 2, 0, 3, requires_grad=True), torch.zeros(*theta, 3, requires_grad=True)
    limit = torch.ones(threshold, requires_grad=True)
    out = functional.lnm(x, coefficients, threshold=limit, backend=backend)
    assert out.spikes.shape == out.membrane.shape == x.shape and out.state.v.shape == (2, 0, 3)
    found = torch.autograd.grad(out.spikes.sum() + out.membrane.sum(), [x, coefficients, limit])
    assert [value.shape for value in found] == [x.shape, coefficients.shape, limit.shape]
    assert not any(value.any() for value in found)
