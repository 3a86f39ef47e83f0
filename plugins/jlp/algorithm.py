"""SEMI: training on the pseudo-labels of label propagation, made again every epoch (Siméoni et al., Algorithm 1, lines 4–7).

It is an algorithm of USB's kind: `lp` trains in USB's own loop, `active_lp` in cycles.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from itertools import count
from math import ceil, cos, pi
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from usb_active.plugins.jlp.functional import certainty, weighted_order

from usb_active import UsageError, generator, overrides
from usb_active.numerics.arrays import named, nonfinite_rows, unit_rows
from usb_active.numerics.neighbors import affinity
from usb_active.numerics.propagation import WEIGHTINGS, diffuse, label_matrix, left_open, rows_to_probs
from usb_active.pool.inference import evaluating
from usb_active.pool.sampling import Loader, PermutationStream, PositionSampler, SeededRows, TravellingRows, make_loader
from usb_active.usb.bases import AlgorithmBase, Argument, Hook, OwnAlgorithm, get_optimizer, str2bool

logger = logging.getLogger("usb_active")

# The conjugate gradient's relative residual; the paper's authors stop after 20 iterations, far from it.
TOLERANCE = 1e-6
# More neighbours than one in so many of a class reach into others: 50 cost 5 points on digits, whose classes have 134 samples.
WIDE = 4


class LabelPropagation(OwnAlgorithm, AlgorithmBase):
    """Cross-entropy on labelled samples and on samples drawn by the certainty of their propagated labels.

    Of every mini-batch of `batch_size`, `lp_labeled` samples are labelled and the rest are pseudo-labelled, drawn with
    replacement from η[w] (Eq. 10); the loss is the plain mean over both. Before every epoch the features of all samples are
    taken in eval mode without augmentation (ours; the authors leave augmentation on), the graph is built and the labels are
    propagated, from the last epoch's solution. An epoch ends after `lp_epoch` · |U| pseudo-labelled draws. The first
    `lp_supervised_epochs` epochs see labelled samples alone (the paper states no length: a key of ours). With `lp_semi: false`
    all do, an epoch passes once through the labelled samples, and it is the paper's baseline.

    In cycles (`active_lp`), `epoch` is what the YAML says and `num_train_iter` follows from it, L and U. In USB's own loop both
    are the YAML's, and an epoch is their quotient.

    U is the unlabelled stream: `include_lb_to_ulb: false` keeps the labelled samples out of it, as in the paper. In cycles those
    that are in it are never drawn for a pseudo-label; USB's own loop does not know them there.
    A sample that no label reaches is never drawn. When no sample is reached, or none with any certainty, the epoch is supervised.
    With fewer than `lp_k` + 1 samples the graph is complete.

    Two defaults are not the paper's, which its configurations (yaml_configs/jlp) name. `lp_weighting: class` shares a class's weight
    among its labels, where Eq. 8 counts labels (`label`): see `label_matrix`. It is what the authors' public code does, and matters much
    when classes have unequal numbers of labels (docs/jlp.md). `lp_k: 10`, where the paper has 50 neighbours for 50,000 images: in pools
    of a few thousand the 50 nearest reach into other classes, which costs 5 points on digits.
    `lp_inputs` is ours (see `beside_inputs`): the graph is then also, or only, that of the images themselves, in their evaluation view.
    Wrong labels that a network has learned come back from a graph of its features; a graph of the images does not follow it.
    The authors' public code, which the figures probably come from, differs from the text. Its form is
    `lp_weighting: class`, `lp_graph: sum` (A + Aᵀ, reciprocal edges twice), `lp_weighted_loss: true` (the cross-entropy of a pseudo-label
    times w / max w), `lp_replacement: false` (an epoch draws every sample once at most, as long as there are others),
    `lp_supervised_epochs: 0` and, without SEMI, `lp_drop_last: true` (a supervised epoch ends before a batch that would be incomplete). Not
    as there: its propagation stops after 20 steps, and its features are taken with augmentation. `yaml_configs/jlp/*_authors.yaml` have
    this form, for every configuration with SEMI and for one without (cifar10_b100_supervised).
    The supervised epochs too have batches of `lp_labeled`. Weight decay is USB's, which leaves out biases and batch norms.
    USB's `uratio`, `ulb_loss_ratio`, `use_cat` and `num_warmup_iter` have no part in it.
    """

    unlabeled_views = {"x_ulb_w": "weak"}
    batch_fields = frozenset({"idx_lb", "x_lb", "y_lb", "idx_ulb", "x_ulb_w", "feats", "hidden"})

    def __init__(self, args: Any, net_builder: Callable, tb_log: Any = None, logger: Any = None, **keywords: Any):
        super().__init__(args, net_builder, tb_log, logger, **keywords)
        wrong = []
        if args.lp_semi and args.lp_labeled >= args.batch_size:
            wrong.append(f"lp_labeled: {args.lp_labeled} of a batch_size of {args.batch_size} leave no place for pseudo-labels")
        if args.lp_semi and args.lp_supervised_epochs >= args.epoch:
            wrong.append(f"lp_supervised_epochs: {args.lp_supervised_epochs}, but there are {args.epoch} epochs in all")
        if args.lp_semi and args.lp_drop_last:
            wrong.append("lp_drop_last: true, which is of an epoch through the labelled samples: lp_semi: false")
        if not args.lp_semi and (args.lp_weighted_loss or not args.lp_replacement):
            wrong.append("lp_weighted_loss: true and lp_replacement: false are of pseudo-labels, and lp_semi is false")
        if wrong:
            raise UsageError("\n".join(wrong))
        if not hasattr(self, "session"):
            # In USB's own loop, whose rows know nothing of `unlabeled_views` and would bring a strong view too.
            self.dataset_dict["train_ulb"].alg = "pseudolabel"
        # Tensors, so that they are in checkpoints: (U,) pseudo-labels and cumulated weights, (L + U, C) the last solution, as a start
        # for the next, in single precision.
        # None: this epoch is supervised.
        self.pseudo_labels: torch.Tensor | None = None
        self.cumulated_weights: torch.Tensor | None = None
        # Without replacement: (epoch, round) and its order of the rows, made again from the weights where need be.
        self._order: tuple[tuple[int, int], np.ndarray] | None = None
        self.solution: torch.Tensor | None = None
        # (L + U, D) what the network sees, read once; nothing that a checkpoint must hold.
        self._inputs: np.ndarray | None = None
        self._labeled_batches = PermutationStream(
            len(self.dataset_dict["train_lb"]), self._labeled_per_batch(), args.seed, self._cycle, "lp", "labeled"
        )

    def _warn_of_two_kinds_of_pseudo_labels(self) -> None:
        asks = self.session.plugins.get("acquisition") if hasattr(self, "session") else None
        if self.args.lp_semi and overrides(asks, "pseudo_labels"):
            logger.warning(f"lp: pseudo-labels of '{asks.name}' join the labelled samples; the paper does not combine them with SEMI")

    def _warn_of_a_wide_graph(self) -> None:
        samples = len(self.dataset_dict["train_lb"]) + len(self.dataset_dict["train_ulb"])
        each = samples // self.num_classes
        if self.args.lp_semi and WIDE * self.args.lp_k > each:
            line = "lp: lp_k: %d neighbours of a sample, where a class has about %d: many are of other classes; %d at most is safer"
            logger.warning(line, self.args.lp_k, each, max(1, each // WIDE))

    @property
    def unused_fields(self) -> tuple[str, ...]:
        """What is loaded, since USB's loop wants a batch of both streams, and not trained on in a supervised epoch."""
        return ("idx_ulb", "x_ulb_w") if self.pseudo_labels is None else ()

    @property
    def _cycle(self) -> int:
        return getattr(self, "cycle", 0)

    def _labeled_per_batch(self) -> int:
        if self.args.lp_semi:
            return self.args.lp_labeled
        # An epoch goes through all of them, so that none is there twice.
        return min(self.args.batch_size, len(self.dataset_dict["train_lb"]))

    def set_hooks(self) -> None:
        super().set_hooks()
        self.register_hook(PropagationHook(), "PropagationHook", "HIGH")

    def set_optimizer(self) -> tuple[torch.optim.Optimizer, Any]:
        """USB's optimizer (SGD with Nesterov momentum), and half a cosine that would be zero at `lp_anneal` times the training."""
        args = self.args
        optimizer = get_optimizer(self.model, args.optim, args.lr, args.momentum, args.weight_decay, args.layer_decay)
        end = args.lp_anneal * self.num_train_iter
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (1 + cos(pi * min(1.0, step / end))) / 2)

    # ------------------------------------------------------------------------------------------ how long, and what of
    def plan(self, pool: Any) -> tuple[int, int]:
        """The cycle's epochs and iterations."""
        args, labeled, unlabeled = self.args, len(self.split.labeled), len(self.split.unlabeled)
        if args.lp_semi:
            per_epoch = ceil(args.lp_epoch * unlabeled / (args.batch_size - args.lp_labeled))
        else:
            batches = labeled / args.batch_size
            per_epoch = max(1, int(batches)) if args.lp_drop_last else ceil(batches)
        return args.epoch, args.epoch * per_epoch

    def make_sampler(self, split: str, epoch: int, start: int) -> Iterator[np.ndarray]:
        """Batches of dataset indices, for the core."""
        idx = self.dataset_dict[f"train_{split}"].idx
        batch = self._batch(split)
        return (idx[batch(number)] for number in count(epoch * self.num_iter_per_epoch + start))

    def _batch(self, split: str) -> Callable[[int], np.ndarray]:
        """Number of a batch of the training → rows of the stream."""
        if split == "lb":
            return self._distinct_batch if self.args.lp_drop_last else self._labeled_batches.batch
        return self.pseudo_labeled_batch

    def _distinct_batch(self, number: int) -> np.ndarray:
        """Rows of the labelled stream; within an epoch none is there twice, and what its last batch leaves over is not carried on."""
        epoch, size = number // self.num_iter_per_epoch, self._labeled_per_batch()
        order = generator(self.args.seed, self._cycle, "lp", "labeled", "epoch", epoch).permutation(len(self.dataset_dict["train_lb"]))
        first = (number - epoch * self.num_iter_per_epoch) * size
        return order[first : first + size]

    def pseudo_labeled_batch(self, number: int) -> np.ndarray:
        """Rows of the unlabelled stream, drawn by weight."""
        if self.cumulated_weights is None:
            # Nothing looks at this one: see `unused_fields`.
            return np.zeros(1, dtype=np.int64)
        # On the CPU from the first; a checkpoint brings it back on the training's device.
        self.cumulated_weights = self.cumulated_weights.cpu()
        cumulated, size = self.cumulated_weights.numpy(), self.args.batch_size - self.args.lp_labeled
        if not self.args.lp_replacement:
            first = self.epoch * self.num_iter_per_epoch
            return self._without_replacement(np.diff(cumulated, prepend=0), (number - first) * size, size)
        draws = generator(self.args.seed, self._cycle, "lp", "pseudo-labeled", number).random(size)
        # To the right, so that a draw of exactly zero does not fall on a row without weight.
        return np.searchsorted(cumulated, draws * cumulated[-1], side="right")

    def _without_replacement(self, weights: np.ndarray, first: int, size: int) -> np.ndarray:
        """Draws `first` … of an epoch. When all rows with a weight have been drawn, another round of them begins."""
        there = int(np.count_nonzero(weights))
        parts = []
        while size:
            number, offset = divmod(first, there)
            if self._order is None or self._order[0] != (self.epoch, number):
                rng = generator(self.args.seed, self._cycle, "lp", "order", self.epoch, number)
                self._order = (self.epoch, number), weighted_order(weights, rng)
            parts.append(self._order[1][offset : offset + size])
            first, size = first + len(parts[-1]), size - len(parts[-1])
        return np.concatenate(parts)

    # ------------------------------------------------------------------------------------------ an epoch
    def begin_epoch(self) -> None:
        """Pseudo-labels and weights from the features as they are now."""
        if not hasattr(self, "session"):
            self._replace_loaders()
        if self._cycle == self.it == 0:
            self._warn_of_two_kinds_of_pseudo_labels()
            self._warn_of_a_wide_graph()
        # A checkpoint in the middle of an epoch holds what the epoch began with.
        if self.it > self.epoch * self.num_iter_per_epoch:
            return
        self.pseudo_labels = self.cumulated_weights = self._order = None
        if self.args.lp_semi and self.epoch >= self.args.lp_supervised_epochs:
            self._propagate()

    def _propagate(self) -> None:
        labeled, unlabeled = self.dataset_dict["train_lb"], self.dataset_dict["train_ulb"]
        args, targets = self.args, np.asarray(labeled.targets)
        features = self._graph_features()
        weights = affinity(features, min(args.lp_k, len(features) - 1), args.lp_gamma, args.lp_graph)
        given = label_matrix(len(features), np.arange(len(targets)), targets, self.num_classes, args.lp_weighting)
        start = None if self.solution is None else self.solution.cpu().numpy()
        solution = diffuse(weights, given, args.lp_alpha, TOLERANCE, start)
        self.solution = torch.from_numpy(solution.astype(np.float32))
        probs = rows_to_probs(solution, left_open(given, args.lp_alpha, TOLERANCE))[len(targets) :]
        certainties = certainty(probs)
        reached = probs.any(axis=1)
        pseudo_labels = np.where(reached, probs.argmax(axis=1), -1)
        self._log(pseudo_labels, reached)
        if hasattr(self, "session"):
            certainties[np.isin(unlabeled.idx, labeled.idx)] = 0
        if certainties.sum() > 0:
            self.pseudo_labels = torch.from_numpy(pseudo_labels).to(self.device)
            self.cumulated_weights = torch.from_numpy(np.cumsum(certainties))
        else:
            logger.warning("lp: no unlabelled sample has a certain label in epoch %d, which is supervised instead", self.epoch)

    def _graph_features(self) -> np.ndarray:
        """(L + U, D) float32, by whose cosines the graph joins samples."""
        streams, share = (self.dataset_dict["train_lb"], self.dataset_dict["train_ulb"]), self.args.lp_inputs
        if share > 0 and self._inputs is None:
            self._inputs = np.concatenate([self._read(stream) for stream in streams])
            self._check_features(self._inputs, "inputs", "lp_inputs: 0 looks at the network's features alone")
        if share == 1:
            return self._inputs
        features = np.concatenate([self._features(stream) for stream in streams])
        self._check_features(features, "features", "a smaller lr may help")
        return beside_inputs(features, self._inputs, share) if share > 0 else features

    def _check_features(self, features: np.ndarray, kind: str, remedy: str) -> None:
        """UsageError that names the samples without a direction, or not finite."""
        for find, what in ((nonfinite_rows, "not finite"), (zero_rows, "all zero, so without a direction,")):
            rows = find(features)
            if not len(rows):
                continue
            of = f"row {rows[0]} of the labelled and unlabelled samples"
            if hasattr(self, "session"):
                idx = np.concatenate([self.dataset_dict[name].idx for name in ("train_lb", "train_ulb")])
                of = named("sample", np.unique(idx[rows]))
            raise UsageError(f"lp: epoch {self.epoch}: {kind}: {what} for {of}; {remedy}")

    def _features(self, stream: Dataset) -> np.ndarray:
        """(rows, D) float32 of the live model: eval mode, no augmentation."""
        with torch.no_grad(), evaluating(self.model):
            return np.concatenate([self.model(x.to(self.device))["feat"].float().cpu().numpy() for x in self._batches(stream)])

    def _read(self, stream: Dataset) -> np.ndarray:
        """(rows, D) float32, what the network is given for evaluation."""
        return np.concatenate([x.flatten(1).float().numpy() for x in self._batches(stream)])

    def _batches(self, stream: Dataset) -> Loader:
        """The rows of a stream in order, without augmentation."""
        rows = EvaluationViews(stream, self._evaluation_view())
        return Loader(rows, self.args.eval_batch_size, num_workers=self.args.num_workers, generator=torch.Generator())

    def _evaluation_view(self) -> Callable[[Any], torch.Tensor]:
        if hasattr(self, "session"):
            return self.session.inputs.views.eval
        transform = self.dataset_dict["eval"].transform
        return _OfArrays(transform)

    def _log(self, labels: np.ndarray, reached: np.ndarray) -> None:
        """The share of samples that labels reach, how many classes they get, and the accuracy where the truth is known."""
        values = {"lp_reached": float(reached.mean()), "lp_classes": float(len(np.unique(labels[reached])))}

        def compare(truth: np.ndarray) -> None:
            known = reached & (truth >= 0)
            if known.any():
                values["lp_accuracy"] = float((labels == truth)[known].mean())

        unlabeled = self.dataset_dict["train_ulb"]
        if hasattr(self, "session"):
            view = self.session.algorithm_view()
            view.audit(lambda truth: compare(truth[unlabeled.idx]))
            for name, value in values.items():
                view.log(name, value)
        elif unlabeled.targets is not None:
            compare(np.asarray(unlabeled.targets))
        self.propagated = values

    def _replace_loaders(self) -> None:
        """In USB's own loop: its loaders draw uniformly, and keep their own count of epochs."""
        for name in ("train_lb", "train_ulb"):
            batch, rows = self._batch(name.partition("_")[2]), self.dataset_dict[name]
            last = (self.epoch + 1) * self.num_iter_per_epoch
            sampler = PositionSampler(batch, lambda: self.it, lambda last=last: last)
            self.loader_dict[name] = make_loader(SeededRows(rows, self.args.seed, "lp", name), sampler, self.args.num_workers, None)

    # ------------------------------------------------------------------------------------------ a step
    def train_step(self, x_lb: torch.Tensor, y_lb: torch.Tensor, idx_ulb: torch.Tensor, x_ulb_w: torch.Tensor) -> tuple[dict, dict]:
        """Mean cross-entropy over the mini-batch, pseudo-labels and labels alike ("Different than [15]", §IV).

        With `lp_weighted_loss` that of a pseudo-label is multiplied by its weight, of which the largest is 1; labels have 1.
        """
        with self.amp_cm():
            if self.pseudo_labels is None:
                outputs, targets = self.model(x_lb), y_lb
            else:
                outputs = self.model(torch.cat([x_lb, x_ulb_w]))
                targets = torch.cat([y_lb, self.pseudo_labels.to(y_lb.device)[idx_ulb]])
            if self.pseudo_labels is not None and self.args.lp_weighted_loss:
                losses = self.ce_loss(outputs["logits"], targets, reduction="none")
                loss = torch.cat([losses[: len(x_lb)], losses[len(x_lb) :] * self._loss_weights(idx_ulb).to(losses)]).mean()
            else:
                loss = self.ce_loss(outputs["logits"], targets, reduction="mean")
        feats = {"x_lb": outputs["feat"][: len(x_lb)]}
        if self.pseudo_labels is not None:
            feats["x_ulb_w"] = outputs["feat"][len(x_lb) :]
        values = {"total_loss": loss.item(), **getattr(self, "propagated", {})}
        return self.process_out_dict(loss=loss, feat=feats), self.process_log_dict(**values)

    def _loss_weights(self, rows: torch.Tensor) -> torch.Tensor:
        """w / max w of these rows (B,) of the unlabelled stream."""
        weights = torch.diff(self.cumulated_weights, prepend=self.cumulated_weights.new_zeros(1))
        return (weights / weights.max())[rows.to(weights.device)]

    @staticmethod
    def get_argument() -> list[Argument]:
        return [
            Argument("--lp_semi", str2bool, True, "train on propagated labels; false: the supervised baseline, epochs over L"),
            Argument("--lp_labeled", int, 50, "labelled samples in a mini-batch", valid="[1, inf)"),
            Argument("--lp_supervised_epochs", int, 10, "epochs before the first propagation", valid="[0, inf)"),
            Argument("--lp_epoch", float, 0.5, "pseudo-labelled draws of an epoch, as a share of U", valid="(0, inf)"),
            Argument("--lp_anneal", float, 1.05, "where the cosine would be zero, in trainings (210 of 200 epochs)", valid="[1, inf)"),
            Argument("--lp_k", int, 10, "neighbours of a sample", valid="[1, inf)", former=50),
            Argument("--lp_gamma", float, 3.0, "exponent of the similarity", valid="(0, inf)"),
            Argument("--lp_graph", str, "mutual", "which neighbours are joined", valid=("mutual", "union", "sum")),
            Argument("--lp_alpha", float, 0.99, "how far labels go", valid="[0, 1)"),
            Argument(
                "--lp_weighting", str, "class", "what counts alike: every label (the paper), or every class", WEIGHTINGS, former="label"
            ),
            Argument(
                "--lp_weighted_loss", str2bool, False, "weigh the loss of pseudo-labels by their certainty (authors' code)", former=False
            ),
            Argument(
                "--lp_replacement", str2bool, True, "draw pseudo-labelled samples with replacement; false: the authors' code", former=True
            ),
            Argument("--lp_drop_last", str2bool, False, "leave out a supervised epoch's incomplete batch (authors' code)", former=False),
            Argument("--lp_inputs", float, 0.0, "share of the images in the similarity; 0: the paper", valid="[0, 1]", former=0.0),
        ]


def beside_inputs(features: np.ndarray, inputs: np.ndarray, share: float) -> np.ndarray:
    """(N, D + E) whose cosines are `share` · that of the inputs (N, E) + (1 − share) · that of the features (N, D).

    Args:
        features: rows of any length but zero.
        inputs: likewise.
        share: in [0, 1].
    """
    parts = ((inputs, share), (features, 1 - share))
    return np.concatenate([np.sqrt(part, dtype=np.float32) * unit_rows(rows) for rows, part in parts], axis=1)


def zero_rows(features: np.ndarray) -> np.ndarray:
    """Rows of (N, D) that are all zero."""
    return np.flatnonzero(~features.any(axis=1))


class PropagationHook(Hook):
    """Begins an epoch of `LabelPropagation`."""

    def before_train_epoch(self, algorithm: LabelPropagation) -> None:
        algorithm.begin_epoch()


class EvaluationViews(TravellingRows):
    """Images of a stream without augmentation."""

    def __init__(self, stream: Any, view: Callable[[Any], torch.Tensor]):
        self.stream, self.view = stream, view

    def __len__(self) -> int:
        return len(self.stream)

    def __getitem__(self, row: int) -> torch.Tensor:
        return self.view(self.stream.__sample__(row)[0])


class _OfArrays:
    """A transform of images, for arrays too."""

    def __init__(self, transform: Callable[[Image.Image], torch.Tensor]):
        self.transform = transform

    def __call__(self, image: Any) -> torch.Tensor:
        return self.transform(Image.fromarray(image) if isinstance(image, np.ndarray) else image)
