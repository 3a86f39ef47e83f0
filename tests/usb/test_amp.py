"""`amp` on a CPU, which computes in bfloat16: what plugins are shown is in single precision all the same, and probabilities sum to 1."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from run_helpers import settings, train

from usb_active.usb.seams import StepCapture, _as_probs


@pytest.mark.parametrize(
    ("algorithm", "rule"), [("fixmatch", "assl"), ("freematch", "assl"), ("mixmatch", {"name": "assl", "use": "uncertainty"})]
)
def test_what_is_seen_of_a_step_is_single_precision(tmp_path, monkeypatch, algorithm, rule):
    """By the hook that is given probabilities, by the one that is given logits, and without hooks."""
    seen, plain = [], StepCapture.batch
    monkeypatch.setattr(StepCapture, "batch", lambda self, *args, **named: seen.append(plain(self, *args, **named)) or seen[-1])
    train(settings(tmp_path, algorithm=algorithm, amp=True, active={"acquisition": rule}))
    assert len(seen) == 24
    for batch in seen:
        assert batch.probs_weak.dtype == torch.float32
        np.testing.assert_allclose(batch.probs_weak.sum(dim=1).numpy(), 1, atol=1e-6)
        assert all(tensor is None or tensor.dtype == torch.float32 for tensor in (batch.logits_lb, batch.logits_strong))


def test_probabilities_of_single_precision_are_left_alone():
    probs = torch.tensor([[0.25, 0.75001]])
    assert _as_probs(probs) is probs
    narrow = torch.softmax(torch.randn(50, 10, generator=torch.Generator().manual_seed(0)).bfloat16(), dim=-1)
    assert (narrow.float().sum(dim=1) - 1).abs().max() > 1e-3
    np.testing.assert_allclose(_as_probs(narrow).sum(dim=1).numpy(), 1, atol=1e-6)
    assert (_as_probs(narrow).argmax(dim=1) == narrow.argmax(dim=1)).all()
