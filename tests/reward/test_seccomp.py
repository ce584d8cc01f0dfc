"""The filter, run by an interpreter of its own: each system call gets the answer of the table."""

import errno
import platform
from pathlib import Path

import pytest

from reward.sandbox.layers import seccomp, syscalls

ALLOW, KILL, DENY = 0x7FFF0000, 0x80000000, 0x00050000
PID = 4321


def answer(machine: str, number: int, *arguments: int, architecture: int | None = None) -> int:
    """What the filter of a job with process id PID returns."""
    words = {0: number, 4: architecture or syscalls.MACHINES[machine][0]}
    words |= {16 + 8 * place: value & 0xFFFFFFFF for place, value in enumerate(arguments)}
    code = [(c, t, f, PID if k == -1 else k) for c, t, f, k in seccomp.job_program(machine)]
    place = accumulator = 0
    while True:
        operation, if_true, if_false, operand = code[place]
        place += 1
        if operation == 0x20:
            accumulator = words.get(operand, 0)
        elif operation == 0x06:
            return operand
        else:
            holds = accumulator == operand if operation == 0x15 else accumulator >= operand
            place += if_true if holds else if_false


@pytest.mark.parametrize("machine", syscalls.MACHINES)
def test_every_number(machine: str):
    names = {number: name for name, number in syscalls.MACHINES[machine][1].items()}
    special = {*syscalls.REFUSED, *syscalls.OWN_PID, *syscalls.OWN_PID_OR_0, *syscalls.ONE_OF}
    for number in (*range(600), 2**30, 2**30 + 57, 2**31, 2**32 - 1):
        name = names.get(number)
        if name in special:
            continue
        assert answer(machine, number) == (ALLOW if name else DENY | errno.EPERM), (number, name)


@pytest.mark.parametrize("machine", syscalls.MACHINES)
def test_arguments(machine: str):
    numbers = syscalls.MACHINES[machine][1]
    for name in syscalls.OWN_PID:
        assert answer(machine, numbers[name], PID) == ALLOW
        for other in (0, 1, -1, -PID, PID + 1):
            assert answer(machine, numbers[name], other) == DENY | errno.EPERM
    assert answer(machine, numbers["prlimit64"], 0) == answer(machine, numbers["prlimit64"], PID) == ALLOW
    assert answer(machine, numbers["prlimit64"], 1) == DENY | errno.EPERM
    for command, verdict in (
        (1, ALLOW),
        (8, DENY | errno.EPERM),
        (10, DENY | errno.EPERM),
        (1031, DENY | errno.EPERM),
    ):
        assert answer(machine, numbers["fcntl"], 3, command) == verdict
    assert answer(machine, numbers["ioctl"], 3, 0x5401) == ALLOW
    assert answer(machine, numbers["ioctl"], 3, 0x5412) == DENY | errno.EPERM  # TIOCSTI
    assert answer(machine, numbers["clone3"]) == DENY | errno.ENOSYS
    assert answer(machine, numbers["clone"], 0x3D0F00) == DENY | errno.EAGAIN


def test_another_architecture_kills():
    assert answer("x86_64", 20, architecture=0x40000003) == KILL
    assert answer("aarch64", 20, architecture=0x40000028) == KILL


def test_an_unknown_machine_is_refused():
    with pytest.raises(OSError, match="riscv64"):
        seccomp.job_program("riscv64")


def test_the_numbers_are_the_kernels():
    header = Path(f"/usr/include/{platform.machine()}-linux-gnu/asm/unistd_64.h")
    if platform.machine() != "x86_64" or not header.exists():
        pytest.skip("no header of the kernel here")
    lines = [line.split() for line in header.read_text().splitlines() if line.startswith("#define __NR_")]
    known = {line[1].removeprefix("__NR_"): int(line[2]) for line in lines if line[2].isdigit()}
    for name, number in syscalls.MACHINES["x86_64"][1].items():
        assert known[name] == number, name
