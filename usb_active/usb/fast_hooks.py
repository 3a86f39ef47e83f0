"""Exact, faster replacements of USB's slow hooks: training stays bit-identical.

FlexMatch counts its whole table at every step, in Python; here the counts follow the few rows that a batch changes.
USB's EMA allocates every parameter three times and copies the network twice per step; here it works in place.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from semilearn.algorithms.flexmatch.utils import FlexMatchThresholdingHook
from semilearn.core.hooks import EMAHook, Hook
from semilearn.core.utils.misc import EMA

_BufferPair = tuple[torch.nn.Module, torch.nn.Module, str]


class FastFlexMatchThresholdingHook(FlexMatchThresholdingHook):
    """FlexMatch's thresholds (USB's hook of that name) from counts that are kept up to date.

    `selected_label` (N,) and `classwise_acc` (C,) are what they are in USB, and may be replaced or written to from outside,
    as a checkpoint does: the counts are then made again. Where a batch holds a row twice, the last selected one is stored;
    on CUDA, USB leaves open which one.
    """

    _tally: _Tally | None = None

    @torch.no_grad()
    def masking(
        self,
        algorithm: Any,
        logits_x_ulb: torch.Tensor,
        idx_ulb: torch.Tensor,
        softmax_x_ulb: bool = True,
        *args: Any,
        **kwargs: Any,
    ) -> torch.Tensor:
        """(B,) the mask of the unlabelled loss, from (B, C) logits or probabilities of the rows `idx_ulb` (B,)."""
        self._move(logits_x_ulb.device)
        probs = logits_x_ulb.detach()
        if softmax_x_ulb:
            probs = algorithm.compute_prob(probs)
        max_probs, max_idx = probs.max(dim=-1)
        acc = self.classwise_acc[max_idx]
        mask = max_probs.ge(algorithm.p_cutoff * (acc / (2.0 - acc))).to(max_probs.dtype)
        self._current_tally().store(idx_ulb, max_idx, max_probs.ge(algorithm.p_cutoff))
        self.update()
        return mask

    @torch.no_grad()
    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set `classwise_acc` from the counts, dividing as USB does: in double precision, then rounded."""
        counts = self._current_tally().counts
        largest = counts.max()
        divisor = largest if self.thresh_warmup else counts[1:].max()
        ratio = (counts[1 : self.num_classes + 1].double() / divisor).to(self.classwise_acc.dtype)
        # USB leaves the accuracies alone while one value, -1 or a class, fills the whole table.
        self.classwise_acc.copy_(torch.where(largest < self.ulb_dest_len, ratio, self.classwise_acc))

    def _move(self, device: torch.device) -> None:
        if self.selected_label.device != device:
            self.selected_label = self.selected_label.to(device)
        if self.classwise_acc.device != device:
            self.classwise_acc = self.classwise_acc.to(device)

    def _current_tally(self) -> _Tally:
        if self._tally is None or not self._tally.counts_of(self.selected_label):
            self._tally = _Tally(self.selected_label, self.num_classes)
        return self._tally


class _Tally:
    """How many rows of the (N,) `table` hold -1, 0, …, C - 1: `counts` (C + 1,)."""

    def __init__(self, table: torch.Tensor, num_classes: int):
        self.table = table
        self.counts = torch.bincount(table + 1, minlength=num_classes + 1)
        self._version = table._version

    def counts_of(self, table: torch.Tensor) -> bool:
        """Whether the counts are this table's, and nothing else has written to it."""
        return self.table is table and self._version == table._version

    def store(self, idx: torch.Tensor, labels: torch.Tensor, selected: torch.Tensor) -> None:
        """Write the selected (B,) labels to the rows `idx`."""
        store = _store_without_sync if self.table.is_cuda else _store
        store(self.table, self.counts, idx, labels, selected)
        self._version = self.table._version


def _store(table: torch.Tensor, counts: torch.Tensor, idx: torch.Tensor, labels: torch.Tensor, selected: torch.Tensor) -> None:
    """Write the selected labels into the (N,) table; the (C + 1,) counts follow what has been stored."""
    idx, labels = idx[selected], labels[selected]
    if idx.nelement() == 0:
        return
    rows = idx.unique()
    counts.sub_(torch.bincount(table[rows] + 1, minlength=len(counts)))
    table[idx] = labels
    counts.add_(torch.bincount(table[rows] + 1, minlength=len(counts)))


def _store_without_sync(table: torch.Tensor, counts: torch.Tensor, idx: torch.Tensor, labels: torch.Tensor, selected: torch.Tensor) -> None:
    """`_store` in shapes that do not depend on values, so that a GPU need not wait for the host.

    Every occurrence of a row writes the same label, that of its last selected occurrence; its first one is counted.
    """
    order = torch.arange(len(idx), device=idx.device)
    same = idx[:, None] == idx[None, :]
    last = torch.where(same & selected[None, :], order, -1).amax(dim=1)
    first = torch.where(same, order, len(idx)).amin(dim=1) == order
    old = table[idx]
    new = torch.where(last >= 0, labels[last.clamp_min(0)], old)
    table[idx] = new
    counts.index_add_(0, new + 1, first.to(counts.dtype))
    counts.index_add_(0, old + 1, -first.to(counts.dtype))


class FastEMAHook(EMAHook):
    """USB's EMA, in place: `ema_model`'s parameters are the shadow itself, and only buffers are copied each step.

    After every step `algorithm.ema.shadow` and `algorithm.ema_model` are bit-identical to USB's. Two tensors are one
    from the first step to the end of the run: what is loaded into `ema_model` in between is in the shadow too.
    A shadow, `ema` or network replaced from outside is taken up at the next step, and USB's own code runs where
    `ema_model` does not mirror the network tensor by tensor.
    """

    _pairs: _Pairs | None = None

    @torch.no_grad()
    def after_train_step(self, algorithm: Any) -> None:
        if algorithm.ema is None:
            return
        if self._pairs is None or not self._pairs.hold(algorithm):
            self._pairs = _pair(algorithm)
        if self._pairs is None:
            super().after_train_step(algorithm)
        else:
            self._pairs.step(algorithm.ema.decay)

    def after_run(self, algorithm: Any) -> None:
        """Give the shadow its own memory: USB loads the best checkpoint into `ema_model` now, not into the shadow."""
        if self._pairs is not None:
            algorithm.ema.shadow.update({name: value.clone() for name, value in algorithm.ema.shadow.items()})
            self._pairs = None


class _Pairs:
    """What belongs together, tensor by tensor: the network's parameters and their shadow, the two sets of buffers."""

    def __init__(self, algorithm: Any, buffers: list[list[_BufferPair]]):
        self.owner = (algorithm.ema, algorithm.model, algorithm.ema_model)
        self.names, self.params = zip(*algorithm.model.named_parameters(), strict=True)
        self.averaged = [dict(algorithm.ema_model.named_parameters())[name] for name in self.names]
        self.buffers = buffers
        shadow = algorithm.ema.shadow
        for name, param in zip(self.names, self.averaged, strict=True):
            param.data.copy_(shadow[name])
            shadow[name] = param.data
        self.shadow = [shadow[name] for name in self.names]
        self.scratch = None if self.shadow[0].is_cuda else _scratch(self.shadow)

    def hold(self, algorithm: Any) -> bool:
        """Whether nothing has been replaced since."""
        now = (algorithm.ema, algorithm.model, algorithm.ema_model)
        shadow = algorithm.ema.shadow
        return all(a is b for a, b in zip(self.owner, now, strict=True)) and all(
            shadow.get(name) is mine and param.data_ptr() == mine.data_ptr()
            for name, mine, param in zip(self.names, self.shadow, self.averaged, strict=True)
        )

    def step(self, decay: float) -> None:
        """shadow = (1 - decay)·param + decay·shadow: two products, then a sum, as USB rounds it (lerp does not)."""
        params = [param.data for param in self.params]
        if self.scratch is None:
            torch._foreach_mul_(self.shadow, decay)
            torch._foreach_add_(self.shadow, torch._foreach_mul(params, 1.0 - decay))
        else:
            # On a CPU one tensor at a time stays in the cache: foreach takes 4 times as long for a ViT-S.
            for mine, param, room in zip(self.shadow, params, self.scratch, strict=True):
                mine.mul_(decay).add_(torch.mul(param, 1.0 - decay, out=room))
        for group in self.buffers:
            # Looked up again: a module may have put another tensor in its buffer's place.
            torch._foreach_copy_([there._buffers[name] for _, there, name in group], [here._buffers[name] for here, _, name in group])


def _scratch(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Room for one product a tensor, all in the same memory."""
    largest: dict[torch.dtype, int] = {}
    for tensor in tensors:
        largest[tensor.dtype] = max(largest.get(tensor.dtype, 0), tensor.numel())
    memory = {dtype: torch.empty(size, dtype=dtype) for dtype, size in largest.items()}
    return [memory[tensor.dtype].as_strided(*_laid_out(tensor)) for tensor in tensors]


def _laid_out(tensor: torch.Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape, and the strides in which its product is to lie: its own, unless it has gaps or overlaps."""
    dense = torch.empty_like(tensor, device="meta", memory_format=torch.preserve_format)
    return tuple(tensor.shape), dense.stride()


def _pair(algorithm: Any) -> _Pairs | None:
    """The pairs, or None where USB's own code has to do it (and to say what is wrong, if something is)."""
    model, ema_model, shadow = algorithm.model, algorithm.ema_model, algorithm.ema.shadow
    params, averaged = dict(model.named_parameters()), dict(ema_model.named_parameters())
    state, theirs = model.state_dict(), ema_model.state_dict()
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    mirrored = (
        type(algorithm.ema) is EMA
        and algorithm.ema.model is model
        and state.keys() == theirs.keys()
        and state.keys() <= {name for name, _ in named}
        and params.keys() == averaged.keys() == shadow.keys()
        and all(_apart(state[name], theirs[name]) for name in state)
        and all(_alike(params[name], shadow[name]) for name in params)
    )
    return _Pairs(algorithm, _buffer_pairs(model, ema_model, state)) if mirrored and params else None


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    return (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)


def _apart(one: torch.Tensor, other: torch.Tensor) -> bool:
    return _alike(one, other) and (one.data_ptr() != other.data_ptr() or one.numel() == 0)


def _buffer_pairs(model: torch.nn.Module, ema_model: torch.nn.Module, state: dict[str, Any]) -> list[list[_BufferPair]]:
    """(module, the same in ema_model, name) of every buffer in the state, in groups of one type of number."""
    others = dict(ema_model.named_modules())
    groups: dict[torch.dtype, list[_BufferPair]] = {}
    for path, module in model.named_modules():
        for name in module._buffers:
            value = state.get(f"{path}.{name}" if path else name)
            if value is not None:
                groups.setdefault(value.dtype, []).append((module, others[path], name))
    return list(groups.values())


REPLACEMENTS: dict[type[Hook], type[Hook]] = {
    FlexMatchThresholdingHook: FastFlexMatchThresholdingHook,
    EMAHook: FastEMAHook,
}


def accelerate(algorithm: Any) -> list[str]:
    """Replace USB's slow hooks in place: same name, priority, position and state.

    Only hooks of exactly USB's class are replaced; a subclass is left alone.

    Returns:
        The names of the replaced.
    """
    replaced = []
    for position, hook in enumerate(algorithm._hooks):
        fast = REPLACEMENTS.get(type(hook))
        if fast is not None:
            algorithm._hooks[position] = fast.__new__(fast)
            vars(algorithm._hooks[position]).update(vars(hook))
            replaced.append(hook.name)
    algorithm.hooks_dict = OrderedDict((hook.name, hook) for hook in algorithm._hooks)
    return replaced
