"""The network as every cycle starts it: its initial weights, and what pretraining, made once per run, left."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from usb_active.config.shared_pretraining import VARIABLE
from usb_active.contracts.pretrainer import Pretrained, Pretrainer
from usb_active.errors import UsageError, name_some
from usb_active.pool.divergence import check_finite_states
from usb_active.pool.view import check_finite_rows
from usb_active.randomness import generator, global_generators_kept, seeded_globals
from usb_active.storage.artifacts import check_array, load_array, load_artifact, save_artifact
from usb_active.storage.checkpoint import REPEAT_PRETRAINING, Owner, read_checkpoint, write_checkpoint
from usb_active.storage.durable import read_bytes
from usb_active.storage.run_dir import RunDir, make_folder

if TYPE_CHECKING:
    from usb_active.contracts.dataset import Dataset
    from usb_active.contracts.network import Network
    from usb_active.pool.view import ViewSource

logger = logging.getLogger("usb_active")


class InitialWeights:
    """Builds the run's network, the same one every time; pretrains it once, where there is a pretrainer."""

    def __init__(self, network: Network, pretrainer: Pretrainer | None, dataset: Dataset, usb: dict[str, Any], folder: Path):
        self._network, self._pretrainer, self._dataset = network, pretrainer, dataset
        self._seed: int = usb["seed"]
        self._path: str | None = usb["pretrain_path"] if usb["use_pretrain"] else None
        self._folder = folder
        self._made: Pretrained | None = None

    @property
    def is_to_be_pretrained(self) -> bool:
        """Whether `pretrain` will run the pretrainer, as far as can be said before."""
        return self._pretrainer is not None and not (self._folder / "pretrained.pth").exists() and not os.environ.get(VARIABLE)

    def pretrain(self, device: torch.device, run_id: str | None = None) -> None:
        """Run the pretrainer, or take what it made earlier for the run of this number."""
        if self._pretrainer is not None:
            if donor := os.environ.get(VARIABLE):
                take_over(Path(donor), self._folder, Owner(run_id))
            self._made = run_once(
                self._pretrainer, self._fresh, self._classifier_keys, self._dataset, self._folder, self._seed, device, run_id
            )

    def build(self) -> torch.nn.Module:
        """A network with its initial weights."""
        net = self._fresh()
        if self._made is not None and self._made.backbone is not None:
            load_backbone(net, self._made.backbone, self._classifier_keys())
        return net

    def _fresh(self) -> torch.nn.Module:
        return build_seeded(self._network, self._dataset, self._path, self._seed)

    def _classifier_keys(self) -> tuple[str, ...]:
        return classifier_keys(lambda classes: self._network.build(classes, self._dataset.img_size, self._dataset.in_channels))

    def modules(self) -> dict[str, Any]:
        """Further modules' states that the pretrainer left."""
        return {} if self._made is None else dict(self._made.modules)

    def features(self, source: ViewSource) -> np.ndarray | None:
        """(N, D) that the pretrainer made; the backbone's, where it made none or the pool has grown since; or None."""
        if self._made is None:
            return None
        if self._made.features is not None and len(self._made.features) == len(self._dataset):
            return self._made.features
        if self._made.backbone is None:
            return None
        path = self._folder / f"backbone_features_{len(self._dataset)}"
        if load_artifact(path) is None:
            save_artifact(path, backbone_features(self.build(), source))
        return load_artifact(path)


def take_over(donor: Path, folder: Path, owner: Owner) -> None:
    """Copy the pretraining of another run, which would be made again here. It is left where the two pools differ.

    Args:
        donor: the other run's directory, whose configuration has the same pretraining.
        folder: where this run keeps its own; nothing happens where there is one.
        owner: this run.

    Raises:
        UsageError: what is there is damaged, or not that run's own.
    """
    theirs, kept = donor / "pretrain" / "pretrained.pth", folder / "pretrained.pth"
    if kept.exists() or not theirs.exists():
        return
    if read_bytes(donor / "keys.txt") != read_bytes(folder.parent / "keys.txt"):
        logger.warning("the pretraining of %s is of another pool, and is not taken over", donor)
        return
    found = read_checkpoint(theirs, REPEAT_PRETRAINING, parts=("backbone", "modules"))
    Owner(RunDir.read(donor).run_id).check(theirs, found, REPEAT_PRETRAINING)
    features = load_artifact(donor / "pretrain" / "features")
    if features is not None:
        save_artifact(folder / "features", features)
    # Last: what is there is whole.
    write_checkpoint(kept, {"backbone": found["backbone"], "modules": found["modules"], **owner.stamp()})
    logger.info("pretraining: taken over from %s", donor)


def run_once(
    pretrainer: Pretrainer,
    build_net: Callable[[], torch.nn.Module],
    classifier: Callable[[], Collection[str]],
    dataset: Dataset,
    folder: Path,
    seed: int,
    device: torch.device,
    run_id: str | None = None,
) -> Pretrained:
    """The result of a pretrainer: from `folder`, or made now, checked and kept there, as the run's of this number.

    `classifier()` gives `classifier_keys`.
    """
    kept, owner = folder / "pretrained.pth", Owner(run_id)
    if not kept.exists():
        scratch = folder / "scratch"
        make_folder(scratch)
        with seeded_globals(seed, "pretrain"):
            made = pretrainer.run(build_net, dataset, scratch, generator(seed, "pretrain"), device)
            _check(made, build_net, classifier, len(dataset), f"pretrain: '{pretrainer.name}'")
        if made.features is not None:
            save_artifact(folder / "features", np.asarray(made.features, dtype=np.float32))
        backbone = None if made.backbone is None else {name: value.cpu() for name, value in made.backbone.items()}
        modules = {name: dict(state) for name, state in made.modules.items()}
        write_checkpoint(kept, {"backbone": backbone, "modules": modules, **owner.stamp()})
    found, features = read_checkpoint(kept, REPEAT_PRETRAINING, parts=("backbone", "modules")), folder / "features.npy"
    owner.check(kept, found, REPEAT_PRETRAINING)
    if not isinstance(found["backbone"], dict | None) or not isinstance(found["modules"], dict):
        raise UsageError(f"{kept} is damaged (no weights in it); {REPEAT_PRETRAINING}")
    made_features = None
    if features.exists():
        remedy = "restore it from a copy, or remove its folder to repeat the pretraining"
        made_features = check_array(features, load_array(features), "f", (None, None), remedy)
    return Pretrained(found["backbone"], found["modules"], made_features)


def _check(
    made: Any, build_net: Callable[[], torch.nn.Module], classifier: Callable[[], Collection[str]], size: int, who: str
) -> None:
    """UsageError while it can still be mended: what is kept is used for the whole run."""
    if not isinstance(made, Pretrained):
        raise UsageError(f"{who}: run must return a Pretrained, got {type(made).__name__}")
    if made.backbone is not None:
        load_backbone(build_net(), made.backbone, classifier())
    check_finite_states(who, {"backbone": made.backbone or {}, **made.modules})
    if made.features is not None:
        if np.ndim(made.features) != 2 or len(made.features) != size:
            raise UsageError(f"{who}: expected features of shape ({size}, D), got {np.shape(made.features)}")
        check_finite_rows(f"{who}: features", made.features)


def build_seeded(network: Any, dataset: Dataset, pretrained_path: str | None, seed: int) -> torch.nn.Module:
    """The network with its initial weights, which depend on the seed alone."""
    with seeded_globals(seed, "weights"):
        return network.build(dataset.task.num_outputs, dataset.img_size, dataset.in_channels, pretrained_path)


def classifier_keys(build: Callable[[int], torch.nn.Module]) -> tuple[str, ...]:
    """The state-dict keys of a network's classifier: those whose shape follows the number of classes, with their siblings.

    Args:
        build: num_classes → module. Called for 3 and for 5 classes; the global generators are left as they were.

    Returns:
        Keys in the order of the state dict, all the keys of every module that holds one such.

    Raises:
        UsageError: nothing in the network depends on the number of classes, or the very names of its weights do.
    """
    with global_generators_kept():
        three, five = (build(num_classes).state_dict() for num_classes in (3, 5))
    only_once = sorted(three.keys() ^ five.keys())
    if only_once:
        raise UsageError(f"net: '{only_once[0]}' is there for 3 or for 5 classes only; weights must have the same names for any number")
    changed = {key for key in three if three[key].shape != five[key].shape}
    if not changed:
        raise UsageError("net: it has no classifier: no weight has a shape that depends on the number of classes")
    modules = {key.rpartition(".")[0] for key in changed} - {""}
    return tuple(key for key in three if key in changed or key.rpartition(".")[0] in modules)


def load_backbone(net: torch.nn.Module, backbone: Mapping[str, torch.Tensor], classifier: Collection[str]) -> None:
    """Put pretrained weights into a network, all but its classifier.

    Raises:
        UsageError: weights that are missing, too many, or of another shape; names them.
    """
    own = {name: value for name, value in net.state_dict().items() if name not in classifier}
    given = {name: value for name, value in backbone.items() if name not in classifier}
    problems = [("lacks", set(own) - set(given)), ("has, and the network not,", set(given) - set(own))]
    problems.append(("has another shape of", {name for name in set(own) & set(given) if own[name].shape != given[name].shape}))
    for what, names in problems:
        if names:
            raise UsageError(f"pretrain: the backbone {what} {name_some(sorted(names))}; it must fit the network `net`")
    net.load_state_dict(given, strict=False)


def backbone_features(net: torch.nn.Module, source: ViewSource) -> np.ndarray:
    """(N, D) features of a pretrained network on the eval views of the whole pool."""
    from usb_active.pool.inference import PoolRows, collect, predict

    size = len(source.dataset)
    rows = PoolRows(source.dataset, np.arange(size), "eval", 1, source.seed, ("pretrain",))
    stream = predict(net.to(source.device), rows, ["features"], source.batch_size, source.num_workers, source.device)
    return collect(stream, size, lambda name, shape: np.empty(shape, dtype=np.float32))["features"]
