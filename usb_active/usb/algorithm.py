"""ActiveMixin: any of USB's algorithms in cycles. Its `train()` runs the whole experiment, USB's own once per cycle."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from usb_active.contracts.plugin import overrides
from usb_active.errors import UsageError
from usb_active.loop.live_scores import LiveScores
from usb_active.loop.session import Session
from usb_active.pool.batch_norm import recompute, trained_layers
from usb_active.pool.compiled import check_compiler, compile_forward, in_force
from usb_active.pool.divergence import Divergence, advice
from usb_active.pool.memory_format import as_channels_last, use_channels_last
from usb_active.pool.split import Split
from usb_active.pool.view import Registered
from usb_active.randomness import seed_globals, seeded_globals
from usb_active.storage.checkpoint import write_checkpoint
from usb_active.usb.arguments import complete_args
from usb_active.usb.batch_draws import DRAWS
from usb_active.usb.checkpoints import CycleCheckpoints
from usb_active.usb.cycle_start import constant_after_warmup, load_into
from usb_active.usb.device import DeviceMixin, configure_torch, pick_device
from usb_active.usb.fast_hooks import accelerate
from usb_active.usb.hooks import ProgressHook, register_hooks
from usb_active.usb.loaders import CycleLoaders
from usb_active.usb.missing_parts import network_named
from usb_active.usb.plugin_hooks import PluginHooks
from usb_active.usb.registered import OWN, Registrations
from usb_active.usb.scoring import Scores
from usb_active.usb.seams import PriorSeam, StepCapture, batch_fields, check_prior_stages, mixes
from usb_active.usb.stopwatch import Stopwatch
from usb_active.usb.support import build_network, check_supported
from usb_active.usb.tensorboard import RunLog
from usb_active.usb.unlabeled import declared_views

logger = logging.getLogger("usb_active")

# Keys of the block that are for batches made at once → the value that asks for it, and what a batch has that is made one by one.
_FOR_BATCHES = {
    "views": ("vectorized", "such views are drawn one by one, as USB does"),
    "views_on": ("device", "such batches are made on the CPU"),
}


class ActiveMixin(DeviceMixin):
    """Placed before one of USB's algorithm classes by `registration.make_active`.

    Every cycle runs USB's own constructor again on the labels there are, with new weights loaded into the modules that exist
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
        # From here on the run directory is ours, and has to be given back.
        self.session = Session.from_args(args, self)
        try:
            configure_torch(self.session.config.active)
            if self.session.config.active.compile:
                check_compiler(self.device.type)
            self._run_log = RunLog(tb_log, self.session.run_dir.path if args.use_tensorboard else None)
            self._constructor = (args, net_builder, logger), keywords
            # Where the YAML leaves them to the data set.
            args.num_classes, args.img_size = self.session.dataset.task.num_outputs, self.session.inputs.img_size
            self.prior_seam = PriorSeam(self.session.guidance)
            self._construct(self.session.provisional_split(), cycle=0)
        except BaseException as error:
            self.session.close(refused=isinstance(error, UsageError))
            raise

    # ------------------------------------------------------------------------------------------ a cycle's fresh start
    def _construct(self, split: Split, cycle: int) -> None:
        (args, net_builder, logger), keywords = self._constructor
        self.split, self.cycle = split, cycle
        self._fields = batch_fields(self.base_name, type(self))
        self._plugin_hooks = PluginHooks(self.session.plugins)
        self._registrations = Registrations(self._plugin_hooks.by_role, self.session.seed, cycle, self.device)
        training = f"{self.session.run_dir.path}: the training of cycle {cycle}"
        modules = lambda: {"the model": self.model, "the EMA model": self.ema_model, **self._registrations.modules()}  # noqa: E731 — asked later
        self._divergence = Divergence(training, self.device, modules, advice(self.session.config.usb))
        self._stopwatch = Stopwatch()
        self._scores = Scores(self.session.dataset.task, self.to_device, self._divergence.error)
        self._checkpoints = CycleCheckpoints(cycle, self._registrations, self._scores, self._divergence, self._stopwatch)
        self._capture = StepCapture(self.base_name, self._fields)
        # USB prints from constructors; what matters is in the log.
        named = network_named(self.session.config)
        with contextlib.redirect_stdout(io.StringIO()), seeded_globals(self.session.seed, "construct"), named:
            super().__init__(args, net_builder, self._run_log.of_cycle(cycle * args.num_train_iter), logger, **keywords)
        self.place_networks()
        self._inner_modules = self._plugin_hooks.modules_to_capture(self)
        self._capture.watch(self, self._inner_modules)
        self._why_uncompiled = self._why_steps_are_not_compiled()
        if self.session.config.active.compile:
            # Both in every cycle, so that a network does not depend on where the run was resumed.
            compile_forward(self.model)
            compile_forward(self.ema_model)
        if self.session.guidance.exists:
            check_prior_stages(self.base_name, self.hooks_dict)
        if self.session.config.active.fast_hooks:
            accelerate(self)
        self._checkpoints.begin(self)

    def place_networks(self) -> None:
        super().place_networks()
        if self.session.config.active.uses_channels_last:
            use_channels_last(self.model)
            use_channels_last(self.ema_model)

    def _why_steps_are_not_compiled(self) -> str:
        """Of this cycle; empty where they are, if `compile` asks for it."""
        if overrides(self, "make_sampler"):
            return f"batches of '{self.base_name}' may be of any length, and each length would be compiled by itself"
        # Compiled code would not show them.
        return f"a plugin looks at modules in them: {', '.join(self._inner_modules)}" if self._inner_modules else ""

    def to_device(self, value: Any) -> Any:
        moved = super().to_device(value)
        is_images = isinstance(moved, torch.Tensor) and self.session.config.active.uses_channels_last
        return as_channels_last(moved) if is_images else moved

    def prepare(self, cycle: int, split: Split) -> None:
        """Everything sized by the labelled set is rebuilt, weights are fresh (or carried, under `warm_start`)."""
        if overrides(self, "plan"):
            # A plan may depend on the streams, which hold more than the pool's labels when pseudo-labels have joined them.
            self.split = split
            self.args.epoch, self.args.num_train_iter = self.plan(self.session.pool)
        self._construct(split, cycle)
        self._plugin_hooks.set_up(self, self._registrations.registrar)

    def register_state(self, name: str, factory: Callable[[], Any], optimizer: Callable | None = None) -> Any:
        """For algorithms with modules and optimizers beside USB's one: as `TrainingInfo.register_state`, made again every cycle.

        To be called in the algorithm's constructor, after USB's.
        """
        return self._registrations.register(OWN, name, factory, optimizer)

    def registered(self) -> dict[str, dict[str, Registered]]:
        """What plugins (by role) and the algorithm itself registered for this cycle's training, by name."""
        return self._registrations.by_role()

    # ------------------------------------------------------------------------------------------ what USB's constructor asks for
    def set_dataset(self) -> dict[str, Any]:
        """The pool's labelled and unlabelled streams, the test set, and the labels held out for validation."""
        dataset, split = self.session.inputs, self.split
        draw = DRAWS[self.session.config.active.views]
        self._loaders = CycleLoaders(self.base_name, dataset, split, declared_views(self), self.session.seed, self.cycle, draw)
        self.args.lb_dest_len, self.args.ulb_dest_len = len(split.labeled), len(split.unlabeled)
        return self._loaders.rows

    def set_data_loader(self) -> dict[str, DataLoader]:
        """Loaders whose batches depend on their position alone and that start at the iteration reached."""
        own = self.make_sampler if overrides(self, "make_sampler") else None
        on_device = self.device if self.session.config.active.views_on == "device" else None
        # On a GPU one thread may be too few (docs/faster.md).
        left_out = "num_workers" in self.session.config.left_out and self.device.type == "cpu"
        return self._loaders.make(self.args, self, own, on_device, partial(self._say_of_views, "views_on"), left_out)

    def set_model(self) -> torch.nn.Module:
        """The initial weights: the same every cycle, pretrained if there is a pretrainer; carried on under `warm_start`."""
        existing = vars(self).get("model")
        if existing is not None and self.session.continues_weights():
            return existing
        # USB's builder is what algorithms that wrap the network (remixmatch, simmatch) call in the end.
        self.net_builder = lambda **options: build_network(self.session.weights.build, self.session.config)
        model = super().set_model()
        return model if existing is None else load_into(existing, model)

    def set_ema_model(self) -> torch.nn.Module:
        existing = vars(self).get("ema_model")
        if existing is None:
            return copy.deepcopy(self.model)
        return existing if self.session.continues_weights() else load_into(existing, self.model)

    def set_optimizer(self) -> tuple[torch.optim.Optimizer, Any]:
        """The algorithm's own optimizer and schedule (USB's cosine, unless it has another), or a constant rate after the warm-up."""
        optimizer, scheduler = super().set_optimizer()
        if self.session.config.active.schedule == "cosine":
            return optimizer, scheduler
        return optimizer, constant_after_warmup(optimizer, self.args.num_warmup_iter)

    def set_hooks(self) -> None:
        super().set_hooks()
        self._progress = ProgressHook(self.session.progress_title(self.cycle))
        self._plugin_hooks.check_fields(self.base_name, self._fields, mixes(type(self)))
        register_hooks(self, self._plugin_hooks.by_role, self._registrations.own, self._progress)

    # ------------------------------------------------------------------------------------------ one step
    def process_batch(self, input_args: list[str] | None = None, **batch: Any) -> dict[str, Any]:
        self._loaded = self._loaders.with_dataset_idx(batch)
        return super().process_batch(input_args, **batch)

    def train_step(self, **inputs: Any) -> tuple[dict, dict]:
        """USB's step, seeded by its position, seen by the observers, with the prior in its predictions."""
        seed_globals(self.session.seed, self.cycle, "step", self.it, self.rank)
        self.prior_seam.open(self.it, self._loaded.get("idx_ulb"), self.device)
        self._capture.open(inputs)
        try:
            with network_named(self.session.config, self.model), in_force(self.model, not self._why_uncompiled):
                out_dict, log_dict = super().train_step(**inputs)
            self._divergence.see(out_dict.get("loss"), self.it + 1)
            batch = None
            if self._plugin_hooks.want_batches:
                batch = self._capture.batch(self.cycle, self.it, self._loaded, inputs, out_dict.get("feat"), self.unused_fields)
        finally:
            self._capture.close()
            self.prior_seam.close()
        if batch is not None and self._plugin_hooks.show(self, batch, out_dict, log_dict):
            self._divergence.see(out_dict.get("loss"), self.it + 1)
        self._log_prior(log_dict)
        return out_dict, log_dict

    def _log_prior(self, log_dict: dict) -> None:
        """Every `num_log_iter` steps and at the last: the share of pseudo-labels that the prior changed since."""
        done = self.it + 1
        if not self.session.guidance.exists or (done % self.num_log_iter and done < self.num_train_iter):
            return
        share = self.session.guidance.log_interval(done)
        if share is not None:
            log_dict["train/prior_changed"] = share

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

    def settle_ema(self) -> None:
        """Before an evaluation, and so before checkpoints, selection and predictions: `batch_norm: recomputed`.

        The next step's EMA copies the live network's statistics over these, so that the training does not depend on them.
        """
        if self.session.config.active.batch_norm == "recomputed" and (names := trained_layers(self.model)):
            recompute(self.ema_model, names, map(self.to_device, self._loaders.statistics(self.args)))

    def evaluate(self, eval_dest: str = "eval", out_key: str = "logits", return_logits: bool = False) -> dict[str, Any]:
        """Scores of the EMA model (USB's names). The live weights are not touched."""
        return self.score(self.ema_model, eval_dest, out_key, return_logits)

    def score(self, model: torch.nn.Module, split: str, out_key: str = "logits", return_logits: bool = False) -> dict[str, Any]:
        """Scores of a model on the split ("eval", "validation"). UsageError when its logits are not finite."""
        return self._scores.score(model, self.loader_dict[split], split, out_key, return_logits)

    def score_live(self, scores: Mapping[str, float]) -> dict[str, float]:
        """Score the live network too: on the test set, else on held-out labels, else, with the EMA model, on the labels trained on.

        Args:
            scores: those of the EMA model, by USB's names.

        Returns:
            The live network's, for logs ("live_eval/top-1-acc").
        """
        split = next((split for split in ("eval", "validation") if split in self.loader_dict), "labeled")
        batches = self._loaders.labeled(self.args) if split == "labeled" else self.loader_dict[split]
        return self._scores.compare(self.ema_model, self.model if self._differs_from_live() else None, batches, split, scores)

    def _differs_from_live(self) -> bool:
        """Whether the EMA model is another network than the live one: USB's EMA with `ema_m: 0` is a copy."""
        return self.ema_m != 0 or self.session.config.active.batch_norm == "recomputed"

    @property
    def live_scores(self) -> LiveScores | None:
        """Both networks' scores at the last evaluation of this cycle's training; None before one."""
        return self._scores.live

    @property
    def evaluation(self) -> dict[str, float]:
        """The last scores of this cycle's training, by USB's names; empty when nothing was evaluated, so that there is no best either."""
        return self._scores.last

    @property
    def elapsed(self) -> float:
        """Seconds of this cycle's training."""
        return self._stopwatch.seconds

    @property
    def cpu_elapsed(self) -> float | None:
        """CPU seconds of this cycle's training; None where it was begun by a version that did not count them."""
        return self._stopwatch.cpu_seconds

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
        return {**super().get_save_dict(), **self._checkpoints.beside_usb(self)}

    def save_model(self, save_name: str, save_path: str | Path) -> None:
        """Atomically: a crash leaves the old checkpoint or the new one.

        Only a cycle's. USB's train.py saves once more when all is over, from a process that may have had nothing to train.
        """
        if Path(save_path) != self.session.run_dir.path:
            write_checkpoint(Path(save_path) / save_name, self.get_save_dict())

    def load_model(self, load_path: str) -> dict[str, Any]:
        """Resume from a checkpoint of this cycle. (A run finds its own; USB's train.py need not name one.)"""
        return self._checkpoints.load(self, Path(load_path))

    def log_record(self, record: Mapping[str, Any]) -> None:
        """A finished training's scores into TensorBoard, over the number of labels."""
        self._run_log.add(record)

    # ------------------------------------------------------------------------------------------ training
    def train(self) -> None:
        """The whole experiment: cycles of train, select, label."""
        self.results_dict = self.session.run()

    def _say_why_uncompiled(self) -> None:
        """Once in a process, and where the reason has changed since the last cycle."""
        why, said = self._why_uncompiled, vars(self).get("_said_why_uncompiled", "")
        if self.session.config.active.compile and why and why != said:
            logger.warning("active.compile: steps are not compiled, because %s", why)
        self._said_why_uncompiled = why

    def _say_once(self, level: int, line: str) -> None:
        """In a process."""
        said = vars(self).setdefault("_said", set())
        if line not in said:
            logger.log(level, "%s", line)
        said.add(line)

    def _say_of_views(self, key: str, why: str) -> None:
        """That some batches have not what a key of the block asks for."""
        value, instead = _FOR_BATCHES[key]
        self._say_once(logging.WARNING, f"active.{key}: {value}: {why}; {instead}")

    def _say_views_one_by_one(self) -> None:
        """That they are, where they are; a warning where a key of the block asks for others."""
        active = self.session.config.active
        asked = [key for key, (value, _) in _FOR_BATCHES.items() if getattr(active, key) == value]
        for why in self._loaders.why_one_by_one() if active.train_on == "images" else ():
            for key in asked:
                self._say_of_views(key, why)
            if not asked:
                self._say_once(logging.INFO, f"{why}; such views are made one by one, which is slower")

    def fit(self) -> None:
        """One cycle's training, by USB's own `train()`, from the iteration reached to the last."""
        self._say_why_uncompiled()
        self._say_views_one_by_one()
        # USB stores epoch + 1, with which a run resumed in the middle of an epoch would train nothing.
        done = self.it >= self.num_train_iter
        self.start_epoch = self.epochs if done else min(self.it // self.num_iter_per_epoch, self.epochs - 1)
        self.epoch = self.start_epoch
        # Tells EMAHook to take its shadow from ema_model.
        self.resume = self.it > 0 or self.session.continues_weights()
        self._stopwatch.start()
        try:
            super().train()
        except Exception:
            # A plugin or the algorithm itself may be the first that cannot continue: why, is said all the same.
            self.check_divergence(thoroughly=True)
            raise
        finally:
            self._progress.close()
            self._loaders.stop_workers()
        self._stopwatch.stop()
