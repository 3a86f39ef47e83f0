"""Algorithm 2: the warm-up of autoencoder and encoder without labels, as a pretrainer."""

from __future__ import annotations

import logging
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import nn
from usb_active.plugins.assal.functional import (
    BETA,
    Coded,
    active_dims,
    check_weights,
    classifier_loss,
    gaussian_kl,
    representation_loss,
    rotated,
    sample_code,
    weighted_loss,
)
from usb_active.plugins.assal.networks import ROTATIONS

from usb_active import Dataset, EpochTraining, PluginConfig, Pretrained, Pretrainer, UsageError, free_key, generator
from usb_active.builtin.label_file import read_known_labels
from usb_active.errors import name_some
from usb_active.pool.inference import PoolRows, view_loader
from usb_active.randomness import position_seed

logger = logging.getLogger("usb_active")


class WarmUpConfig(PluginConfig):
    """Keys. The draft names T, λ'1, λ'2 and α'1 and gives no value: all of them are ours.

    Attributes:
        epochs: over the pool.
        iterations: T, steps, in place of epochs.
        batch_size: at most so many; the batches of an epoch are of equal size but for one sample.
        lr: α'1, of Adam.
        lambda1: λ'1, of the autoencoder's bound (Eq. 1).
        lambda2: λ'2, of the rotations (Eq. 7).
        beta: weight of the KL in Eq. 7; 1 as printed, with which the code collapses (`functional.classifier_loss`).
        scale: standard deviation of a pixel given its code.
        target: h of Eq. 7, "rotation".
        labeled: a CSV of labels that exist already, as `initial: {name: file, …}` takes it: which samples are X_L. Without it none are.
        num_workers: processes that load images.
    """

    epochs: int = Field(100, ge=1)
    iterations: int | None = Field(None, ge=1)
    batch_size: int = Field(128, ge=2)
    lr: float = Field(0.001, gt=0, allow_inf_nan=False)
    lambda1: float = Field(0.01, ge=0, allow_inf_nan=False)
    lambda2: float = Field(1.0, ge=0, allow_inf_nan=False)
    beta: float = Field(BETA, ge=0, allow_inf_nan=False)
    scale: float = Field(1.0, gt=0, allow_inf_nan=False)
    target: str = "rotation"
    labeled: Path | None = None
    num_workers: int = free_key(0, ge=0)

    @field_validator("target")
    @classmethod
    def _rotation_alone(cls, target: str) -> str:
        if target != "rotation":
            reason = " (before any label the classifier has learned nothing that a pseudo-label could tell)" * (target == "pseudo_label")
            raise ValueError(f"{target!r}; the warm-up's target is rotation{reason}")
        return target

    @model_validator(mode="after")
    def _something_to_learn(self) -> WarmUpConfig:
        if self.iterations is not None and "epochs" in self.model_fields_set:
            raise ValueError("epochs and iterations: give one of them")
        check_weights(self.weights)
        return self

    @property
    def weights(self) -> dict[str, float]:
        """λ'1 and λ'2 of Eq. 8."""
        return {"lambda1": self.lambda1, "lambda2": self.lambda2}


class WarmUp(Pretrainer):
    """ASSAL, Algorithm 2: encoder, generator and head of rotations trained on Eq. 8, before anything is queried.

    Every step takes samples of X_L ∪ X_U in the weak view. Eq. 1 is of the images as they are, a mean for each pool: where a batch has none
    of X_L, as always at a cold start, that term is absent. Eq. 7 is of the same images, turned by 0 to 3 quarter turns that the head of
    rotations is to tell, one mean over both pools. Labels are not looked at; the classifier is not trained, and every cycle begins
    with a new one. Signs as in `functional`. Adam, ours, with a constant rate.

    What is left is the network's weights: with `features: pretrain`, μ of the eval view.

    `scratch/assal.jsonl` has a line for each epoch: the terms, loss (Eq. 8), kl of a sample, spread and active_dims of μ within a batch
    as in training, rotation_accuracy on the sampled code, collapsed. A killed run resumes after the last whole epoch and, on the CPU, ends
    with the same bits.
    """

    Config: ClassVar[type[WarmUpConfig]] = WarmUpConfig
    needs_network: ClassVar[tuple[str, ...]] = ("encode", "decode", "rotation")

    def run(
        self, build_net: Callable[[], nn.Module], dataset: Dataset, scratch: Path, rng: np.random.Generator, device: torch.device
    ) -> Pretrained:
        path, labeled = self.config.labeled, np.empty(0, dtype=np.int64)
        if path is not None:
            labeled = np.sort(np.array(list(read_known_labels(path, dataset.keys, dataset.task)), dtype=np.int64))
        training = WarmUpTraining(self.config, build_net().to(device), dataset, labeled, int(rng.integers(2**31)), device)
        return training.run(scratch)


class WarmUpTraining(EpochTraining):
    """The epochs of the warm-up.

    Args:
        config: keys.
        net: with `encode`, `decode` and `rotation`, on the device.
        dataset: X_L ∪ X_U.
        labeled: (L,) dataset indices of X_L.
        seed: of all that is drawn.
        device: of the network.
    """

    def __init__(
        self, config: WarmUpConfig, net: nn.Module, dataset: Dataset, labeled: np.ndarray, seed: int, device: torch.device
    ):
        self.steps = math.ceil(len(dataset) / config.batch_size)
        self.last = config.iterations or config.epochs * self.steps
        # By what it holds: the file may have moved when a run is resumed.
        pools = f"{len(labeled)} labelled" + (f" ({zlib.crc32(labeled.tobytes()):08x})" if len(labeled) else "")
        keys = config.model_copy(update={"epochs": math.ceil(self.last / self.steps), "labeled": None})
        super().__init__("assal", keys, net, dataset, seed, device, pools=pools)
        self.optimizer = torch.optim.Adam(net.parameters(), config.lr)
        self._is_labeled = torch.zeros(len(dataset), dtype=torch.bool)
        self._is_labeled[torch.from_numpy(labeled)] = True

    def train(self, scratch: Path) -> None:
        self._scratch = scratch
        super().train(scratch)

    def train_epoch(self) -> dict[str, Any]:
        self.net.train()
        means: dict[str, float] = {}
        variance = torch.zeros((), device=self.device)
        batches = self._batches()
        seen = sum(len(rows) for _, rows in batches)
        for number, batch in enumerate(self._loader(batches)):
            found, of_batch = self._step(number, self._images(batch), self._is_labeled[batch["idx"]].to(self.device))
            share = len(batch["idx"]) / seen
            for name, value in found.items():
                means[name] = means.get(name, 0.0) + share * value
            variance = variance + share * of_batch
        line = {**means, "spread": variance.sqrt().mean().item(), "active_dims": active_dims(variance)}
        return {**line, "collapsed": self._collapsed(line)}

    def _batches(self) -> list[tuple[int, np.ndarray]]:
        order = generator(self.seed, *self.position, "order").permutation(len(self.dataset))
        return list(enumerate(np.array_split(order, self.steps)))[: self.last - self.epoch * self.steps]

    def _loader(self, batches: list[tuple[int, np.ndarray]]) -> Iterator[dict[str, torch.Tensor]]:
        rows = PoolRows(self.dataset, np.arange(len(self.dataset)), "weak", 1, self.seed, self.position)
        return iter(view_loader(rows, batches, self.config.num_workers))

    def _images(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        x = batch["x"][0]
        bad = ~torch.isfinite(x).flatten(1).all(dim=1)
        if bad.any():
            raise UsageError(f"{self.who}: images are not finite for samples {name_some(batch['idx'][bad].tolist())}")
        return x.to(self.device)

    def _step(self, number: int, x: torch.Tensor, is_labeled: torch.Tensor) -> tuple[dict[str, float], torch.Tensor]:
        """What is logged of a step on images (B, channels, S, S), and the variances (d,) of μ."""
        # Drawn on the CPU: the same on every device.
        draws = torch.Generator().manual_seed(position_seed(self.seed, *self.position, "step", number))
        turns = torch.randint(ROTATIONS, (len(x),), generator=draws).to(self.device)
        turn = self.config.lambda2 > 0
        mu, log_var = self.net.encode(torch.cat([x, rotated(x, turns)]) if turn else x)
        z = sample_code(mu, log_var, torch.randn(mu.shape, generator=draws).to(self.device))
        own, of_turned = slice(0, len(x)), slice(len(x), None)
        terms, found = {}, {}
        if self.config.lambda1 > 0:
            parts = x, self.net.decode(z[own]), mu[own], log_var[own]
            pools = [Coded(*(part[mask] for part in parts)) for mask in (is_labeled, ~is_labeled)]
            terms["lambda1"] = representation_loss(*pools, scale=self.config.scale)
        if turn:
            logits = self.net.rotation(z[of_turned])
            terms["lambda2"] = classifier_loss(logits, turns, mu[of_turned], log_var[of_turned], self.config.beta)
            found["rotation_accuracy"] = (logits.argmax(dim=1) == turns).float().mean().item()
        values = {_TERMS[name]: self._finite_term(_TERMS[name], term.item(), number) for name, term in terms.items()}
        loss = weighted_loss(self.config.weights, terms)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        kl = gaussian_kl(mu[own].detach(), log_var[own].detach()).mean().item()
        return {"loss": loss.item(), **values, "kl": kl, **found}, mu[own].detach().var(dim=0, correction=0)

    def _finite_term(self, name: str, value: float, number: int) -> float:
        if not math.isfinite(value):
            kept = f"the last checkpoint is {self._scratch / f'{self.name}.pth'}" if self.epoch else "there is no checkpoint of it yet"
            step = f"step {self.epoch * self.steps + number + 1} of {self.last}"
            hint = f"a smaller lr than {self.config.lr:g}, under another save_name, may help"
            raise UsageError(f"{self.who}: {step}: the term '{name}' is not finite ({value}); {kept}; {hint}")
        return value

    def _collapsed(self, line: Mapping[str, Any]) -> bool:
        """Whether no dimension of the code is in use late in training; it is warned of once."""
        # What a network begins with is no collapse.
        collapsed = line["active_dims"] == 0 and self.epoch + 1 >= self.config.epochs / 2
        if collapsed and not any(before["collapsed"] for before in self.log):
            where = f"{self.who}: epoch {self.epoch + 1} of {self.config.epochs}"
            cure = "a smaller beta or lambda1, or a smaller scale, may help"
            found = f"spread {line['spread']:.3g}, KL {line['kl']:.3g}"
            logger.warning(f"{where}: the code has collapsed ({found}): it is the same for all images; {cure}")
        return collapsed

    def report(self, line: Mapping[str, Any]) -> None:
        turned = f", rotations told {line['rotation_accuracy']:.1%}" if "rotation_accuracy" in line else ""
        code = f"KL {line['kl']:.2f}, {line['active_dims']} active dimensions"
        logger.info(f"{self.name}: epoch {line['epoch']} of {self.config.epochs}: loss {line['loss']:.4f}, {code}{turned}")


_TERMS = {"lambda1": "representation_loss", "lambda2": "rotation_loss"}
