"""The block of a study for a cluster: what it takes, and that all that is wrong with it is said at once."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import run_helpers
import yaml

from usb_active.config.study import read_study
from usb_active.config.study_slurm import SLURM
from usb_active.errors import UsageError

GOOD = {
    "timeout_min": 240, "partition": "gpu", "cpus_per_task": 4, "gpus_per_node": 0, "mem_gb": 7.5, "account": "a", "qos": "q",
    "constraint": "a100|h100", "gres": "gpu:1", "nodelist": "n[1-3]", "exclude": "n4", "comment": "a b", "mail_type": "END",
    "mail_user": "me@here", "setup": ["module load cuda", "export A=b"], "use_srun": False, "signal_delay_s": 60, "max_num_timeout": 0,
    "additional_parameters": {"reservation": "al", "nice": 100, "no-kill": True},
}  # fmt: skip


def write(tmp_path: Path, **blocks) -> Path:
    data = run_helpers.settings(tmp_path)
    del data["save_dir"], data["save_name"]
    run_helpers.write_yaml(tmp_path / "base.yaml", data)
    return run_helpers.write_yaml(tmp_path / "study.yaml", {"base": "base.yaml", "matrix": {"active.budget": [5]}, **blocks})


def problems(tmp_path: Path, **blocks) -> list[str]:
    path = write(tmp_path, **blocks)
    with pytest.raises(UsageError) as caught:
        read_study(path)
    return [line.removeprefix(f"{path}: ") for line in str(caught.value).splitlines()]


def test_a_study_has_it_or_not(tmp_path):
    assert read_study(write(tmp_path)).slurm is None
    assert set(GOOD) == set(SLURM) and read_study(write(tmp_path, slurm=GOOD)).slurm == GOOD


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("timeout_min", 0, "must be a whole number, at least 1 (0)"),
        ("timeout_min", "04:00:00", "must be a whole number, at least 1 ("),
        ("timeout_min", True, "must be a whole number, at least 1 ("),
        ("gpus_per_node", -1, "must be a whole number, at least 0 (-1)"),
        ("mem_gb", "16GB", "must be a number above 0 ("),
        ("mem_gb", float("inf"), "must be a number above 0 ("),
        ("partition", ["a", "b"], "must be a text of one line ("),
        ("partition", "gpu\n#SBATCH --nice=0", "must be a text of one line ("),
        ("setup", "module load cuda", "must be a list of texts, each of one line ("),
        ("use_srun", "no", "must be true or false ("),
        ("additional_parameters", {"--nice": 1}, "must be a mapping of options of sbatch, without the dashes, to texts or numbers ("),
        ("additional_parameters", {"nice": [1]}, "must be a mapping of options of sbatch, without the dashes, to texts or numbers ("),
        ("array_parallelism", 4, "give --jobs"),
        ("tasks_per_node", 4, "a run is one process"),
        ("partiton", "gpu", "unknown key; did you mean 'partition'?"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, key, value, what):
    (line,) = problems(tmp_path, slurm={"timeout_min": 5, key: value})
    assert line.startswith(f"slurm.{key}: {what}")


def test_all_at_once_whatever_engine_is_used(tmp_path):
    assert problems(tmp_path, slurm={"partition": 3, "setup": []}, seeds=0) == [
        "seeds: must be a list of seeds, or how many (0); 3 is short for [0, 1, 2]",
        "slurm.partition: must be a text of one line (3)",
        "slurm.timeout_min: missing; minutes after which SLURM stops a job, as in 240",
    ]
    assert problems(tmp_path, slurm="gpu") == ["slurm: must be a mapping ('gpu')"]


def test_submitit_takes_them_all(tmp_path):
    pytest.importorskip("submitit")
    from submitit.auto.auto import AutoExecutor
    from submitit.slurm.slurm import SlurmExecutor

    of_executor = {"max_num_timeout"} & set(inspect.signature(SlurmExecutor).parameters)
    assert set(SLURM) == set(SLURM) & (AutoExecutor._valid_parameters() | SlurmExecutor._valid_parameters() | of_executor)
    assert yaml.safe_load(write(tmp_path, slurm=GOOD).read_text())["slurm"] == GOOD


def test_the_study_of_the_guide_is_one(tmp_path):
    text = (Path(__file__).resolve().parents[2] / "docs/sweeps.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n# a study on a cluster\n(.*?)```", text, re.DOTALL)
    path = tmp_path / "study.yaml"
    path.write_text(block)
    assert read_study(path).slurm == yaml.safe_load(block)["slurm"] != {}
