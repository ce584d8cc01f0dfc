"""A seccomp filter: which system calls the kernel does for a job.

The program is classic BPF over ``struct seccomp_data`` (seccomp(2)): number at byte 0, architecture at 4,
arguments as 64 bits from 16. It is made once per server; a child fills its own process id in. Calls are found
by a binary search over ranges of numbers with the same answer. Calls of another architecture (32-bit calls of
a 64-bit process) kill the job; x32 numbers are in no range, so they are refused.
"""

import ctypes
import errno
import os
from collections.abc import Mapping

from reward.sandbox.layers import kernel, syscalls
from reward.sandbox.layers.base import Layer, Place, refuse

_LD, _JEQ, _JGE, _RET = 0x20, 0x15, 0x35, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_JMP|JGE|K, BPF_RET|K
_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_OWN_PID = -1  # stands for the caller's process id until it is known

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand
Answer = tuple[Instruction, ...]  # a block that ends with a return on every path

ALLOWED: Answer = ((_RET, 0, 0, _ALLOW),)


def refused(error: int) -> Answer:
    """The call fails with this errno."""
    return ((_RET, 0, 0, _ERRNO | error),)


def if_words(words: Mapping[int, tuple[int, ...]]) -> Answer:
    """Allowed if each of these 32-bit words of the arguments has one of its values, else EPERM."""
    answer: list[Instruction] = []
    for word, values in words.items():
        tests = [(_JEQ, len(values) - index, 0, value) for index, value in enumerate(values)]
        answer += [(_LD, 0, 0, _ARGUMENTS + 4 * word), *tests, *refused(errno.EPERM)]
    return (*answer, *ALLOWED)


def if_argument(place: int, values: tuple[int, ...]) -> Answer:
    """Allowed if the low 32 bits of an argument are one of ``values``, else EPERM."""
    return if_words({2 * place: values})


def program(architecture: int, answers: Mapping[int, Answer], default: Answer) -> list[Instruction]:
    """A filter that gives each system call number its answer."""
    starts: list[tuple[int, Answer]] = [(0, default)]
    for number in sorted(answers):
        for start, answer in ((number, answers[number]), (number + 1, default)):
            if starts[-1][0] == start:
                starts.pop()
            if not starts or starts[-1][1] != answer:
                starts.append((start, answer))
    head = [(_LD, 0, 0, _ARCHITECTURE), (_JEQ, 1, 0, architecture), (_RET, 0, 0, _KILL_PROCESS)]
    return [*head, (_LD, 0, 0, _NUMBER), *_search(starts)]


def _search(starts: list[tuple[int, Answer]]) -> list[Instruction]:
    if len(starts) == 1:
        return list(starts[0][1])
    middle = len(starts) // 2
    below, above = _search(starts[:middle]), _search(starts[middle:])
    assert len(below) < 256  # a conditional jump's reach
    return [(_JGE, len(below), 0, starts[middle][0]), *below, *above]


def job_program(machine: str) -> list[Instruction]:
    """The filter of a job. Raises OSError for a machine whose numbers are not known."""
    if machine not in syscalls.MACHINES:
        raise OSError(f"no system call numbers for {machine}; known are {', '.join(syscalls.MACHINES)}")
    architecture, numbers = syscalls.MACHINES[machine]
    answers = {number: _answer(name) for name, number in numbers.items()}
    return program(architecture, answers, refused(errno.EPERM))


def _answer(name: str) -> Answer:
    if name in syscalls.REFUSED:
        return refused(syscalls.REFUSED[name])
    if name in syscalls.OWN_PID:
        return if_argument(syscalls.OWN_PID[name], (_OWN_PID,))
    if name in syscalls.OWN_PID_OR_0:
        return if_argument(syscalls.OWN_PID_OR_0[name], (0, _OWN_PID))
    if name in syscalls.WORDS:
        return if_words(syscalls.WORDS[name])
    if name in syscalls.ONE_OF:
        return if_argument(1, syscalls.ONE_OF[name])
    return ALLOWED


class _SockFilter(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("jt", ctypes.c_uint8),
        ("jf", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    )


class _SockFprog(ctypes.Structure):
    _fields_ = (("len", ctypes.c_uint16), ("filter", ctypes.POINTER(_SockFilter)))


class Filter:
    """A program in the kernel's form."""

    def __init__(self, instructions: list[Instruction]) -> None:
        filled = [_SockFilter(code, jt, jf, max(k, 0)) for code, jt, jf, k in instructions]
        self._code = (_SockFilter * len(filled))(*filled)
        self._program = _SockFprog(len(filled), self._code)
        self._own_pid = [place for place, one in enumerate(instructions) if one[3] == _OWN_PID]

    def install(self) -> None:
        """Bind this process, for good. Raises OSError."""
        for place in self._own_pid:
            self._code[place].k = os.getpid()
        kernel.syscall("seccomp", 1, 0, ctypes.byref(self._program))


class Seccomp(Layer):
    """The allow-list of ``syscalls``."""

    name = "seccomp"
    covers = (
        "sockets, processes and threads, executing programs, signals to others, tracing, mounts, "
        "namespaces, memory outside the limits, rare kernel interfaces"
    )

    def start(self, place: Place) -> None:
        self._filter = Filter(job_program(kernel.MACHINE))

    def apply(self, place: Place) -> None:
        self._filter.install()

    def check(self, place: Place) -> None:
        _must_fail("socket", 1, 1, 0)
        _must_fail("socketpair", 1, 2, 0, (ctypes.c_int * 2)())
        _must_fail("kill", os.getppid(), 0)
        _must_fail("unshare", 0)
        try:
            child = os.fork()
        except OSError:
            return
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        refuse(True, "fork")


def _must_fail(name: str, *arguments: int | ctypes.Array[ctypes.c_int]) -> None:
    try:
        kernel.libc(name, *arguments)
    except OSError:
        return
    refuse(True, name)
