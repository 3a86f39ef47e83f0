"""VAAL and SRAAL as acquisitions. The arithmetic is in `adversaries`."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar, NoReturn

import numpy as np
import torch
from pydantic import Field
from usb_active.plugins.assal import adversaries
from usb_active.plugins.assal.adversaries import Pair, SamplerPair, SraalPair, VaalPair, Weights
from usb_active.plugins.assal.analysis_functional import labeled_probability
from usb_active.plugins.assal.learning import CHANCE
from usb_active.plugins.assal.networks import Discriminator, UnifiedVae, Vae, check_side
from usb_active.plugins.assal.selection import choose, keep_epochs

from usb_active import Acquisition, EpochTraining, PluginConfig, PoolView, UsageError, generator
from usb_active.errors import name_some
from usb_active.randomness import position_seed, seeded_globals

logger = logging.getLogger("usb_active")

# Standard deviation of the candidates' states up to which SRAAL's discriminator is said to give all of them the same.
_SAME_STATE = 0.01
# Bytes of images that may be kept in memory for all passes of a training: CIFAR's 50,000 are 614 million.
MOST_KEPT = 2**30


class VaalConfig(PluginConfig):
    """Keys of `vaal`; the defaults are those of VAAL's public code for CIFAR, but for `width` and the weights' scale (`Weights`).

    Attributes:
        epochs: passes over the unlabelled pool. The code's 100 are of 50,000 images in batches of 128 for every update of the
            discriminator, with two batches each: 250 passes over the 40,000 that are unlabelled at first.
        batch_size: of each pool; of the labelled at most as many as there are.
        lr: of both Adams.
        latent: length of the code.
        width: channels of the autoencoder at the image's own size; they double with every halving of it.
        beta: the KL's weight.
        adversary: the weight of the autoencoder's adversarial term.
        vae_steps: updates of the autoencoder for one of the discriminator.
        hidden: units of each of the discriminator's hidden layers.
        layers: how many hidden layers it has.
    """

    epochs: int = Field(100, ge=1)
    batch_size: int = Field(128, ge=1)
    lr: float = Field(5e-4, gt=0, allow_inf_nan=False)
    latent: int = Field(32, ge=1, le=65536)
    width: int = Field(32, ge=1, le=4096)
    beta: float = Field(Weights.beta, ge=0, allow_inf_nan=False)
    adversary: float = Field(Weights.adversary, ge=0, allow_inf_nan=False)
    vae_steps: int = Field(2, ge=1)
    hidden: int = Field(512, ge=1, le=65536)
    layers: int = Field(2, ge=0, le=64)


class SraalConfig(VaalConfig):
    """Keys of `sraal`: those of `vaal`, and the classifier's. The defaults of batch, code and layers are SRAAL's for CIFAR-100.

    Attributes:
        batch_size: of each pool; of the labelled at most as many as there are.
        latent: length of each of the two codes; 200 in all there.
        layers: how many hidden layers the discriminator has.
        target: weight of the classifier's term.
        target_beta: weight of the KL of the code that the classifier sees. With 1 the best code is the empty one (see
            `functional.classifier_loss`).
    """

    batch_size: int = Field(250, ge=1)
    latent: int = Field(100, ge=1, le=65536)
    layers: int = Field(4, ge=0, le=64)
    target: float = Field(Weights.target, ge=0, allow_inf_nan=False)
    target_beta: float = Field(Weights.target_beta, ge=0, allow_inf_nan=False)


class Vaal(Acquisition):
    """VAAL (Sinha et al. 2019): the candidates that a discriminator takes least for labelled, by the code of a variational autoencoder.

    In every `select` a β-VAE learns to reconstruct both pools, and to have both taken for labelled; the discriminator, with an optimizer of
    its own, learns to tell them apart by μ. It does not look at the task model, nor at labels, but it needs labelled samples.

    Trained inside `select`, not beside the task model by `extra_loss`: it shares nothing with the task model, so that it would change that
    training's batches for no gain, and each algorithm's views with it. In VAAL too it is a network apart. A killed `select` resumes after
    the last whole epoch of its training, and ends with the same picks.

    As in VAAL's code: the discriminator sees μ, not a sample; after every second batch of the autoencoder it learns from that batch,
    encoded again; both are made anew in every cycle.

    Ours: our convolutional networks with group norm, in place of one whose batch norm also scores by the statistics of the batch; images
    as the data set's eval view has them, where the code mirrors at random, when it scores too; the likelihood is Gaussian with unit
    variance, summed over pixels (see `Weights`); unlabelled samples that cannot be queried are learned from too; ties are broken at
    random.
    """

    Config: ClassVar[type[VaalConfig]] = VaalConfig

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"labels"})

    def check(self, num_samples: int, num_classes: int, *, img_size: int | None = None) -> None:
        """Refuses images that its autoencoder cannot take."""
        check_side(img_size)

    def select(self, view: PoolView, budget: int) -> np.ndarray:
        if not len(view.labeled):
            raise UsageError(f"acquisition '{self.name}': no sample is labelled, and it tells labelled from unlabelled ones; "
                             "begin with another acquisition in `initial`, such as random or coreset")  # fmt: skip
        training = self._training(view)
        training.train(view.scratch)
        keep_epochs(view, self.name, [line["balanced_accuracy"] for line in training.log])
        logits = training.scores(view.candidates)
        states = labeled_probability(logits)
        picks = choose(view, budget, -logits, self.name, {"labeled_probability": states})
        self._log_discriminator(view, training.log[-1], states)
        return picks

    def _training(self, view: PoolView) -> SamplerTraining:
        return SamplerTraining(self.name, self.config, view)

    def _log_discriminator(self, view: PoolView, line: Mapping[str, Any], states: np.ndarray) -> None:
        """Its last epoch; and a warning where picks by it are nearly random."""
        view.log(f"{self.name}/balanced_accuracy", line["balanced_accuracy"])
        view.log(f"{self.name}/discriminator_loss", line["discriminator"])
        if problem := self._at_chance(line["balanced_accuracy"], states):
            smaller = f"a smaller adversary than {self.config.adversary:g}, or " if self.config.adversary else ""
            cure = f"try {smaller}more epochs than {self.config.epochs}"
            logger.warning(f"acquisition '{self.name}': {problem}, so that picks are nearly random; {cure}")

    def _at_chance(self, accuracy: float, states: np.ndarray) -> str:
        """The problem with a discriminator of this balanced accuracy and these states (P,) of the candidates; "" where there is none."""
        if accuracy >= CHANCE:
            return ""
        return f"the discriminator tells labelled from unlabelled samples little better than by chance (balanced accuracy {accuracy:.2f})"


class Sraal(Vaal):
    """SRAAL (Zhang et al. 2020): VAAL's sampler, which also knows labels and how uncertain the task model is. The lowest states are picked.

    Unified representation: two codes on one encoder, one that the image is reconstructed from, one that a classifier of the labelled
    samples learns; the discriminator sees the means of both. State relabelling: an unlabelled sample's target is 1 less the uncertainty of
    the task model's prediction (`adversaries.online_uncertainty`), a labelled one's is 1. As in the authors' code, the task model is a
    network apart, trained before, whose predictions do not change while the sampler learns.

    Ours: that task model is the run's own (EMA weights); both pools are drawn to labelled (`SraalPair`); the classifier is linear, where
    the code has two hidden layers; the KL of its code weighs `target_beta`, and is of the labelled alone; the learning rate is constant,
    where the code's ends below a hundredth of it; and what is ours in `vaal`.
    """

    Config: ClassVar[type[VaalConfig]] = SraalConfig

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"labels", "probs"})

    def _training(self, view: PoolView) -> SamplerTraining:
        return SraalTraining(self.name, self.config, view)

    def _at_chance(self, accuracy: float, states: np.ndarray) -> str:
        # Balanced accuracy says little here: samples that the task model is certain of are to count as labelled.
        if len(states) < 2 or states.std() > _SAME_STATE:
            return ""
        return f"the discriminator gives all candidates the same state (standard deviation {states.std():.4f})"


class SamplerTraining(EpochTraining):
    """VAAL's training: a pass over the unlabelled pool is an epoch.

    Args:
        name: the acquisition's.
        config: its keys.
        view: the pool.
    """

    part_of = "acquisition"
    # The view of the images, the same for both pools.
    transform: ClassVar[str] = "eval"

    def __init__(self, name: str, config: PluginConfig, view: PoolView):
        seed, self.view = int(view.rng.integers(2**31)), view.of_images()
        # Made on the CPU: the same on every device.
        with seeded_globals(seed, name, "networks"):
            self.pair = self.make_pair(config)
        super().__init__(name, config, self.pair.vae, view.dataset, seed, view.device, labelled=len(view.labeled))
        self.optimizer = self.pair.optimizer

    def make_pair(self, config: Any) -> SamplerPair:
        """The networks on the device."""
        data, device = self.view.dataset, self.view.device
        vae = Vae(data.img_size, data.in_channels, config.latent, config.width)
        return VaalPair(vae.to(device), Discriminator(config.latent, config.hidden, config.layers).to(device), config.lr, _weights(config))

    def make_batch(self, labeled: Mapping[str, Any], unlabeled: Mapping[str, Any]) -> Pair:
        """A pair of the two loaders' batches."""
        return Pair(self._images(labeled), self._images(unlabeled))

    def _images(self, batch: Mapping[str, Any]) -> torch.Tensor:
        x = batch["x"][0]
        bad = ~torch.isfinite(x).flatten(1).all(dim=1)
        if bad.any():
            raise UsageError(f"{self.who}: images are not finite for samples {name_some(sorted(batch['idx'][bad].tolist()))}")
        return x.to(self.device)

    def _pairs(self, batches: int) -> Iterator[Pair]:
        view, size = self.view, self.config.batch_size
        orders = [generator(self.seed, *self.position, pool) for pool in ("labelled", "unlabelled")]
        labeled = adversaries.labeled_order(view.labeled, batches, size, orders[0])
        unlabeled = orders[1].permutation(view.unlabeled)
        both = (self._batches(labeled, min(size, len(view.labeled)), 0), self._batches(unlabeled, size, 1))
        for pair in zip(*both, strict=True):
            yield self.make_batch(*pair)

    def _batches(self, idx: np.ndarray, size: int, number: int) -> Iterator[Mapping[str, Any]]:
        """Batches as the view's loader gives them. Where views are random, the passes over pool 0 and pool 1 draw different ones."""
        if self._kept is None:
            yield from self.view.loader(idx, self.transform, size, epoch=2 * self.epoch + number)
            return
        known, images = self._kept
        for start in range(0, len(idx), size):
            rows = idx[start : start + size]
            yield {"idx": torch.from_numpy(rows), "x": images[torch.from_numpy(np.searchsorted(known, rows))][None]}

    @cached_property
    def _kept(self) -> tuple[np.ndarray, torch.Tensor] | None:
        """(M,) indices of both pools, and their images (M, channels, S, S): the eval view is the same in every pass.

        None where they take more than `MOST_KEPT`, or where the view is another: then every pass loads them again.
        """
        if self.transform != "eval":
            return None
        known, data = np.union1d(self.view.labeled, self.view.unlabeled), self.view.dataset
        if 4 * len(known) * data.in_channels * data.img_size**2 > MOST_KEPT:
            return None
        images, done = torch.empty(0), 0
        for batch in self.view.loader(known):
            x = batch["x"][0]
            # One copy, and not two for a moment, as it would be with `cat`.
            images = images if done else x.new_empty(len(known), *x.shape[1:])
            images[done : done + len(x)] = x
            done += len(x)
        return known, images

    def train_epoch(self) -> dict[str, Any]:
        batches = math.ceil(len(self.view.unlabeled) / self.config.batch_size)
        steps = adversaries.train_pass(self.pair, self._pairs(batches), batches, self.config.vae_steps, self._noise)
        line = self._means(steps)
        return {"loss": sum(value for name, value in line.items() if name not in ("discriminator", "balanced_accuracy")), **line}

    def _noise(self, number: int) -> torch.Generator:
        return torch.Generator().manual_seed(position_seed(self.seed, *self.position, "noise", number))

    def _means(self, steps: list[dict[str, torch.Tensor]]) -> dict[str, float]:
        """The mean of each term over the steps that have it. The device is waited for once per term, not in every step."""
        means, bad = {}, []
        for name in dict.fromkeys(name for terms in steps for name in terms):
            numbers = [number for number, terms in enumerate(steps) if name in terms]
            values = torch.stack([steps[number][name] for number in numbers]).tolist()
            bad += [(number, name, value) for number, value in zip(numbers, values, strict=True) if not math.isfinite(value)]
            means[name] = float(np.mean(values))
        if bad:
            number, name, value = min(bad, key=lambda one: one[0])
            self.refuse_step(f"the term '{name}' is {value}", number)
        return means

    def refuse_step(self, problem: str, number: int) -> NoReturn:
        """UsageError: the problem, that it was in step `number` (from 0) of this epoch, and what is kept."""
        kept = f"the last whole epoch is in {self.view.scratch / f'{self.name}.pth'}" if self.epoch else "no epoch was complete"
        raise UsageError(
            f"{self.who}: {problem} in step {number + 1} of epoch {self.epoch + 1}; a smaller lr than "
            f"{self.config.lr:g} may help (under another save_name: a run keeps its configuration); {kept}"
        )

    def scores(self, idx: np.ndarray) -> np.ndarray:
        """(P,) logits of P(labelled) of the samples `idx`."""
        return np.concatenate([self.pair.score(self._images(batch)).cpu().numpy() for batch in self.view.loader(idx)])

    def own_state(self) -> dict[str, Any]:
        pair = self.pair
        return {"discriminator": pair.discriminator.state_dict(), "discriminator_optimizer": pair.discriminator_optimizer.state_dict()}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        self.pair.discriminator.load_state_dict(state["discriminator"])
        self.pair.discriminator_optimizer.load_state_dict(state["discriminator_optimizer"])

    def report(self, line: Mapping[str, Any]) -> None:
        where = f"{self.name}: epoch {line['epoch']} of {self.config.epochs}"
        logger.info(f"{where}: loss {line['loss']:.4f}, balanced accuracy of the discriminator {line['balanced_accuracy']:.2f}")


class SraalTraining(SamplerTraining):
    """SRAAL's: with the labels, and the task model's uncertainty."""

    def __init__(self, name: str, config: PluginConfig, view: PoolView):
        self._uncertainty = adversaries.online_uncertainty(view.probs).astype(np.float32)
        self._targets = np.full(len(view), -1, dtype=np.int64)
        self._targets[view.labeled] = view.labels
        super().__init__(name, config, view)

    def make_pair(self, config: Any) -> SamplerPair:
        data, device = self.view.dataset, self.view.device
        vae = UnifiedVae(self.view.num_classes, data.img_size, data.in_channels, config.latent, config.width)
        discriminator = Discriminator(2 * config.latent, config.hidden, config.layers)
        return SraalPair(vae.to(device), discriminator.to(device), config.lr, _weights(config))

    def make_batch(self, labeled: Mapping[str, Any], unlabeled: Mapping[str, Any]) -> Pair:
        of_labels = torch.from_numpy(self._targets[labeled["idx"].numpy()]).to(self.device)
        of_task = torch.from_numpy(self._uncertainty[unlabeled["idx"].numpy()]).to(self.device)
        return Pair(self._images(labeled), self._images(unlabeled), of_labels, of_task)


def _weights(config: PluginConfig) -> Weights:
    return Weights(**{key: value for key, value in config.model_dump().items() if key in Weights.__dataclass_fields__})
