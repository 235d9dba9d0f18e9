"""The door: who runs a call, and what a wrong call says."""

import os
import subprocess
import sys

import pytest
import torch

from speechstream.kernels import dispatch


def test_who_runs_a_call():
    x, y = torch.zeros(1), torch.zeros(1, dtype=torch.float64)
    assert not dispatch.uses_kernel(x)  # on a CPU, by default
    with dispatch.using("interpret"):
        assert dispatch.uses_kernel(x)
        assert not dispatch.uses_kernel(y)
        assert not dispatch.uses_kernel(x, x.clone().requires_grad_())
        assert dispatch.uses_kernel(x, x.clone().requires_grad_(), gradient=True)
        with dispatch.using("off"):
            assert not dispatch.uses_kernel(x)
        assert dispatch.uses_kernel(x)


def test_reference_needs_no_triton():
    code = (
        "import sys, torch; sys.modules['triton'] = None\n"
        "from speechstream.kernels import dispatch\n"
        "import speechstream.nn.conformer, speechstream.nn.transducer, speechstream.nn.whisper\n"
        "q = torch.ones(1, 1, 3, 4)\n"
        "print(dispatch.chunked_attention(q, q, q, 2, 1).sum().item())"
    )
    env = {k: v for k, v in os.environ.items() if k != "SPEECHSTREAM_KERNELS"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert run.stdout.strip() == "12.0", run.stderr


Q = torch.zeros(2, 2, 4, 8)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: dispatch.chunked_attention(Q, Q[:, :, :3], Q[:, :, :3], 2, 1), "agree in batch"),
        (lambda: dispatch.chunked_attention(Q, Q, Q, 0, 1), "at least 1"),
        (lambda: dispatch.chunked_attention(Q, Q, Q, 2, 1, torch.zeros(3)), "lengths is"),
        (lambda: dispatch.chunked_attention(Q, Q, Q, 2, 1, rope=(Q[0, 0], Q[0, 0])), "cos and sin"),
        (
            lambda: dispatch.chunked_attention(
                Q, Q, Q, 2, 1, bias=dispatch.RelativeBias(Q[0, :, :3], Q[0], Q[0])
            ),
            r"expected \(H, left",
        ),
        (
            lambda: dispatch.pooled_attention_step(
                Q, Q, Q, Q, Q, torch.zeros(2), torch.zeros(2), 3
            ),
            "4 rows",
        ),
        (
            lambda: dispatch.conv_step(
                torch.zeros(1, 2, 8), torch.zeros(1, 4, 2), torch.zeros(4, 5)
            ),
            "keeps 4 frames",
        ),
        (
            lambda: dispatch.transducer_loss(
                Q[0], Q[0], Q[0, 0], Q[0, 0, 0], torch.zeros(2, 4), torch.ones(2), torch.ones(2)
            ),
            r"\(B, U \+ 1, J\)",
        ),
        (lambda: dispatch.rvq_lookup(torch.zeros(1, 2, 3), torch.zeros(3, 4, 5)), "levels"),
        (lambda: dispatch.using("fast").__enter__(), "not one of"),
    ],
)
def test_a_wrong_call_says_why(call, words):
    with pytest.raises(ValueError, match=words):
        call()
