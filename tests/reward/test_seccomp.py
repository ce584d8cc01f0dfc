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
    words |= {20 + 8 * place: (value >> 32) & 0xFFFFFFFF for place, value in enumerate(arguments)}
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
    special = {
        *syscalls.REFUSED,
        *syscalls.OWN_PID,
        *syscalls.OWN_PID_OR_0,
        *syscalls.ONE_OF,
        *syscalls.WORDS,
    }
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


@pytest.mark.parametrize("machine", syscalls.MACHINES)
def test_sockets_are_pairs_of_streams_that_reach_nobody(machine: str):
    numbers, denied = syscalls.MACHINES[machine][1], DENY | errno.EPERM
    for kind in (1, 1 | 0x800, 1 | 0x80000, 1 | 0x80800):
        assert answer(machine, numbers["socketpair"], 1, kind, 0) == ALLOW
    for family, kind in ((1, 2), (1, 3), (1, 5), (2, 1), (10, 1), (16, 1), (16, 3), (0, 1)):
        assert answer(machine, numbers["socketpair"], family, kind, 0) == denied
    for arguments, verdict in (
        ((5, 0x7F00, 9, 0, 0, 0), ALLOW),
        ((5, 0x7F00, 9, 0x4040, 0, 0), ALLOW),
        ((5, 0x7F00, 9, 1, 0, 0), denied),  # MSG_OOB
        ((5, 0x7F00, 9, 0, 0x7F00, 16), denied),  # an address, by its low half
        ((5, 0x7F00, 9, 0, 0x7F00 << 32, 16), denied),  # and by its high half
    ):
        assert answer(machine, numbers["sendto"], *arguments) == verdict
    assert answer(machine, numbers["recvfrom"], 5, 0x7F00, 9, 2, 0, 0) == ALLOW
    assert answer(machine, numbers["recvfrom"], 5, 0x7F00, 9, 1, 0, 0) == denied
    assert not {"socket", "connect", "bind", "listen", "accept", "sendmsg", "recvmsg", "sendmmsg"} & set(
        numbers
    )


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
