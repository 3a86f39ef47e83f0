"""`check` of a plugin: with the pool's size, and where it wants them the classes of the algorithm and the network."""

from __future__ import annotations

import pytest
from run_helpers import settings

from usb_active import Acquisition, Features, PluginConfig, Prior, PriorTable, UsageError, register_plugin
from usb_active.config.settings import config_from_dict
from usb_active.contracts.plugin import call_check
from usb_active.loop.setup import build_parts

SEEN: list[tuple] = []


class Chooses(Acquisition):
    def select(self, view, budget):
        return view.candidates[:budget]


@register_plugin("acquisition", "check_of_two")
class OfTwo(Chooses):
    """As before there was more to see."""

    def check(self, num_samples, num_classes):
        SEEN.append((num_samples, num_classes))


@register_plugin("acquisition", "check_of_all")
class OfAll(Chooses):
    """Sees both, and refuses an algorithm without a weak view."""

    def check(self, num_samples, num_classes, *, algorithm, network):
        SEEN.append((num_samples, num_classes, algorithm.__name__, network.__name__))
        if not hasattr(algorithm, "consistency_loss") and algorithm.__name__ == "FullySupervised":
            raise UsageError(f"needs unlabelled samples, and {algorithm.__name__} sees none")


@register_plugin("acquisition", "check_of_the_network")
class OfTheNetwork(Chooses):
    """Sees one of them, and what may come."""

    def check(self, num_samples, num_classes, network=None, **further):
        SEEN.append((network.__name__, sorted(further)))


@register_plugin("acquisition", "check_of_the_side")
class OfTheSide(Chooses):
    """Looks at images itself."""

    def check(self, num_samples, num_classes, *, img_size):
        SEEN.append(img_size)


@register_plugin("prior", "check_of_a_prior")
class OfAPrior(Prior):
    """Refuses a network."""

    def check(self, num_samples, num_classes, *, network):
        if network.name == "small_cnn":
            raise UsageError(f"does not go with {network.name}")

    def fit(self, view, when) -> PriorTable | None:
        return None


@register_plugin("features", "check_of_a_source")
class OfASource(Features):
    """A source too."""

    class Config(PluginConfig):
        fine: bool = True

    def check(self, num_samples, num_classes, *, network):
        SEEN.append(("source", network.__name__))

    def get(self, view):
        raise NotImplementedError


@register_plugin("acquisition", "check_with_features")
class WithFeatures(Chooses):
    """Has a source checked."""

    needs = frozenset({"features"})


@pytest.fixture(autouse=True)
def nothing_seen():
    SEEN.clear()


def build(tmp_path, net="small_cnn", **active):
    return build_parts(config_from_dict(settings(tmp_path, active=active, algorithm="supervised", net=net), base=tmp_path, source="c.yaml"))


def test_an_old_check_gets_two_numbers(tmp_path):
    build(tmp_path, acquisition="check_of_two")
    assert SEEN == [(1343, 10)]


@pytest.mark.parametrize(
    ("name", "seen"),
    [("check_of_the_network", ("SmallCnn", ["algorithm", "budget", "img_size"])), ("check_with_features", ("source", "SmallCnn"))],
)
def test_what_it_names_is_what_it_sees(tmp_path, name, seen):
    build(tmp_path, acquisition=name, features="check_of_a_source")
    assert SEEN == [seen]


def test_the_side_of_images_is_the_data_sets_where_the_network_takes_features(tmp_path):
    build(tmp_path, "linear", acquisition="check_of_the_side", train_on="features", features="pixels")
    assert SEEN == [8]


def test_what_needs_another_algorithm_or_network_is_refused(tmp_path):
    message = r"^c\.yaml: active\.acquisition: 'check_of_all': needs unlabelled samples, and FullySupervised sees none$"
    with pytest.raises(UsageError, match=message):
        build(tmp_path, acquisition="check_of_all")
    assert SEEN == [(1343, 10, "FullySupervised", "SmallCnn")]
    with pytest.raises(UsageError, match=r"^c\.yaml: active\.prior: 'check_of_a_prior': does not go with small_cnn$"):
        build(tmp_path, acquisition="check_of_two", prior="check_of_a_prior")


def test_nothing_is_made_that_no_check_wants():
    def never():
        raise AssertionError("semilearn is imported for nothing")

    call_check(Chooses(), 10, 2, algorithm=never, network=never, budget=never, img_size=never)
    call_check(OfTwo(), 10, 2, algorithm=never, network=never)
    call_check(OfAPrior(), 10, 2, algorithm=never, network=lambda: Chooses)
    assert SEEN == [(10, 2)]
