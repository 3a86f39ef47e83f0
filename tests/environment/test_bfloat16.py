"""Whether a processor computes in bfloat16 is read from what Linux says of it, and said once where `amp` would be slow."""

from __future__ import annotations

import pytest
from run_helpers import config_of, settings

from usb_active.environment.bfloat16 import native_bfloat16
from usb_active.usb import device

OLD = "processor\t: 0\nflags\t\t: fpu sse2 avx2 avx512f\n\nprocessor\t: 1\nflags\t\t: fpu sse2 avx2 avx512f\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (OLD, False),
        (OLD.replace("avx512f", "avx512f avx512_bf16"), True),
        (OLD.replace("avx512f", "avx512f amx_bf16 amx_tile"), True),
        ("processor : 0\nFeatures : fp asimd sve i8mm bf16\n", True),
        ("processor : 0\nFeatures : fp asimd sve\n", False),
        ("processor : 0\nmodel name : a machine that says nothing of it\n", None),
        ("", None),
    ],
)
def test_what_linux_says(tmp_path, text, expected):
    (tmp_path / "cpuinfo").write_text(text)
    assert native_bfloat16(tmp_path / "cpuinfo") is expected


def test_a_system_without_such_a_file_says_nothing(tmp_path):
    assert native_bfloat16(tmp_path / "none") is None


@pytest.mark.parametrize(("amp", "native", "said"), [(True, False, 1), (True, True, 0), (True, None, 0), (False, False, 0)])
def test_amp_on_a_cpu_that_imitates_it_is_said_once(tmp_path, monkeypatch, amp, native, said):
    monkeypatch.setattr(device, "native_bfloat16", lambda: native)
    lines = device.device_remarks(config_of(settings(tmp_path, amp=amp)))
    assert len(lines) == said and all("only imitates it: slower than amp: false" in line for line in lines)


def test_check_says_it(tmp_path, monkeypatch, caplog):
    from usb_active.commands.run import say_advice

    monkeypatch.setattr(device, "native_bfloat16", lambda: False)
    say_advice(config_of(settings(tmp_path, amp=True)))
    assert [record.levelname for record in caplog.records if "bfloat16" in record.getMessage()] == ["WARNING"]
