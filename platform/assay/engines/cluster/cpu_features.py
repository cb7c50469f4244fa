"""What this machine's processor can do."""

from pathlib import Path


def computes_in_bf16() -> bool:
    """Whether the CPU has instructions for bfloat16. Without them bf16 is emulated: a matrix
    product took three times as long as in fp32 on a processor with plain AVX-512."""
    return bool(bf16_instructions())


def bf16_instructions() -> list[str]:
    """Which of them it has, by the kernel's names."""
    return sorted({"amx_bf16", "avx512_bf16"} & _flags())


def has_avx2() -> bool:
    """Whether the CPU has what vLLM's CPU build needs at least."""
    return "avx2" in _flags()


def _flags() -> set[str]:
    try:
        return set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return set()
