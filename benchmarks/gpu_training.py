"""Steps per second on a GPU, and where a step's time goes: views on the CPU and on the device, channels_last, compiled, against USB's loop.

Run by hand: `python benchmarks/gpu_training.py` (at most eight minutes). FixMatch and FlexMatch with WRN-28-2 on 32 × 32 random pixels,
batch 64, uratio 7, all in bfloat16 by autocast without a scaler, USB's too. One after the other in one process, each for `--seconds` after
a warm-up; the clock is read when the GPU has finished. In between nothing waits for it that does not in a training: phases are told apart
by events, read at the end. "views" is all from a step's end until the next one's batch is ready on the device, waiting for loaders
included; "forward" has the losses. With `--device cpu` the script itself is tried: two steps of a tiny network, nothing compiled unless
`--ways` says so.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import os
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from itertools import pairwise
from typing import Any

BATCH, URATIO = 64, 7
TINY = 4, 2
NETS = {"cuda": "wrn_28_2", "cpu": {"name": "small_cnn", "width": 4}}
PHASES = ("views", "forward", "backward", "optimizer", "EMA", "rest")
FAST = {"fast": "fast"}
# What the active block says beyond its first labels; None: USB's own loop.
WAYS: dict[str, dict[str, Any] | None] = {
    "USB": None,
    "exact": {},
    "exact, views on device": {"views_on": "device"},
    "fast": FAST,
    "fast, views on device": {**FAST, "views_on": "device"},
    "fast, compiled": {**FAST, "compile": True},
    "fast, compiled, views on device": {**FAST, "compile": True, "views_on": "device"},
}


class Phases:
    """When phases ended: by events of a GPU, which nothing waits for, or by the clock."""

    def __init__(self, device: Any):
        self._is_cuda = device.type == "cuda"
        self._marks: list[tuple[str, Any]] = []

    def mark(self, name: str) -> None:
        """The phase of this name ends here."""
        import torch

        if not self._is_cuda:
            self._marks.append((name, 1000 * time.perf_counter()))
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._marks.append((name, event))

    def clear(self) -> None:
        """Forget all but the last mark, with which the next phase begins."""
        del self._marks[:-1]

    def shares(self) -> dict[str, float]:
        """Of each phase, its share of the time between the first mark and the last. The device must have finished."""
        took: Counter[str] = Counter()
        for (_, began), (name, ended) in pairwise(self._marks):
            took[name] += began.elapsed_time(ended) if self._is_cuda else ended - began
        return {name: took[name] / took.total() for name in PHASES}

    def watch(self, algorithm: Any) -> None:
        """Mark the ends of backward passes, of the optimizer's steps and of the EMA's."""
        algorithm.optimizer.register_step_pre_hook(lambda *_: self.mark("backward"))
        algorithm.optimizer.register_step_post_hook(lambda *_: self.mark("optimizer"))
        hook = algorithm.hooks_dict["EMAHook"]
        update = hook.after_train_step

        def timed(algorithm: Any) -> None:
            self.mark("rest")
            update(algorithm)
            self.mark("EMA")

        hook.after_train_step = timed


def build(algorithm: str, way: dict[str, Any] | None, net: Any, folder: str, sizes: tuple[int, int], workers: int) -> Any:
    """The algorithm, ready to train, in bfloat16."""
    import torch
    from training_overhead import active, configuration, plain

    # More steps than are run, so that neither evaluates or saves.
    data = configuration(folder, *sizes, workers, 10**6, algorithm)
    data |= {"net": net, "amp": True, "active": {**data["active"], **(way or {})}}
    made = plain(data) if way is None else active(data)
    made.amp_cm = partial(torch.autocast, made.device.type, dtype=torch.bfloat16)
    made.loss_scaler = torch.amp.GradScaler(made.device.type, enabled=False)
    return made


def measure(algorithm: Any, warm_up: int, seconds: float) -> tuple[float, dict[str, float]]:
    """Steps per second, and the share of each phase."""
    import torch
    from training_overhead import steps

    wait = torch.cuda.synchronize if algorithm.device.type == "cuda" else lambda: None
    phases = Phases(algorithm.device)
    run = steps(algorithm, phases.mark)
    next(run)
    # The hooks are there from the first step on.
    phases.watch(algorithm)
    for _ in range(warm_up):
        next(run)
    wait()
    phases.mark("rest")
    phases.clear()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds or count < 2:
        next(run)
        count += 1
    wait()
    took = time.perf_counter() - began
    run.close()
    return count / took, phases.shares()


def release(algorithm: Any) -> None:
    """End its workers, and give the device's memory back."""
    import torch

    for loader in algorithm.loader_dict.values():
        loader._iterator = None
    algorithm.loader_dict.clear()
    gc.collect()
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each way, after its warm-up")
    parser.add_argument("--limit", type=float, default=420.0, help="seconds after which no further way is begun")
    parser.add_argument("--workers", type=int, default=min(4, max(0, (os.cpu_count() or 1) // 4)), help="as num_workers; 0: none")
    parser.add_argument("--algorithms", nargs="+", default=["fixmatch", "flexmatch"])
    parser.add_argument("--ways", nargs="+", choices=WAYS, help="default: all; on a CPU, those that are not compiled")
    args = parser.parse_args()
    if args.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("gpu_training: there is no CUDA device; --device cpu tries the script itself, in a few tiny steps")
    is_tiny = args.device == "cpu"
    sizes, warm_up, seconds = (TINY, 1, 0.0) if is_tiny else ((BATCH, URATIO), 20, args.seconds)
    name = "CPU, a trial of the script" if is_tiny else torch.cuda.get_device_name()
    print(f"{name}; torch {torch.__version__}, {os.cpu_count()} cores, num_workers {args.workers}, batch {sizes[0]}, uratio {sizes[1]}\n")
    print("| algorithm | way | steps/s | USB's × |" + "".join(f" {phase} |" for phase in PHASES))
    print("|---|---|" + "---:|" * (2 + len(PHASES)), flush=True)
    ways = args.ways or [way for way in WAYS if not is_tiny or "compiled" not in way]
    began = time.perf_counter()
    for algorithm in args.algorithms:
        usb = None
        for way in ways:
            if time.perf_counter() - began > args.limit:
                print(f"| {algorithm} | {way} | not measured: beyond --limit |", flush=True)
                continue
            with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
                made = build(algorithm, WAYS[way], NETS[args.device], folder, sizes, args.workers)
                speed, shares = measure(made, warm_up, seconds)
                release(made)
            del made
            usb = speed if way == "USB" else usb
            ratio = "" if usb is None else f"{speed / usb:.2f}"
            print(f"| {algorithm} | {way} | {speed:.2f} | {ratio} |" + "".join(f" {shares[phase]:.0%} |" for phase in PHASES), flush=True)
    print(f"\n{time.perf_counter() - began:.0f} seconds in all")


if __name__ == "__main__":
    main()
