"""ActiveMixin: any of USB's algorithms in cycles. Its `train()` runs the whole experiment, USB's own once a cycle."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from semilearn.core.utils import TBLog
from torch.utils.data import DataLoader

from usb_active.contracts.acquisition import TrainBatch, TrainingInfo
from usb_active.contracts.plugin import overrides
from usb_active.errors import UsageError
from usb_active.loop.session import Session
from usb_active.pool.divergence import Divergence, advice
from usb_active.pool.split import Split
from usb_active.pool.view import Registered
from usb_active.randomness import seed_globals, seeded_globals
from usb_active.storage.checkpoint import must_fit, read_cycle_checkpoint, write_checkpoint
from usb_active.usb.arguments import complete_args
from usb_active.usb.device import DeviceMixin, configure_torch, pick_device, remove_hook, replace_hook
from usb_active.usb.fast_hooks import accelerate
from usb_active.usb.hooks import ActiveCheckpointHook, ActiveEvaluationHook, PriorUpdateHook, ProgressHook
from usb_active.usb.loaders import CycleLoaders
from usb_active.usb.missing_parts import network_named
from usb_active.usb.plugin_hooks import IntervalHook, PluginHooks
from usb_active.usb.registered import OWN, Registrations
from usb_active.usb.scoring import Scores
from usb_active.usb.seams import PriorSeam, StepCapture, batch_fields, check_prior_stages
from usb_active.usb.state import algorithm_state, load_algorithm_state
from usb_active.usb.support import build_network, check_supported
from usb_active.usb.unlabeled import declared_views

logger = logging.getLogger("usb_active")


class ActiveMixin(DeviceMixin):
    """Placed before one of USB's algorithm classes by `registration.make_active`.

    Every cycle runs USB's own constructor anew on the labels there are, with new weights loaded into the modules that exist
    (so that device and parallel wrappers survive). A later cycle is therefore a new instance by construction.
    """

    wraps_train_step = True
    base_name: str
    base_class: type

    def __init__(self, args: Any, net_builder: Callable, tb_log: Any = None, logger: Any = None, **keywords: Any):
        self.device = pick_device(getattr(args, "gpu", None))
        check_supported(self.base_name, self.base_class, self.device)
        if not hasattr(args, "run_config"):
            # Made by others, from the keys of a YAML.
            complete_args(args)
        self.session = Session.from_args(args, self)
        configure_torch(self.session.config.active)
        if tb_log is None and args.use_tensorboard:
            tb_log = TBLog(str(self.session.run_dir.path), "tensorboard", use_tensorboard=True)
        self._tensorboard = tb_log
        self._constructor = (args, net_builder, logger), keywords
        # Where the YAML leaves them to the data set.
        args.num_classes, args.img_size = self.session.dataset.task.num_outputs, self.session.dataset.img_size
        self.prior_seam = PriorSeam()
        try:
            self._construct(self.session.provisional_split(), cycle=0)
        except BaseException as error:
            self.session.close(refused=isinstance(error, UsageError))
            raise

    # ------------------------------------------------------------------------------------------ a cycle's fresh start
    def _construct(self, split: Split, cycle: int) -> None:
        (args, net_builder, logger), keywords = self._constructor
        self.split, self.cycle = split, cycle
        self.elapsed = 0.0
        config = self.session.config.active
        self._fields = batch_fields(self.base_name, type(self))
        self._plugin_hooks = PluginHooks(self.session.plugins)
        self._registrations = Registrations(self._plugin_hooks.by_role, self.session.seed, cycle, self.device)
        training = f"{self.session.run_dir.path}: the training of cycle {cycle}"
        self._divergence = Divergence(training, self.device, self._trained_modules, advice(self.session.config.usb))
        self._scores = Scores(self.session.dataset.task, self.to_device, self._divergence.error)
        self._capture = StepCapture(self.base_name, self._fields, self._hidden_modules())
        # USB prints from constructors; what matters is in the log.
        named = network_named(self.session.config)
        with contextlib.redirect_stdout(io.StringIO()), seeded_globals(self.session.seed, "construct"), named:
            super().__init__(args, net_builder, self._cycle_log(cycle, args.num_train_iter), logger, **keywords)
        # A model that a launcher moved stays where it is; one that nobody moved goes to the device.
        if self.device.type != "cpu":
            self.model.to(self.device)
            self.ema_model.to(self.device)
        self.ce_loss = self._capture.watch_loss(self.ce_loss, "_logits_lb")
        self.consistency_loss = self._capture.watch_loss(self.consistency_loss, "_logits_strong")
        self._capture.passes.watch(self.model)
        if self.session.prior.exists:
            check_prior_stages(self.base_name, self.hooks_dict)
        if config.fast_hooks:
            accelerate(self)
        self._constructed = algorithm_state(self)

    def _cycle_log(self, cycle: int, steps: int) -> CycleLog | None:
        return None if self._tensorboard is None else CycleLog(self._tensorboard, cycle * steps)

    def _hidden_modules(self) -> list[str]:
        names = [name for plugin in self.session.plugins.values() for name in plugin.hidden_modules]
        return list(dict.fromkeys(names))

    def prepare(self, cycle: int, split: Split) -> None:
        """Everything sized by the labelled set is rebuilt, weights are fresh (or carried, under `warm_start`)."""
        if overrides(self, "plan"):
            # A plan may depend on the streams, which hold more than the pool's labels when pseudo-labels have joined them.
            self.split = split
            self.args.epoch, self.args.num_train_iter = self.plan(self.session.pool)
        self._construct(split, cycle)
        self.prior_seam.set_counts(0, 0)
        self._plugin_hooks.set_up(self._training_info, self.session.seed, cycle)

    def _training_info(self, role: str) -> TrainingInfo:
        dataset = self.session.dataset
        return TrainingInfo(
            num_samples=len(dataset), num_classes=len(dataset.class_names), img_size=dataset.img_size, in_channels=dataset.in_channels,
            feature_dim=getattr(self.model, "num_features", None), device=self.device, cycle=self.cycle,
            num_train_iter=self.num_train_iter, net=self.model, register_state=self._registrations.registrar(role),
        )  # fmt: skip

    def register_state(self, name: str, factory: Callable[[], Any], optimizer: Callable | None = None) -> Any:
        """For algorithms with modules and optimizers beside USB's one: as `TrainingInfo.register_state`, made anew every cycle.

        To be called in the algorithm's constructor, after USB's.
        """
        return self._registrations.register(OWN, name, factory, optimizer)

    def registered(self) -> dict[str, dict[str, Registered]]:
        """What plugins (by role) and the algorithm itself registered for this cycle's training, by name."""
        return self._registrations.by_role()

    # ------------------------------------------------------------------------------------------ what USB's constructor asks for
    def set_dataset(self) -> dict[str, Any]:
        """The pool's labelled and unlabelled streams, the test set, and the labels held out for validation."""
        dataset, split = self.session.dataset, self.split
        self._loaders = CycleLoaders(self.base_name, dataset, split, declared_views(self), self.session.seed, self.cycle)
        self.args.lb_dest_len, self.args.ulb_dest_len = len(split.labeled), len(split.unlabeled)
        return self._loaders.rows

    def set_data_loader(self) -> dict[str, DataLoader]:
        """Loaders whose batches depend on their position alone and that start at the iteration reached."""
        return self._loaders.make(self.args, self, self.make_sampler if overrides(self, "make_sampler") else None)

    def set_model(self) -> torch.nn.Module:
        """The initial weights: the same every cycle, pretrained if there is a pretrainer; carried on under `warm_start`."""
        existing = vars(self).get("model")
        if existing is not None and self.session.continues_weights():
            return existing
        # USB's builder is what algorithms that wrap the network (remixmatch, simmatch) call in the end.
        self.net_builder = lambda **options: build_network(self.session.weights.build, self.session.config)
        model = super().set_model()
        return model if existing is None else _load_into(existing, model)

    def set_ema_model(self) -> torch.nn.Module:
        existing = vars(self).get("ema_model")
        if existing is None:
            return copy.deepcopy(self.model)
        return existing if self.session.continues_weights() else _load_into(existing, self.model)

    def set_optimizer(self) -> tuple[torch.optim.Optimizer, Any]:
        """The algorithm's own optimizer and schedule (USB's cosine, unless it has another), or a constant rate after the warm-up."""
        optimizer, scheduler = super().set_optimizer()
        if self.session.config.active.schedule == "cosine":
            return optimizer, scheduler
        warmup = self.args.num_warmup_iter
        constant = lambda step: min(1.0, step / warmup) if warmup else 1.0  # noqa: E731 — LambdaLR wants a function of the step
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, constant)

    def set_hooks(self) -> None:
        super().set_hooks()
        replace_hook(self, ActiveEvaluationHook(), "EvaluationHook", "HIGH")
        # Its samplers are seeded by the epoch alone; ours need no telling.
        remove_hook(self, "DistSamplerSeedHook")
        self._plugin_hooks.register(self.register_hook, self.base_name, self._fields)
        own = self._registrations.own
        self.register_hook(own, own.name, "VERY_HIGH")
        self._progress = ProgressHook(self.session.progress_title(self.cycle))
        self.register_hook(self._progress, "active/progress", "LOWEST")
        self.register_hook(IntervalHook(), "active/interval", "LOW")
        self.register_hook(PriorUpdateHook(), "active/prior_update", "LOW")
        replace_hook(self, ActiveCheckpointHook(), "CheckpointHook", "LOWEST")

    # ------------------------------------------------------------------------------------------ one step
    def process_batch(self, input_args: list[str] | None = None, **batch: Any) -> dict[str, Any]:
        self._loaded = self._loaders.with_dataset_idx(batch)
        return super().process_batch(input_args, **batch)

    def train_step(self, **inputs: Any) -> tuple[dict, dict]:
        """USB's step, seeded by its position, seen by the observers, with the prior in its predictions."""
        seed_globals(self.session.seed, self.cycle, "step", self.it, self.rank)
        self.prior_seam.table = self.session.prior.at(self.it)
        self.prior_seam.open(self._loaded.get("idx_ulb"), self.device)
        self._capture.open(inputs)
        try:
            with network_named(self.session.config, self.model):
                out_dict, log_dict = super().train_step(**inputs)
            self._divergence.see(out_dict.get("loss"), self.it + 1)
            batch = None
            if self._plugin_hooks.want_batches:
                batch = self._capture.batch(self.cycle, self.it, self._loaded, inputs, out_dict.get("feat"), self.unused_fields)
        finally:
            self._capture.close()
            self.prior_seam.close()
        if batch is not None:
            self._show(batch, out_dict, log_dict)
        self._log_prior(log_dict)
        return out_dict, log_dict

    def _log_prior(self, log_dict: dict) -> None:
        """Every `num_log_iter` steps and at the last: the share of pseudo-labels that the prior changed since."""
        done = self.it + 1
        if not self.session.prior.exists or (done % self.num_log_iter and done < self.num_train_iter):
            return
        share = self.session.prior_log.add_interval(done, *self.prior_seam.counts())
        self.prior_seam.set_counts(0, 0)
        if share is not None:
            log_dict["train/prior_changed"] = share

    def _show(self, batch: TrainBatch, out_dict: dict, log_dict: dict) -> None:
        self._plugin_hooks.observe(self, batch)
        for name, extra in self._plugin_hooks.extra_losses(self, batch):
            out_dict["loss"] = out_dict["loss"] + extra
            self._divergence.see(out_dict["loss"], self.it + 1)
            log_dict[f"train/{name}_loss"] = float(extra.detach())

    def compute_prob(self, logits: torch.Tensor) -> torch.Tensor:
        probs = super().compute_prob(logits)
        self._capture.see_probs(probs)
        return probs

    def call_hook(self, fn_name: str, hook_name: str | None = None, *positional: Any, **named: Any) -> Any:
        if hook_name is None or positional:
            return super().call_hook(fn_name, hook_name, *positional, **named)
        self._capture.see_hook(fn_name, named)
        dispatch = lambda **values: super(ActiveMixin, self).call_hook(fn_name, hook_name, **values)  # noqa: E731 — closure over the names
        return self.prior_seam.call(fn_name, dispatch, named)

    # ------------------------------------------------------------------------------------------ divergence and evaluation
    def check_divergence(self, thoroughly: bool) -> None:
        """Between two steps: UsageError when weights, buffers or EMA weights are not finite; see `Divergence.check`."""
        self._divergence.check(self.it + 1, self.num_train_iter, thoroughly)

    def _trained_modules(self) -> dict[str, torch.nn.Module]:
        return {"the model": self.model, "the EMA model": self.ema_model, **self._registrations.modules()}

    def evaluate(self, eval_dest: str = "eval", out_key: str = "logits", return_logits: bool = False) -> dict[str, Any]:
        """Scores of the EMA model (USB's names). The live weights are not touched."""
        return self.score(self.ema_model, eval_dest, out_key, return_logits)

    def score(self, model: torch.nn.Module, split: str, out_key: str = "logits", return_logits: bool = False) -> dict[str, Any]:
        """Scores of a model on the split ("eval", "validation"). UsageError when its logits are not finite."""
        return self._scores.score(model, self.loader_dict[split], split, out_key, return_logits)

    @property
    def evaluation(self) -> dict[str, float]:
        """The last scores of this cycle's training, by USB's names; empty when nothing was evaluated, so that there is no best either."""
        return self._scores.last

    @property
    def best_test_score(self) -> float | None:
        """Of the headline metric, in this cycle's training; None without a test set."""
        return self._scores.best_test

    def note_evaluation(self, scores: Mapping[str, float]) -> None:
        """Remember the last scores, the best step (on held-out labels if there are any), and the best test score of the headline metric."""
        self.best_eval_acc, self.best_it = self._scores.note(scores, self.it, (self.best_eval_acc, self.best_it))

    # ------------------------------------------------------------------------------------------ checkpoints
    def get_save_dict(self) -> dict[str, Any]:
        """USB's, and under "active" what a resumed run needs beyond it."""
        elapsed = self.elapsed + time.perf_counter() - self._started
        return {
            **super().get_save_dict(),
            **self.session.owner(self.cycle).stamp(),
            "best_eval_acc": float(self.best_eval_acc),
            "active": {
                "cycle": self.cycle,
                "device": self.device.type,
                "algorithm": algorithm_state(self, self._constructed),
                "plugins": self.session.states.collect(),
                **self._registrations.state_dict(),
                **self._scores.state_dict(),
                "prior": self.session.prior.file,
                "prior_log": {"records": self.session.prior_log.records, "counts": list(self.prior_seam.counts())},
                "elapsed": elapsed,
                "log": dict(self.session.logged),
            },
        }

    def save_model(self, save_name: str, save_path: str | Path) -> None:
        """Atomically: a crash leaves the old checkpoint or the new one.

        Only a cycle's. USB's train.py saves once more when all is over, from a process that may have had nothing to train.
        """
        if Path(save_path) == self.session.run_dir.path:
            return
        write_checkpoint(Path(save_path) / save_name, self.get_save_dict())

    def load_model(self, load_path: str) -> dict[str, Any]:
        """Go on from a checkpoint of this cycle. (A run finds its own; USB's train.py need not name one.)"""
        path = Path(load_path)
        checkpoint = read_cycle_checkpoint(path, self.session.owner(self.cycle))
        with must_fit(path, "weights"):
            self.model.load_state_dict(checkpoint["model"])
            self.ema_model.load_state_dict(checkpoint["ema_model"])
        found = self._divergence.nonfinite()
        if found:
            raise UsageError(f"{path}: {found}: the training had diverged; {self._divergence.advice}")
        with must_fit(path, "optimizer and schedule"):
            # Empty when it was written without mixed precision on a GPU.
            if checkpoint["loss_scaler"]:
                self.loss_scaler.load_state_dict(checkpoint["loss_scaler"])
            self.optimizer.load_state_dict(checkpoint["optimizer"])
            if self.scheduler is not None:
                self.scheduler.load_state_dict(checkpoint["scheduler"])
        self.it, self.best_it, self.best_eval_acc = checkpoint["it"], checkpoint["best_it"], checkpoint["best_eval_acc"]
        self._load_active(checkpoint["active"])
        return checkpoint

    def _load_active(self, state: dict[str, Any]) -> None:
        if state["device"] != self.device.type:
            devices = self.device.type, state["device"]
            logger.warning("the run goes on on another device (%s, before: %s): from here on it is not equal to the bit", *devices)
        load_algorithm_state(self, state["algorithm"])
        self.session.states.give(state["plugins"])
        self._registrations.load_state_dict(state)
        self._scores.load_state_dict(state)
        self.session.load_prior(state["prior"])
        # Runs that were begun before there was such a log go on without its beginning.
        log = state.get("prior_log", {"records": [], "counts": [0, 0]})
        self.session.prior_log.replace(log["records"])
        self.prior_seam.set_counts(*log["counts"])
        self.session.logged.update(state["log"])
        self.elapsed = state["elapsed"]

    def log_record(self, record: Mapping[str, Any]) -> None:
        """A finished training's scores into TensorBoard, over the number of labels."""
        if self._tensorboard is not None:
            numbers = {f"cycle/{name}": value for name, value in record.items() if isinstance(value, float)}
            numbers |= {f"cycle/log/{name}": value for name, value in record["log"].items()}
            numbers |= {f"cycle/class_count/{label}": count for label, count in enumerate(record.get("class_counts", ()))}
            self._tensorboard.update(numbers, record["num_labels"])

    # ------------------------------------------------------------------------------------------ training
    def train(self) -> None:
        """The whole experiment: cycles of train, select, label."""
        self.results_dict = self.session.run()

    def fit(self) -> None:
        """One cycle's training, by USB's own `train()`, from the iteration reached to the last."""
        # USB stores epoch + 1, with which a run resumed in the middle of an epoch would train nothing.
        done = self.it >= self.num_train_iter
        self.start_epoch = self.epochs if done else min(self.it // self.num_iter_per_epoch, self.epochs - 1)
        self.epoch = self.start_epoch
        # Tells EMAHook to take its shadow from ema_model.
        self.resume = self.it > 0 or self.session.continues_weights()
        self._started = time.perf_counter()
        try:
            super().train()
        except Exception:
            # A plugin or the algorithm itself may be the first who cannot go on: why, is said all the same.
            self.check_divergence(thoroughly=True)
            raise
        finally:
            self._progress.close()
            self._loaders.stop_workers()
        self.elapsed += time.perf_counter() - self._started


class CycleLog:
    """USB's TensorBoard log, with steps that go on through the cycles instead of starting over one another."""

    def __init__(self, log: TBLog, offset: int):
        self._log, self._offset = log, offset

    def update(self, log_dict: dict[str, float], it: int, suffix: str | None = None, mode: str = "train") -> None:
        """As USB's."""
        self._log.update(log_dict, it + self._offset, suffix, mode)


def _load_into(existing: torch.nn.Module, fresh: torch.nn.Module) -> torch.nn.Module:
    """Fresh values in the modules that exist, so that device, wrappers and hooks on them survive."""
    state = fresh.state_dict()
    prefixed = all(name.startswith("module.") for name in existing.state_dict()) and not all(n.startswith("module.") for n in state)
    existing.load_state_dict({f"module.{name}": value for name, value in state.items()} if prefixed else state)
    for parameter in existing.parameters():
        parameter.grad = None
    return existing
