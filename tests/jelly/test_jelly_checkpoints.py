"""LNMNode and checkpoints: of another degree, of the native node, live states that are copied with it."""

import checkpoints
from hypothesis import given
from snn_lnm_spikingjelly import LNMNode
from spikingjelly.activation_based import functional


def run(node, x):
    functional.reset_net(node)
    return [node(x), node.v, node.v_seq]


@given(case=checkpoints.cases())
def test_another_degree(case):
    def build(theta, domain):
        return LNMNode(coefficients=theta, domain=domain, step_mode="m", store_v_seq=True)

    checkpoints.check(build, run, case)
