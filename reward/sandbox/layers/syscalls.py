"""The system calls a job may make: what CPython needs to compute, import its library and use a scratch folder.

Numbers from the kernel's tables (``unistd_64.h`` for x86_64, the generic ``unistd.h`` for aarch64). Whatever
is not named here is refused, so a call that a future kernel adds is refused too. Left out on purpose, among
others: sockets, ptrace, process_vm_*, pidfd_*, mount and namespaces, bpf, perf, keys, userfaultfd, io_uring,
memfd and System V memory (memory outside the limits), execve, prctl, changes of user, group, session, CPU
affinity or priority; chmod, chown, times and extended attributes, which Landlock does not cover.

One kind of socket is allowed, because asyncio needs it: a connected pair of stream sockets of the process itself, which
can reach nobody else: no address can be given, no descriptor passed (sendmsg), no out-of-band data sent. Its buffers are memory outside
the limits, as a pipe's are: 13 MiB with all 64 descriptors.
"""

import errno

_X86_64 = """
read=0 write=1 open=2 close=3 stat=4 fstat=5 lstat=6 poll=7 lseek=8 mmap=9 mprotect=10 munmap=11 brk=12
rt_sigaction=13 rt_sigprocmask=14 rt_sigreturn=15 ioctl=16 pread64=17 pwrite64=18 readv=19 writev=20 access=21
pipe=22 select=23 sched_yield=24 mremap=25 madvise=28 dup=32 dup2=33 pause=34 nanosleep=35 getitimer=36
alarm=37 setitimer=38 getpid=39 sendfile=40 sendto=44 recvfrom=45 socketpair=53 clone=56 fork=57 vfork=58 exit=60 wait4=61 kill=62 uname=63
fcntl=72 fsync=74 fdatasync=75 ftruncate=77 getdents=78 getcwd=79 chdir=80 fchdir=81
rename=82 mkdir=83 rmdir=84 creat=85 link=86 unlink=87 symlink=88 readlink=89 umask=95
gettimeofday=96 getrlimit=97 getrusage=98 sysinfo=99 times=100 getuid=102 getgid=104 geteuid=107 getegid=108
getppid=110 getpgrp=111 getgroups=115 getresuid=118 getresgid=120 getpgid=121 getsid=124 rt_sigpending=127
rt_sigtimedwait=128 rt_sigsuspend=130 sigaltstack=131 statfs=137 fstatfs=138 getpriority=140
arch_prctl=158 setrlimit=160 gettid=186 time=201 futex=202 sched_getaffinity=204 getdents64=217
set_tid_address=218 restart_syscall=219 fadvise64=221 clock_gettime=228 clock_getres=229 clock_nanosleep=230
exit_group=231 tgkill=234 waitid=247 openat=257 mkdirat=258 newfstatat=262 unlinkat=263
renameat=264 linkat=265 symlinkat=266 readlinkat=267 faccessat=269 pselect6=270 ppoll=271
set_robust_list=273 fallocate=285 dup3=292 pipe2=293 preadv=295 pwritev=296 prlimit64=302
getcpu=309 renameat2=316 getrandom=318 membarrier=324 statx=332 rseq=334 clone3=435 close_range=436
openat2=437 faccessat2=439
"""
_AARCH64 = """
getcwd=17 dup=23 dup3=24 fcntl=25 ioctl=29 mkdirat=34 unlinkat=35 symlinkat=36 linkat=37 renameat=38
statfs=43 fstatfs=44 ftruncate=46 fallocate=47 faccessat=48 chdir=49 fchdir=50
openat=56 close=57 pipe2=59 getdents64=61 lseek=62 read=63 write=64 readv=65 writev=66 pread64=67
pwrite64=68 preadv=69 pwritev=70 sendfile=71 pselect6=72 ppoll=73 readlinkat=78 newfstatat=79 fstat=80
fsync=82 fdatasync=83 exit=93 exit_group=94 waitid=95 set_tid_address=96 futex=98
set_robust_list=99 nanosleep=101 getitimer=102 setitimer=103 clock_gettime=113 clock_getres=114
clock_nanosleep=115 sched_getaffinity=123 sched_yield=124 restart_syscall=128 kill=129 tgkill=131
sigaltstack=132 rt_sigsuspend=133 rt_sigaction=134 rt_sigprocmask=135 rt_sigpending=136 rt_sigtimedwait=137
rt_sigreturn=139 getpriority=141 getresuid=148 getresgid=150 times=153 getpgid=155 getsid=156 getgroups=158
uname=160 getrlimit=163 setrlimit=164 getrusage=165 umask=166 getcpu=168 gettimeofday=169 getpid=172
getppid=173 getuid=174 geteuid=175 getgid=176 getegid=177 gettid=178 sysinfo=179 socketpair=199 sendto=206
recvfrom=207 brk=214 munmap=215
mremap=216 clone=220 mmap=222 fadvise64=223 mprotect=226 madvise=233 wait4=260 prlimit64=261 renameat2=276
getrandom=278 membarrier=283 statx=291 rseq=293 clone3=435 close_range=436 openat2=437 faccessat2=439
"""


def _numbers(table: str) -> dict[str, int]:
    return {name: int(number) for name, _, number in (entry.partition("=") for entry in table.split())}


#: machine -> (AUDIT_ARCH value, name -> number)
MACHINES = {"x86_64": (0xC000003E, _numbers(_X86_64)), "aarch64": (0xC00000B7, _numbers(_AARCH64))}

#: Refused with the error of a machine that has no process left, or no such call (the C library then falls
#: back to clone). Threads count: their number would be bounded by memory only, and a machine has few to give.
REFUSED = {"fork": errno.EAGAIN, "vfork": errno.EAGAIN, "clone": errno.EAGAIN, "clone3": errno.ENOSYS}

#: Allowed when the argument at this place is the caller's own process id.
OWN_PID = {"kill": 0, "tgkill": 0}
#: The same, or 0, which stands for the caller too; for kill it would be the process group.
OWN_PID_OR_0 = {"prlimit64": 0}
#: Allowed when each of these 32-bit words of the arguments has one of these values; words 2 n and 2 n + 1 are the low and
#: the high half of the argument at place n. AF_UNIX and SOCK_STREAM, with or without SOCK_NONBLOCK and SOCK_CLOEXEC; no
#: address, and of the flags MSG_DONTWAIT and MSG_NOSIGNAL; MSG_PEEK, MSG_DONTWAIT and MSG_WAITALL.
WORDS: dict[str, dict[int, tuple[int, ...]]] = {
    "socketpair": {0: (1,), 2: (1, 0x801, 0x80001, 0x80801)},
    "sendto": {6: (0, 0x40, 0x4000, 0x4040), 8: (0,), 9: (0,)},
    "recvfrom": {6: (0, 2, 0x40, 0x42, 0x100)},
}

#: Allowed when the argument at place 1 is one of these: terminal queries and descriptor flags; descriptor
#: flags and locks (not F_SETOWN, which sends signals, and F_SETPIPE_SZ).
ONE_OF = {
    "ioctl": (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451),
    "fcntl": (0, 1, 2, 3, 4, 5, 6, 7, 1030),
}
