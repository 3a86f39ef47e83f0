"""What cannot be trained or chosen is one clear line: under algorithm `assal`, and with its networks beside another one."""

from __future__ import annotations

import pytest
from run_helpers import command, config_of, settings, train, write_yaml
from usb_active.plugins.assal.beside import BesideKeys

from usb_active import UsageError

OF_ALGORITHM = {
    "algorithm": "assal", "net": {"name": "assal_vae", "latent": 4, "width": 4}, "include_lb_to_ulb": False, "optim": "AdamW",
    "lr": 0.002, "uratio": 1, "assal_sampler_width": 16,
}  # fmt: skip
BESIDE = {"beside": True, "epochs": 1, "batch_size": 256, "latent": 3, "width": 2, "sampler_width": 8}
MODES = ("algorithm", "beside")


def of_mode(tmp_path, mode, losses=None, active=None, latent=None, **usb):
    """A run that is trained in this mode, with keys of the loss, the block `active` and USB's keys put over it."""
    if mode == "algorithm":
        keys = {f"assal_{name}": value for name, value in (losses or {}).items()}
        net = {} if latent is None else {"net": {**OF_ALGORITHM["net"], "latent": latent}}
        return settings(tmp_path, active={"acquisition": "assal", **(active or {})}, **{**OF_ALGORITHM, **keys, **net, **usb})
    acquisition = {"name": "assal", **BESIDE, **(losses or {}), **({} if latent is None else {"latent": latent})}
    return settings(tmp_path, active={"acquisition": acquisition, **(active or {})}, **{"algorithm": "supervised", **usb})


def made(data):
    """Built as `check` and a run do, before anything is trained."""
    from usb_active.usb.launcher import make_algorithm

    return make_algorithm(config_of(data))


def refused(build, *said):
    with pytest.raises(UsageError) as error:
        build()
    text = str(error.value).strip()
    assert "\n" not in text and all(part in text for part in said), text


# ------------------------------------------------------------------------------------------------- in both modes
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("losses", "said"), [
    (dict.fromkeys(("lambda1", "lambda2", "lambda3", "lambda4"), 0), ("lambda1", "all are 0, so that there is nothing to learn")),
    *[({name: -0.1}, (name, "-0.1")) for name in ("lambda1", "lambda2", "lambda3", "lambda4", "beta")],
    ({"lambda2": float("inf")}, ("lambda2",)), ({"beta": float("nan")}, ("beta",)), ({"scale": 0}, ("scale",)),
    ({"target": "rotations"}, ("target", "rotation")), ({"target": "pseudo_label", "threshold": 1.5}, ("threshold", "1.5")),
    ({"sampler_lr": 0}, ("sampler_lr",)), ({"sampler_width": 0}, ("sampler_width",)), ({"sampler_layers": -1}, ("sampler_layers",)),
    *[({name: value}, (name, str(value))) for name, limit in (("sampler_width", 65536), ("sampler_layers", 64))
      for value in (limit + 1, 10**12)],
])  # fmt: skip
def test_weights_and_keys_out_of_their_range(tmp_path, mode, losses, said):
    refused(lambda: made(of_mode(tmp_path, mode, losses)), *said)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("latent", [0, -1, 2.5])
def test_a_code_without_length(tmp_path, mode, latent):
    refused(lambda: made(of_mode(tmp_path, mode, latent=latent)), "latent")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("img_size", [4, 7])
def test_images_that_the_network_cannot_take(tmp_path, mode, img_size):
    refused(lambda: made(of_mode(tmp_path, mode, img_size=img_size)), f"takes images of 8 pixels or more, not of {img_size}")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("budget", "cycles"), [(5000, 1), (700, 2)])
def test_a_budget_above_the_unlabelled(tmp_path, mode, budget, cycles):
    refused(lambda: made(of_mode(tmp_path, mode, active={"budget": budget, "cycles": cycles})), "budget", str(budget))


@pytest.mark.parametrize("mode", MODES)
def test_nothing_labelled_to_begin_with(tmp_path, mode):
    refused(lambda: made(of_mode(tmp_path, mode, active={"initial": {"name": "random", "size": 0}})), "initial", "size")
    acquisition = {"name": "assal", "size": 20, **(BESIDE if mode == "beside" else {})}
    # By the sampler itself nothing can be begun: said before the run.
    said = ("active.initial: 'assal' needs labels", "no sample is labelled; begin with another, such as random")
    refused(lambda: made(of_mode(tmp_path, mode, active={"initial": acquisition})), *said)
    assert not (tmp_path / "run").exists()


def test_algorithm_1_without_a_label(tmp_path):
    """A file of labels may have none; a trainer that says nothing would learn from the unlabelled alone."""
    labels = tmp_path / "labels.csv"
    labels.write_text("index,label\n")
    data = of_mode(tmp_path, "algorithm", active={"initial": {"name": "file", "path": str(labels)}})
    refused(lambda: train(data), "label")


def test_a_network_without_an_encoder(tmp_path):
    wrong = {"net": {"name": "small_cnn", "width": 4}}
    missing = "'small_cnn' has no 'encode', 'decode', 'rotation'"
    refused(lambda: made(of_mode(tmp_path, "algorithm", **wrong)), missing, "algorithm 'assal'")
    # Beside, the encoder is its own: any network will do.
    assert made(of_mode(tmp_path, "beside", **wrong)).model.num_features


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("keys", "said"), [
    ({"score": "entropy"}, "score"), ({"score": "sampler_entropy", "entropy_weight": 1.1}, "entropy_weight"),
    ({"entropy_weight": 0.3}, "no effect without `score: sampler_entropy`"),
])  # fmt: skip
def test_a_score_that_there_is_not(tmp_path, mode, keys, said):
    acquisition = {"name": "assal", **(BESIDE if mode == "beside" else {}), **keys}
    refused(lambda: made(of_mode(tmp_path, mode, active={"acquisition": acquisition})), said)


# ------------------------------------------------------------------------------------------------- one or the other
def test_beside_another_algorithm_it_must_be_asked_for(tmp_path):
    data = settings(tmp_path, active={"acquisition": "assal"}, algorithm="flexmatch")
    refused(lambda: made(data), "this one trains none; use algorithm: assal, or `beside: true`")


def test_beside_the_algorithm_itself_it_is_refused(tmp_path):
    acquisition = {"name": "assal", **BESIDE}
    refused(lambda: made(of_mode(tmp_path, "algorithm", active={"acquisition": acquisition})), "already; leave `beside` out")


@pytest.mark.parametrize("name", sorted(BesideKeys.model_fields))
def test_keys_of_what_is_trained_beside_need_beside(tmp_path, name):
    other = {"target": "pseudo_label", "threshold": 0.5, "sampler_layers": 1}.get(name, 7)
    data = of_mode(tmp_path, "algorithm", active={"acquisition": {"name": "assal", name: other}})
    refused(lambda: config_of(data), f"{name}: no effect without `beside: true`")


@pytest.mark.parametrize(("mode", "over"), [
    ("algorithm", {"assal_lambda4": -1}), ("beside", {"img_size": 4}),
    ("algorithm", {"active": {"acquisition": {"name": "assal", **BESIDE}}}), ("beside", {"active": {"acquisition": "assal"}}),
])  # fmt: skip
def test_on_the_command_line_it_is_one_line(tmp_path, mode, over):
    found = command("check", write_yaml(tmp_path / "a.yaml", of_mode(tmp_path, mode, **over)))
    errors = [line for line in found.stderr.splitlines() if "warning:" not in line]
    assert found.returncode == 2 and len(errors) == 1 and "Traceback" not in found.stderr, found


# ------------------------------------------------------------------------------------------------- what the algorithm does not give
@pytest.mark.parametrize(("role", "chosen", "fields"), [
    ("acquisition", "learning_loss", "hidden, logits_lb"), ("acquisition", "assl", "logits_strong, probs_weak"),
    ("acquisition", {"name": "assl", "use": "uncertainty"}, "probs_weak"), ("acquisition", "assl_div", "logits_strong, probs_weak"),
    ("analysis", "temporal_instability", "logits_strong, probs_weak"),
])  # fmt: skip
def test_what_watches_what_its_step_does_not_have_is_refused(tmp_path, role, chosen, fields):
    name = chosen if isinstance(chosen, str) else chosen["name"]
    data = of_mode(tmp_path, "algorithm", active={role: chosen})
    said = f"active.{role}: '{name}': needs {fields} of every step, but algorithm 'assal' cannot give it: "
    refused(lambda: made(data), said)


def test_the_reason_is_the_step_and_no_mixture(tmp_path):
    data = of_mode(tmp_path, "algorithm", active={"acquisition": "learning_loss"})
    refused(lambda: made(data), "cannot give it: its train_step does not have it")


def test_a_prior_has_no_place_in_its_loss(tmp_path):
    data = of_mode(tmp_path, "algorithm", active={"prior": {"name": "lp", "until_iter": 4}, "features": "pixels"})
    refused(lambda: made(data), "prior")
