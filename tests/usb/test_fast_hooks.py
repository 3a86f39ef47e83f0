"""The fast hooks against USB's own, bit for bit: alone on random sequences, and in a whole training of FlexMatch."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from semilearn.algorithms.flexmatch.flexmatch import FlexMatch
from semilearn.algorithms.flexmatch.utils import FlexMatchThresholdingHook
from semilearn.core.hooks import EMAHook
from semilearn.core.utils.misc import EMA
from torch import nn

from usb_active.usb import fast_hooks
from usb_active.usb.device import DeviceMixin
from usb_active.usb.fast_hooks import FastEMAHook, FastFlexMatchThresholdingHook, accelerate
from usb_active.usb.networks import small_cnn

NEEDS_CUDA = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
DEVICES = ["cpu", pytest.param("cuda", marks=NEEDS_CUDA)]
CLASSES, POOL = 5, 60


# ---------------------------------------------------------------------------------------------- FlexMatch's thresholds
def flexmatch_hooks(warmup=True, pool=POOL, classes=CLASSES):
    return (
        FlexMatchThresholdingHook(ulb_dest_len=pool, num_classes=classes, thresh_warmup=warmup),
        FastFlexMatchThresholdingHook(ulb_dest_len=pool, num_classes=classes, thresh_warmup=warmup),
    )


def predictions(generator, batch=24, pool=POOL, classes=CLASSES, unique=False):
    """Probabilities of which about half pass 0.5, and rows with many duplicates unless `unique`."""
    probs = torch.softmax(2 * torch.randn(batch, classes, generator=generator), dim=-1)
    rows = torch.randperm(pool, generator=generator)[:batch] if unique else torch.randint(0, pool, (batch,), generator=generator)
    return probs, rows


def step(hook, probs, rows, p_cutoff=0.5):
    return hook.masking(SimpleNamespace(p_cutoff=p_cutoff), logits_x_ulb=probs, idx_ulb=rows, softmax_x_ulb=False)


def assert_hooks_equal(usb, fast):
    assert torch.equal(usb.selected_label.cpu(), fast.selected_label.cpu())
    assert fast.classwise_acc.dtype == torch.float32
    assert torch.equal(usb.classwise_acc.cpu(), fast.classwise_acc.cpu())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("warmup", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_thresholds_equal_usbs_over_random_batches(device, warmup, seed):
    usb, fast = flexmatch_hooks(warmup)
    generator = torch.Generator().manual_seed(seed)
    seen = set()
    for _ in range(60):
        # On CUDA, USB's result for duplicates is not defined.
        probs, rows = predictions(generator, unique=device == "cuda")
        assert torch.equal(step(usb, probs, rows), step(fast, probs.to(device), rows.to(device)).cpu())
        assert_hooks_equal(usb, fast)
        seen.add(tuple(fast.classwise_acc.tolist()))
    assert len(seen) > 20


@pytest.mark.parametrize("device", DEVICES)
def test_the_version_without_sync_stores_and_counts_the_same(device):
    generator = torch.Generator().manual_seed(0)
    tables = [torch.full((POOL,), -1) for _ in range(2)]
    counts = [torch.bincount(table + 1, minlength=CLASSES + 1) for table in tables]
    table, count = tables[1].to(device), counts[1].to(device)
    for _ in range(100):
        probs, rows = predictions(generator)
        top, labels = probs.max(dim=-1)
        fast_hooks._store(tables[0], counts[0], rows, labels, top >= 0.5)
        fast_hooks._store_without_sync(table, count, *(value.to(device) for value in (rows, labels, top >= 0.5)))
        assert torch.equal(tables[0], table.cpu()) and torch.equal(counts[0], count.cpu())
        assert torch.equal(counts[0], torch.bincount(tables[0] + 1, minlength=CLASSES + 1))


def test_a_slow_loop_stores_the_last_selected_label_of_a_duplicate():
    generator = torch.Generator().manual_seed(1)
    _, fast = flexmatch_hooks()
    table = [-1] * POOL
    for _ in range(30):
        probs, rows = predictions(generator)
        step(fast, probs, rows)
        for row, prob in zip(rows.tolist(), probs, strict=True):
            if prob.max() >= 0.5:
                table[row] = int(prob.argmax())
        assert fast.selected_label.tolist() == table


@pytest.mark.parametrize("warmup", [True, False])
@pytest.mark.parametrize("store", ["_store", "_store_without_sync"])
def test_accuracies_stay_while_one_value_fills_the_table(warmup, store, monkeypatch):
    monkeypatch.setattr(fast_hooks, "_store", getattr(fast_hooks, store))
    usb, fast = flexmatch_hooks(warmup, pool=4, classes=3)
    unsure, certain = torch.full((4, 3), 1 / 3), torch.eye(3)[torch.ones(4, dtype=torch.long)]
    for probs in (unsure, certain, unsure):
        assert torch.equal(step(usb, probs, torch.arange(4)), step(fast, probs, torch.arange(4)))
        assert_hooks_equal(usb, fast)
        assert fast.classwise_acc.tolist() == [0.0, 0.0, 0.0]
    assert fast.selected_label.tolist() == [1, 1, 1, 1]
    for hook in (usb, fast):
        step(hook, torch.eye(3)[[0, 2]], torch.tensor([3, 3]))
    assert_hooks_equal(usb, fast)
    assert fast.classwise_acc.tolist() == torch.tensor([0.0, 1.0, 1 / 3]).tolist()


@pytest.mark.parametrize("replaced", ["new tensor", "written into"])
def test_counts_follow_a_table_changed_from_outside(replaced):
    usb, fast = flexmatch_hooks()
    generator = torch.Generator().manual_seed(2)
    for number in range(40):
        if number % 10 == 5:
            table = torch.randint(-1, CLASSES, (POOL,), generator=generator)
            for hook in (usb, fast):
                if replaced == "new tensor":
                    hook.selected_label = table.clone()
                    hook.classwise_acc = torch.full((CLASSES,), 0.25)
                else:
                    hook.selected_label[: POOL // 2] = table[: POOL // 2]
        probs, rows = predictions(generator)
        assert torch.equal(step(usb, probs, rows), step(fast, probs, rows))
        assert_hooks_equal(usb, fast)


def test_division_is_usbs_for_large_counts():
    usb, fast = flexmatch_hooks(pool=604_388, classes=10)
    table = torch.randint(-1, 10, (604_388,), generator=torch.Generator().manual_seed(3)) % 7
    for hook in (usb, fast):
        hook.selected_label = table.clone()
        hook.update()
    assert_hooks_equal(usb, fast)


def test_state_is_what_a_checkpoint_of_usbs_hook_holds():
    usb, fast = flexmatch_hooks()
    step(fast, *predictions(torch.Generator().manual_seed(0)))
    tensors = {name for name, value in vars(fast).items() if isinstance(value, torch.Tensor)}
    assert tensors == {name for name, value in vars(usb).items() if isinstance(value, torch.Tensor)}


def test_logits_are_turned_into_probabilities_by_the_algorithm():
    _, one = flexmatch_hooks()
    _, other = flexmatch_hooks()
    generator = torch.Generator().manual_seed(4)
    algorithm = SimpleNamespace(p_cutoff=0.5, compute_prob=lambda logits: torch.softmax(logits, dim=-1))
    for _ in range(5):
        probs, rows = predictions(generator)
        logits = probs.log()
        assert torch.equal(one.masking(algorithm, logits, rows), step(other, torch.softmax(logits, dim=-1), rows))
    assert_hooks_equal(one, other)


# ---------------------------------------------------------------------------------------------- EMA
class Mixed(nn.Module):
    """All kinds of state: batch norm, a frozen parameter, one used twice, buffers reassigned, not saved, of integers."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3).to(memory_format=torch.channels_last)
        self.bn = nn.BatchNorm2d(4)
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.two.weight = self.one.weight
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("unsaved", torch.zeros(2), persistent=False)
        self.register_buffer("absent", None)

    def forward(self, x):
        if self.training:
            self.steps = self.steps + 1
        out = self.bn(self.conv(x)).mean(dim=(2, 3))
        return self.two(self.one(out)) * self.scale.float()


class Wrapped(nn.Module):
    """Names as behind DistributedDataParallel."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)


class Trainee:
    """What EMA hooks need of an algorithm, and a training that is the same for all."""

    def __init__(self, hook, wrap=lambda model: model, build=Mixed, decay=0.9, device="cpu"):
        torch.manual_seed(0)
        model = build()
        self.model, self.ema_model = wrap(model).to(device), wrap(copy.deepcopy(model)).to(device)
        self.hook, self.ema_m, self.ema, self.resume, self.device = hook, decay, None, False, device
        self.optimizer = torch.optim.SGD([p for p in self.model.parameters() if p.requires_grad], lr=0.3, momentum=0.9)
        self.generator = torch.Generator().manual_seed(1)

    def step(self):
        x = torch.randn(6, 2, 5, 5, generator=self.generator).to(self.device)
        self.model(x).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.hook.after_train_step(self)

    def evaluate(self):
        """USB's order: parameters of the model become the shadow, and are put back."""
        self.model.eval()
        self.ema.apply_shadow()
        with torch.no_grad():
            out = self.model(torch.ones(2, 2, 5, 5, device=self.device))
        self.ema.restore()
        self.model.train()
        return out


def assert_same_state(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.dtype == other[name].dtype and torch.equal(value, other[name]), name


def assert_trainees_equal(usb, fast):
    assert_same_state(usb.ema.shadow, fast.ema.shadow)
    assert_same_state(usb.ema_model.state_dict(), fast.ema_model.state_dict())
    assert_same_state(usb.model.state_dict(), fast.model.state_dict())


def pair(**settings):
    trainees = Trainee(EMAHook(), **settings), Trainee(FastEMAHook(), **settings)
    for trainee in trainees:
        trainee.hook.before_run(trainee)
    return trainees


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("wrap", [lambda model: model, Wrapped], ids=["plain", "wrapped"])
@pytest.mark.parametrize("decay", [0.0, 0.9, 0.999])
def test_ema_equals_usbs_after_every_step(device, wrap, decay):
    usb, fast = pair(wrap=wrap, decay=decay, device=device)
    start = dict(usb.ema.shadow)
    for number in range(25):
        usb.step()
        fast.step()
        assert_trainees_equal(usb, fast)
        if number % 5 == 2:
            assert torch.equal(usb.evaluate(), fast.evaluate())
            assert_trainees_equal(usb, fast)
    assert fast.hook._pairs is not None
    weight = next(name for name in start if name.endswith("one.weight"))
    assert not torch.equal(start[weight], fast.ema.shadow[weight])


def test_room_for_products_lies_as_the_weights_do():
    """A product of two layouts is several times slower on a CPU."""
    weights = [torch.rand(8, 4, 3, 3).contiguous(memory_format=torch.channels_last), torch.rand(5), torch.rand(6, 4).T]
    rooms = fast_hooks._scratch(weights)
    assert [room.stride() for room in rooms] == [weight.stride() for weight in weights]
    assert [room.shape for room in rooms] == [weight.shape for weight in weights]
    # In one piece of memory, as large as the largest.
    assert {room.untyped_storage().data_ptr() for room in rooms} == {rooms[0].data_ptr()} and rooms[0].untyped_storage().nbytes() == 4 * 288
    gaps = torch.rand(10)[::2]
    assert fast_hooks._scratch([gaps])[0].stride() == (1,)


def test_ema_is_the_formula():
    _, fast = pair(decay=0.75)
    expected = fast.model.one.weight.detach().clone()
    for _ in range(5):
        fast.step()
        expected = 0.25 * fast.model.one.weight.detach() + 0.75 * expected
        torch.testing.assert_close(fast.ema_model.one.weight.detach(), expected)


def test_the_first_step_finds_ema_model_as_usb_leaves_it():
    usb, fast = pair()
    for trainee in (usb, fast):
        nn.init.constant_(trainee.ema_model.conv.weight, 7.0)
        trainee.hook.before_run(trainee)
        assert (trainee.ema_model.conv.weight == 7).all()
        trainee.step()
    assert_trainees_equal(usb, fast)


@pytest.mark.parametrize("resume", [True, False])
def test_a_second_run_starts_its_shadow_as_usb_does(resume):
    usb, fast = pair()
    for trainee in (usb, fast):
        for _ in range(4):
            trainee.step()
        trainee.hook.after_run(trainee)
        trainee.resume = resume
        trainee.hook.before_run(trainee)
    assert_trainees_equal(usb, fast)
    for _ in range(4):
        usb.step()
        fast.step()
        assert_trainees_equal(usb, fast)


def test_what_is_loaded_after_a_run_does_not_reach_the_shadow():
    usb, fast = pair()
    for trainee in (usb, fast):
        trainee.step()
        trainee.hook.after_run(trainee)
        trainee.ema_model.load_state_dict(Trainee(EMAHook()).model.state_dict())
    assert_trainees_equal(usb, fast)


def load_shadow(trainee):
    trainee.ema.load(Trainee(EMAHook()).model)


def replace_ema_model(trainee):
    trainee.ema_model = copy.deepcopy(trainee.model)


def replace_ema(trainee):
    trainee.ema = EMA(trainee.model, 0.5)
    trainee.ema.register()


def move_ema_model(trainee):
    for parameter in trainee.ema_model.parameters():
        parameter.data = parameter.data.clone()


@pytest.mark.parametrize("change", [load_shadow, replace_ema_model, replace_ema, move_ema_model])
def test_what_is_replaced_from_outside_is_taken_up(change):
    usb, fast = pair()
    for number in range(9):
        if number % 3 == 2:
            for trainee in (usb, fast):
                change(trainee)
        usb.step()
        fast.step()
        assert_trainees_equal(usb, fast)


class OtherEMA(EMA):
    def update(self):
        super().update()
        self.shadow = {name: value * 2 for name, value in self.shadow.items()}


def test_an_ema_of_ones_own_is_left_to_usbs_code():
    usb, fast = pair()
    for trainee in (usb, fast):
        trainee.ema = OtherEMA(trainee.model, 0.5)
        trainee.ema.register()
        trainee.step()
    assert_trainees_equal(usb, fast)
    assert fast.hook._pairs is None


def test_a_network_that_does_not_fit_fails_as_with_usb():
    errors = []
    for trainee in pair():
        trainee.ema_model = nn.Linear(2, 2)
        with pytest.raises(RuntimeError) as error:
            trainee.step()
        errors.append(str(error.value))
    assert errors[0] == errors[1]


def test_without_ema_nothing_happens():
    trainee = Trainee(FastEMAHook())
    before = copy.deepcopy(trainee.ema_model.state_dict())
    trainee.step()
    assert_same_state(before, trainee.ema_model.state_dict())


# ---------------------------------------------------------------------------------------------- in USB's training
ARGUMENTS = {
    "num_classes": 4, "ema_m": 0.9, "epoch": 2, "num_train_iter": 40, "num_eval_iter": 7, "num_log_iter": 100, "ulb_loss_ratio": 1.0,
    "use_cat": True, "amp": False, "clip_grad": 0.0, "save_name": "run", "resume": False, "algorithm": "flexmatch", "gpu": None,
    "rank": 0, "distributed": False, "world_size": 1, "use_pretrain": False, "pretrain_path": "", "optim": "SGD", "lr": 0.1,
    "momentum": 0.9, "weight_decay": 5e-4, "layer_decay": 1.0, "num_warmup_iter": 0, "use_wandb": False, "use_aim": False, "T": 0.5,
    "p_cutoff": 0.4, "hard_label": True, "thresh_warmup": True, "multiprocessing_distributed": False, "ulb_dest_len": 50,
}  # fmt: skip


def batches(count, classes, pool):
    """Noisy one-pixel-per-class images, and rows of the pool with duplicates."""
    generator = torch.Generator().manual_seed(9)

    def draw(batch):
        targets = torch.randint(0, classes, (batch,), generator=generator)
        x = 0.5 * torch.randn(batch, 1, 4, 4, generator=generator)
        x[torch.arange(batch), 0, targets, targets] += 3
        return x, targets

    labeled, unlabeled = [], []
    for _ in range(count):
        x, y = draw(8)
        labeled.append({"idx_lb": torch.arange(8), "x_lb": x, "y_lb": y})
        weak, _ = draw(16)
        rows = torch.randint(0, pool, (16,), generator=generator)
        unlabeled.append({"idx_ulb": rows, "x_ulb_w": weak, "x_ulb_s": weak + 0.1})
    return {"train_lb": labeled, "train_ulb": unlabeled, "eval": labeled[:3]}


class TinyFlexMatch(DeviceMixin, FlexMatch):
    """USB's FlexMatch on fixed batches; evaluation swaps the shadow in and out as USB's does."""

    def set_dataset(self):
        return {}

    def set_data_loader(self):
        return batches(self.num_iter_per_epoch, self.num_classes, self.args.ulb_dest_len)

    @torch.no_grad()
    def evaluate(self, eval_dest="eval", out_key="logits", return_logits=False):
        self.model.eval()
        self.ema.apply_shadow()
        pairs = [(self.model(b["x_lb"].to(self.device))[out_key].argmax(-1).cpu(), b["y_lb"]) for b in self.loader_dict[eval_dest]]
        self.ema.restore()
        self.model.train()
        return {"eval/top-1-acc": float(torch.cat([prediction == y for prediction, y in pairs]).float().mean())}


def tiny_network(num_classes, **ignored):
    return small_cnn(num_classes, img_size=4, width=4)


def flexmatch(folder, **changed):
    torch.manual_seed(0)
    args = SimpleNamespace(**{**ARGUMENTS, **changed}, save_dir=str(folder))
    return TinyFlexMatch(args, tiny_network, logger=SimpleNamespace(info=lambda text: None))


@pytest.mark.parametrize("changed", [{}, {"thresh_warmup": False, "ema_m": 0.999}, {"use_cat": False, "p_cutoff": 0.8}])
def test_a_training_of_flexmatch_is_the_same_to_the_bit(tmp_path, changed):
    usb, fast = flexmatch(tmp_path / "usb", **changed), flexmatch(tmp_path / "fast", **changed)
    assert accelerate(fast) == ["EMAHook", "MaskingHook"]
    for algorithm in (usb, fast):
        algorithm.train()
        assert algorithm.it == 40
    assert_trainees_equal(usb, fast)
    assert_hooks_equal(usb.hooks_dict["MaskingHook"], fast.hooks_dict["MaskingHook"])
    assert (usb.hooks_dict["MaskingHook"].selected_label >= 0).any()
    assert usb.hooks_dict["MaskingHook"].classwise_acc.max() > 0
    assert (usb.best_it, usb.best_eval_acc, usb.log_dict["train/total_loss"]) == (
        fast.best_it, fast.best_eval_acc, fast.log_dict["train/total_loss"],
    )  # fmt: skip
    for name in ("latest_model.pth", "model_best.pth"):
        saved = [torch.load(tmp_path / side / "run" / name, weights_only=True) for side in ("usb", "fast")]
        for part in ("model", "ema_model"):
            assert_same_state(saved[0][part], saved[1][part])
        assert torch.equal(saved[0]["selected_label"], saved[1]["selected_label"])
        assert torch.equal(saved[0]["classwise_acc"], saved[1]["classwise_acc"])


def test_accelerate_keeps_order_names_priorities_and_state(tmp_path):
    algorithm = flexmatch(tmp_path)
    before = [(hook.name, hook.priority) for hook in algorithm._hooks]
    classes = {hook.name: type(hook) for hook in algorithm._hooks}
    algorithm.hooks_dict["MaskingHook"].selected_label[3] = 2
    assert accelerate(algorithm) == ["EMAHook", "MaskingHook"]
    assert [(hook.name, hook.priority) for hook in algorithm._hooks] == before
    assert list(algorithm.hooks_dict.items()) == [(hook.name, hook) for hook in algorithm._hooks]
    assert algorithm.hooks_dict["MaskingHook"].selected_label[3] == 2
    changed = {hook.name: type(hook) for hook in algorithm._hooks if type(hook) is not classes[hook.name]}
    assert changed == {"EMAHook": FastEMAHook, "MaskingHook": FastFlexMatchThresholdingHook}
    assert accelerate(algorithm) == []


class Subclass(FlexMatchThresholdingHook):
    pass


def test_accelerate_leaves_other_peoples_hooks_alone(tmp_path):
    algorithm = flexmatch(tmp_path)
    mine = Subclass(ulb_dest_len=50, num_classes=4)
    algorithm.register_hook(mine, "MaskingHook")
    algorithm._hooks = [hook for hook in algorithm._hooks if type(hook) is not FlexMatchThresholdingHook]
    assert accelerate(algorithm) == ["EMAHook"]
    assert algorithm.hooks_dict["MaskingHook"] is mine
