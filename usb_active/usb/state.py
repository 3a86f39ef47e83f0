"""What an algorithm of USB and its hooks hold beyond weights, so that a resumed run is the uninterrupted one."""

from __future__ import annotations

from typing import Any

import torch

# Numbers that USB's own part of a checkpoint holds, or that belong to the process and not to the training.
NOT_STATE = frozenset({
    "it", "epoch", "start_epoch", "best_it", "best_eval_acc", "resume", "cycle",
    "gpu", "rank", "world_size", "distributed", "ngpus_per_node", "device",
})  # fmt: skip


def algorithm_state(algorithm: Any, constructed: dict[str, Any] | None = None) -> dict[str, Any]:
    """Tensors of the algorithm and of its hooks, and its own numbers as far as they differ from `constructed`.

    USB saves these for some algorithms only, and restores them with `.cuda()`.
    """
    numbers = {
        name: value for name, value in vars(algorithm).items()
        if type(value) in (int, float, bool) and name not in NOT_STATE and not name.startswith("_")
    }  # fmt: skip
    if constructed is not None:
        numbers = {name: value for name, value in numbers.items() if constructed["numbers"].get(name) != value}
    hooks = {name: _tensors(hook) for name, hook in algorithm.hooks_dict.items()}
    return {"numbers": numbers, "tensors": _tensors(algorithm), "hooks": {name: state for name, state in hooks.items() if state}}


def load_algorithm_state(algorithm: Any, state: dict[str, Any]) -> None:
    """The inverse of `algorithm_state`, onto the algorithm's device."""
    for name, value in state["numbers"].items():
        setattr(algorithm, name, value)
    for name, value in state["tensors"].items():
        setattr(algorithm, name, value.to(algorithm.device))
    for hook, values in state["hooks"].items():
        for name, value in values.items():
            setattr(algorithm.hooks_dict[hook], name, value.to(algorithm.device))


def _tensors(owner: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in vars(owner).items() if type(value) is torch.Tensor}
