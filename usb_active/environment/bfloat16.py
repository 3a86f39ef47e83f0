"""Whether this machine's processor computes in bfloat16, or only imitates it, which is slower than float32."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
# Linux's names of it: Intel and AMD, ARM.
_NATIVE = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


@cache
def native_bfloat16(cpuinfo: Path = _CPUINFO) -> bool | None:
    """Whether it does; None where the system does not say."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    lines = re.findall(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return bool(_NATIVE & set(lines[0].split())) if lines else None
