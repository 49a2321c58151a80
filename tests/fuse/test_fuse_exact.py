"""The fused network is the loop, to the bit: outputs, states and gradients, where arithmetic is exact."""

from functools import partial

import pytest
import torch
from fuse_nets import FRAMEWORKS, cases, fresh, fused, gradients, loop, same, state_tensors
from hypothesis import event, given, settings
from hypothesis import strategies as st

import snn_lnm

FEW = settings(max_examples=max(1, settings.default.max_examples // 4))  # whole networks
AT_ONCE = st.sampled_from(["auto", "all", 1, 2, 3])


@pytest.mark.parametrize("framework", FRAMEWORKS)
@FEW
@given(data=st.data())
def test_swapped_networks(framework, data):
    # Through an attached reset each step doubles the bits of a gradient: two steps are exact in float64.
    case = data.draw(cases(framework, swapped=True, longest=2 if framework == "norse" else 5))
    native, ours, at_once = fresh(case), fresh(case), data.draw(AT_ONCE)
    results = []
    for net, run in ((native, loop), (ours, partial(fused, at_once=at_once))):
        x = case.x.clone().requires_grad_()
        outputs, state = run(net, x)
        results.append((outputs, state_tensors(state), gradients(outputs, case, [x, *net.parameters()])))
    (loop_out, loop_state, loop_grad), (fused_out, fused_state, fused_grad) = results
    event(f"spikes: {bool(loop_out[0].any())}")
    assert all(map(torch.equal, loop_out, fused_out))
    assert all(map(torch.equal, loop_state, fused_state)) and len(loop_state) == len(fused_state)
    assert all(map(same, loop_grad, fused_grad))


@pytest.mark.parametrize("framework", FRAMEWORKS)
@FEW
@given(data=st.data())
def test_native_networks_run_their_neurons_step_by_step(framework, data):
    case = data.draw(cases(framework, swapped=False))
    native, ours = fresh(case), fresh(case)
    expected, expected_state = loop(native, case.x)
    got, state = fused(ours, case.x, at_once=data.draw(AT_ONCE))
    assert all(map(torch.equal, expected, got))
    assert all(map(torch.equal, state_tensors(expected_state), state_tensors(state)))
    assert "native: snn_lnm.swap first" in str(snn_lnm.fuse_time(ours).report)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@FEW
@given(data=st.data())
def test_two_chunks_are_one_run(framework, data):
    """Truncated backpropagation gives the sequence in parts; the state goes from one to the next."""
    case = data.draw(cases(framework, swapped=True))
    cut = data.draw(st.integers(1, max(len(case.x) - 1, 1)))
    whole, whole_state = fused(fresh(case), case.x)
    model, state, parts = snn_lnm.fuse_time(fresh(case)), None, []
    for chunk in (case.x[:cut], case.x[cut:]):
        if len(chunk):
            out, state = fused(model, chunk, state)
            parts.append(out)
    joined = [torch.cat(values) for values in zip(*parts, strict=True)]
    assert all(map(torch.equal, whole, joined))
    assert all(map(torch.equal, state_tensors(whole_state), state_tensors(state)))
