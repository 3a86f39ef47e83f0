"""`vaal` and `sraal`: their contracts, what they learn from, what they say, and a `select` that is broken off."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import run_helpers
import torch
from sampler_runs import checkpoints_of_one_broken_off
from usb_active.plugins.assal import adversaries, samplers
from usb_active.plugins.assal.learning import CHANCE
from usb_active.plugins.assal.samplers import SamplerTraining, SraalTraining

from usb_active import PoolView, UsageError, load_artifact
from usb_active.testing import AcquisitionContract
from usb_active.testing.pool import World, made_images

SMALL = {"epochs": 2, "batch_size": 32, "latent": 3, "width": 2, "hidden": 8}


# Of planted clusters: enough to learn them.
PLANTED = {"epochs": 25, "batch_size": 16, "lr": 0.002, "latent": 4, "width": 4, "hidden": 16, "layers": 2}


class KnowsThePlan(torch.nn.Module):
    """A task model that is certain of every image but those whose upper rows are shaded as given: there it is uniform."""

    def __init__(self, uncertain):
        super().__init__()
        self.uncertain, self.num_features = uncertain, 1

    def forward(self, x, only_fc=False, only_feat=False):
        shade = x[:, :, :2].mean(dim=(1, 2, 3))
        logits = torch.where((shade > SHADE / 2) == bool(self.uncertain), 0.0, 50.0)
        other = x[:, :, 2:].flatten(1) @ PATTERNS[1, 2:].flatten() > x[:, :, 2:].flatten(1) @ PATTERNS[0, 2:].flatten()
        logits = torch.where(other, logits, 50.0)
        return {"logits": torch.stack([logits, torch.zeros_like(logits), torch.zeros_like(logits)], dim=1), "feat": shade[:, None]}


# (2, 8, 8), of clusters of images; and what the second half of the second has more in its upper rows.
PATTERNS, SHADE = 2 * torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(99)), 3.0


def planted(folder, uncertain=0):
    """A world of 30 samples of one cluster, twelve of which are labelled, and 30 of another; candidates of the latter's two halves."""
    rng = np.random.default_rng(0)
    images = PATTERNS.numpy()[np.arange(60) // 30] + 0.5 * rng.standard_normal((60, 8, 8)).astype(np.float32)
    images[45:, :2] += SHADE
    world = World(folder, images, fresh=True)
    labeled = np.flatnonzero(world.dataset.queryable)[:12]
    world.pool.set_labels(labeled, labeled % 3, 0)
    world.net, world.fresh = KnowsThePlan(uncertain), False
    return world, [[i for i in world.pool.candidates.tolist() if start <= i < start + 15] for start in (30, 45)]


class OwnSampler(AcquisitionContract):
    """What holds for both."""

    initial = False
    # The networks' first weights and the order are drawn.
    deterministic = False
    config = SMALL

    def view(self, world, plugin, *, cycle=1, seed=0, role="acquisition"):
        """Of a run for each seed: a scratch folder keeps the training of one."""
        source = replace(world.source(seed), run_path=world.folder / f"seed_{seed}")
        view = PoolView(source, cycle, role, frozenset(plugin.needs), self.source())
        view.prepare()
        return view

    def test_another_seed_in_the_same_folder_is_refused(self, world):
        plugin = self.make(SMALL)
        for seed in (0, 1):
            view = PoolView(world.source(seed), 1, "acquisition", frozenset(plugin.needs), self.source())
            if seed == 0:
                plugin.select(view, 7)
        with pytest.raises(UsageError, match=f"acquisition '{self.name}': .*{self.name}.pth was begun with seed: "):
            plugin.select(view, 7)

    def test_before_any_label_it_says_what_to_begin_with(self, tmp_path):
        world = World(tmp_path, fresh=True)
        view = world.view(set(), cycle=0, role="initial")
        with pytest.raises(UsageError, match=f"'{self.name}': no sample is labelled, .*; begin with another acquisition in `initial`"):
            self.make(SMALL).select(view, 6)

    def test_broken_off_it_goes_on_and_picks_the_same(self, world, tmp_path):
        ends = checkpoints_of_one_broken_off(self, SamplerTraining, SMALL, world, World(tmp_path / "whole"))
        for part in ("optimizer", "discriminator_optimizer"):
            assert ends[0][part]["state"].keys() == ends[1][part]["state"].keys() and ends[0][part]["state"]
            for number, state in ends[0][part]["state"].items():
                assert torch.equal(state["exp_avg"], ends[1][part]["state"][number]["exp_avg"])
        assert [line["epoch"] for line in ends[0]["log"]] == [1, 2, 3, 4]

    def states(self, pair, images):
        """Logits of D for images (B, 1, 8, 8), of the networks themselves."""
        raise NotImplementedError

    def test_the_lowest_states_are_picked(self, world, tmp_path):
        plugin = self.plugin()
        view = self.view(world, plugin)
        training = plugin._training(view)
        training.train(view.scratch)
        with torch.no_grad():
            logits = {int(i): self.states(training.pair, torch.from_numpy(world.images[[i]])[:, None]).item() for i in view.candidates}
        assert self.pick(World(tmp_path / "again"), 9).tolist() == sorted(logits, key=logits.get)[:9]

    def test_which_images_are_labelled_and_which_are_not(self, world):
        plugin = self.plugin()
        view = self.view(world, plugin)
        training = plugin._training(view)
        pairs = list(training._pairs(2))
        images, numbers = world.images[:, None], {image.tobytes(): number for number, image in enumerate(world.images)}
        labeled, unlabeled = ([[numbers[one.tobytes()] for one in part.numpy()[:, 0]] for part in parts]
                              for parts in zip(*((pair.labeled, pair.unlabeled) for pair in pairs), strict=True))  # fmt: skip
        # Each unlabelled sample once; batches of the labelled are of all six, as fewer than 32 are there.
        assert [sorted(rows) for rows in labeled] == [view.labeled.tolist()] * 2 and labeled[0] != labeled[1]
        assert sorted(sum(unlabeled, [])) == view.unlabeled.tolist() and [len(rows) for rows in unlabeled] == [32, 22]
        assert view.labeled.tolist() == [0, 11, 20, 31, 40, 51] and len(images) == 60

    def test_weights_that_are_not_finite_are_not_kept(self, world, monkeypatch):
        """The last step of an epoch may do it, whose terms are all finite."""
        train = adversaries.VaalPair.train_discriminator

        def breaking(pair, batch):
            found = train(pair, batch)
            pair.discriminator.layers[0].weight.data[0, 0] = float("inf")
            return found

        monkeypatch.setattr(adversaries.VaalPair, "train_discriminator", breaking)
        said = f"acquisition '{self.name}': diverged in epoch 1: weights that are not finite: discriminator.layers.0.weight; a smaller lr"
        with pytest.raises(UsageError, match=said):
            # One step of the discriminator in an epoch.
            self.pick(world, 7, self.make({**SMALL, "vae_steps": 9}))
        assert not list(world.folder.rglob(f"{self.name}.pth"))

    def test_the_sampler_is_logged(self, world):
        plugin = self.plugin(world)
        view = self.view(world, plugin)
        plugin.select(view, 7)
        found = {name.partition("/")[2]: value for name, value in view._source.metrics.items()}
        assert set(found) == {"balanced_accuracy", "discriminator_loss", "labeled_probability", "labeled_probability_of_picks"}
        assert 0 <= found["balanced_accuracy"] <= 1 and found["labeled_probability_of_picks"] < found["labeled_probability"]
        (kept,) = view.artifacts.glob("*_epochs_*")
        epochs = load_artifact(kept.with_suffix(""))
        assert len(epochs) == plugin.config.epochs and epochs[-1] == found["balanced_accuracy"]

    def test_images_that_the_autoencoder_cannot_take_are_refused_before_the_run(self):
        with pytest.raises(UsageError, match="^its autoencoder takes images of 8 pixels or more, not of 7; choose another img_size or acq"):
            self.make(SMALL).check(60, 3, img_size=7)
        self.make(SMALL).check(60, 3, img_size=8)

    def test_images_that_are_not_finite_are_named(self, tmp_path):
        images = made_images()
        images[4, 2, 2] = np.nan
        world = World(tmp_path, images)
        plugin = self.make(SMALL)
        with pytest.raises(UsageError, match="not finite for samples.* 4"):
            plugin.select(self.view(world, plugin), 7)

    def test_a_term_that_is_not_finite_is_named_with_its_step(self, world, monkeypatch):
        train = adversaries.VaalPair.train_vae
        steps = []

        def failing(pair, batch, noise):
            steps.append(batch)
            terms = train(pair, batch, noise)
            return {**terms, "adversarial": terms["adversarial"] * float("nan")} if len(steps) == 4 else terms

        monkeypatch.setattr(adversaries.VaalPair, "train_vae", failing)
        # 54 unlabelled in batches of 32: two steps an epoch.
        with pytest.raises(UsageError) as caught:
            self.pick(world, 7)
        text = str(caught.value)
        assert "\n" not in text and f"acquisition '{self.name}': the term 'adversarial' is nan in step 2 of epoch 2; a smaller lr" in text
        assert f"the last whole epoch is in {world.folder}" in text and text.endswith(f"{self.name}.pth")

    def test_images_kept_in_memory_change_nothing_and_are_loaded_once(self, world, tmp_path, monkeypatch):
        loads = []
        for number, (limit, place) in enumerate([(samplers.MOST_KEPT, world), (0, World(tmp_path / "loaded"))]):
            monkeypatch.setattr(samplers, "MOST_KEPT", limit)
            seen, load = [], place.dataset.load
            monkeypatch.setattr(place.dataset, "load", lambda index, seen=seen, load=load: seen.append(index) or load(index))
            plugin = self.make({**SMALL, "epochs": 3})
            training = plugin._training(self.view(place, plugin))
            seen.clear()
            training.train(training.view.scratch)
            loads.append((np.bincount(seen, minlength=60), training.pair))
            assert (training._kept is None) == number
        (once, kept), (often, loaded) = loads
        # Those that cannot be queried, pending and skipped ones too.
        assert once.tolist() == [1] * 60 and often.min() >= 3
        for one, other in ((kept.vae, loaded.vae), (kept.discriminator, loaded.discriminator)):
            assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))

    def test_the_limit_is_of_the_bytes_of_both_pools(self, world, monkeypatch):
        # 60 images of 64 numbers of 4 bytes.
        for limit, fits in ((60 * 64 * 4, True), (60 * 64 * 4 - 1, False)):
            monkeypatch.setattr(samplers, "MOST_KEPT", limit)
            plugin = self.plugin(world)
            assert (plugin._training(self.view(world, plugin))._kept is not None) == fits

    @pytest.mark.parametrize("layers", [0, 3])
    def test_the_discriminator_has_as_many_layers_as_were_asked_for(self, world, layers):
        plugin = self.make({**SMALL, "layers": layers})
        discriminator = plugin._training(self.view(world, plugin)).pair.discriminator
        assert sum(isinstance(module, torch.nn.Linear) for module in discriminator.modules()) == layers + 1

    @pytest.mark.parametrize(
        "keys",
        [
            {"epochs": 0}, {"batch_size": 0}, {"lr": 0}, {"lr": float("inf")}, {"latent": 0}, {"latent": 1.5}, {"width": 0}, {"beta": -1},
            {"beta": float("nan")}, {"adversary": -0.1}, {"vae_steps": 0}, {"hidden": 0}, {"layers": -1}, {"steps": 5},
        ],
    )  # fmt: skip
    def test_keys_out_of_their_range_are_refused(self, keys):
        with pytest.raises(UsageError, match=next(iter(keys))):
            self.make(keys)


class TestVaal(OwnSampler):
    name = "vaal"

    def test_the_defaults_are_those_of_the_authors_code(self):
        found = self.make({}).config.model_dump(include={"batch_size", "lr", "latent", "vae_steps", "hidden", "layers"})
        assert found == {"batch_size": 128, "lr": 5e-4, "latent": 32, "vae_steps": 2, "hidden": 512, "layers": 2}

    def test_neither_labels_nor_the_task_model_matter(self, world, tmp_path):
        other = World(tmp_path / "other")
        with torch.no_grad():
            other.net.classifier.weight.mul_(-1)
        labeled = other.pool.labeled
        other.pool.labels[labeled] = (other.pool.labels[labeled] + 1) % 3
        assert self.pick(other, 7).tolist() == self.pick(world, 7).tolist()

    @pytest.mark.parametrize(("accuracy", "warned"), [(0.5, True), (0.54, True), (0.56, False), (0.9, False)])
    def test_at_chance_it_warns_and_says_what_to_change(self, world, caplog, monkeypatch, accuracy, warned):
        monkeypatch.setattr(adversaries, "balanced_accuracy", lambda *logits: torch.tensor(accuracy))
        with caplog.at_level(logging.WARNING, "usb_active"):
            self.pick(world, 7)
        found = [record.getMessage() for record in caplog.records]
        assert len(found) == warned
        if warned:
            assert "'vaal': the discriminator tells labelled from unlabelled samples little better than by chance" in found[0]
            assert "try a smaller adversary than 1, or more epochs than 2" in found[0]

    def test_no_smaller_adversary_than_none_is_advised(self, world, caplog, monkeypatch):
        monkeypatch.setattr(adversaries, "balanced_accuracy", lambda *logits: torch.tensor(0.5))
        with caplog.at_level(logging.WARNING, "usb_active"):
            self.pick(world, 7, self.make({**SMALL, "adversary": 0}))
        (record,) = caplog.records
        assert record.getMessage().endswith("so that picks are nearly random; try more epochs than 2")

    def test_chance_ends_where_it_does_for_assal(self):
        states = np.array([0.2, 0.8])
        assert self.make(SMALL)._at_chance(np.nextafter(CHANCE, 0), states) and not self.make(SMALL)._at_chance(CHANCE, states)

    def states(self, pair, images):
        return pair.discriminator(pair.vae.encode(images)[0])

    def test_a_cluster_that_nothing_is_labelled_of_is_picked_first(self, tmp_path):
        world, _ = planted(tmp_path)
        other = [i for i in world.pool.candidates if i >= 30]
        assert sorted(self.pick(world, len(other), self.make(PLANTED))) == other


class TestSraal(OwnSampler):
    name = "sraal"

    def test_the_defaults_are_those_of_the_authors_code(self):
        found = self.make({}).config.model_dump(include={"batch_size", "lr", "latent", "vae_steps", "hidden", "layers"})
        assert found == {"batch_size": 250, "lr": 5e-4, "latent": 100, "vae_steps": 2, "hidden": 512, "layers": 4}

    @pytest.mark.parametrize("keys", [{"target": -1}, {"target_beta": float("inf")}])
    def test_keys_of_the_classifier_are_checked(self, keys):
        with pytest.raises(UsageError, match=next(iter(keys))):
            self.make(keys)

    def states(self, pair, images):
        mu, _, of_class, _ = pair.vae.encode_both(images)
        return pair.discriminator(torch.cat([mu, of_class], dim=1))

    @pytest.mark.slow
    @pytest.mark.parametrize("uncertain", [0, 1])
    def test_of_a_new_cluster_it_takes_the_uncertain(self, tmp_path, uncertain):
        # One half of the other cluster is uncertain; a shade tells the halves apart.
        world, halves = planted(tmp_path, uncertain)
        chosen = halves[uncertain]
        assert sorted(self.pick(world, len(chosen), self.make({**PLANTED, "epochs": 80}))) == chosen

    def test_batches_have_their_labels_and_uncertainty(self, world):
        plugin = self.plugin(world)
        view = self.view(world, plugin)
        training = SraalTraining("sraal", plugin.config, view)
        one, other = ({"idx": torch.from_numpy(np.array(idx)), "x": torch.zeros(1, len(idx), 1, 8, 8)} for idx in ([40, 0, 11], [5, 3]))
        pair = training.make_batch(one, other)
        assert pair.targets.tolist() == [2, 0, 0]
        assert pair.uncertainty.tolist() == pytest.approx(adversaries.online_uncertainty(view.probs)[[5, 3]])

    def test_the_same_states_for_all_are_warned_of(self, world, caplog, monkeypatch):
        monkeypatch.setattr(samplers, "_SAME_STATE", 2.0)
        with caplog.at_level(logging.WARNING, "usb_active"):
            self.pick(world, 7)
        (record,) = caplog.records
        assert "'sraal': the discriminator gives all candidates the same state" in record.getMessage()


# ------------------------------------------------------------------------------------------------- before a run
@pytest.mark.parametrize("name", ["vaal", "sraal"])
@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({"img_size": 7}, "active.acquisition: '{}': its autoencoder takes images of 8 pixels or more, not of 7; choose another img_size"),
        ({"initial": True}, "active.initial: '{}' needs {}, and before the first "),
    ],
)
def test_what_cannot_go_well_is_one_line_before_anything_runs(tmp_path, name, over, said):
    from usb_active.usb.launcher import make_algorithm

    acquisition = {"name": name, **SMALL}
    active = {"acquisition": acquisition, **({"initial": {**acquisition, "size": 20}} if "initial" in over else {})}
    data = run_helpers.settings(tmp_path, active=active, **{key: value for key, value in over.items() if key != "initial"})
    with pytest.raises(UsageError) as caught:
        make_algorithm(run_helpers.config_of(data))
    needed = {"vaal": "labels", "sraal": "a trained model's predictions"}[name]
    assert "\n" not in str(caught.value).strip() and said.format(name, needed) in str(caught.value)
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------------- in a run
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "usb"),
    [
        ("vaal", {"algorithm": "supervised"}),
        ("sraal", {}),
        # The network sees vectors, and the autoencoder images.
        ("vaal", {"algorithm": "supervised", "active": {"train_on": "features", "features": "pixels"}, "net": "linear"}),
    ],
)
def test_in_a_run(tmp_path, name, usb):
    active = {"acquisition": {"name": name, **SMALL, "batch_size": 256}, **usb.get("active", {})}
    rest = {key: value for key, value in usb.items() if key != "active"}
    algorithm = run_helpers.train(run_helpers.settings(tmp_path, active=active, **rest))
    assert len(algorithm.session.run_dir.query(1).idx) == 10
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert any(f"{name}/balanced_accuracy" in line.get("log", {}) for line in lines)


@pytest.mark.slow
def test_a_budget_above_the_unlabelled_is_one_line(tmp_path):
    with pytest.raises(UsageError, match="budget") as caught:
        run_helpers.train(run_helpers.settings(tmp_path, active={"acquisition": {"name": "vaal", **SMALL}, "budget": 5000}))
    assert "\n" not in str(caught.value)
