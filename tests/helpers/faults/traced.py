"""A child process under strace: its system calls listed, or one of them made to fail."""

import gc
import json
import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from mlx_tune.errors import MlxTuneError

FAULTS = {"KILL": "signal=KILL", "ENOSPC": "error=ENOSPC", "EIO": "error=EIO"}
HANGS_AFTER_SECONDS = 60

# What can run out of space or meet a bad disk.
_FILE_CALLS = """
    access chdir chmod chown close copy_file_range creat dup dup2 dup3 faccessat faccessat2
    fallocate fchdir fchmod fchmodat fchown fcntl fdatasync fgetxattr flistxattr flock fsetxattr
    fstat fstatfs fsync ftruncate futimesat getcwd getdents getdents64 getxattr ioctl lgetxattr
    link linkat llistxattr lseek lsetxattr lstat mkdir mkdirat newfstatat open openat openat2
    pread64 preadv pwrite64 pwritev read readlink readlinkat readv rename renameat renameat2 rmdir
    sendfile setxattr stat statfs statx symlink symlinkat sync_file_range syncfs truncate unlink
    unlinkat utime utimensat utimes write"""
# What touches no file: only a kill can come there.
_OTHER_CALLS = """
    brk clock_gettime clock_nanosleep futex getegid geteuid getgid getpid getppid getrandom
    gettid getuid gettimeofday madvise mmap mprotect mremap munmap prctl prlimit64 restart_syscall
    rt_sigaction rt_sigprocmask rt_sigreturn sched_getaffinity sched_yield sysinfo times umask
    uname"""
FILE_CALLS, OTHER_CALLS = frozenset(_FILE_CALLS.split()), frozenset(_OTHER_CALLS.split())
# The child's own last words, which no protocol of ours uses.
LAST_WORDS = frozenset({"writev", "exit_group"})


@dataclass(frozen=True, kw_only=True)
class Call:
    """One system call.

    Attributes:
        name: Such as ``openat``.
        ordinal: Which call of that name, counted from 1.
        text: What strace wrote of it.
    """

    name: str
    ordinal: int
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a child ended.

    Attributes:
        said: What it announced: ``saved``, ``error`` (with ``code``) or ``crash``; empty if killed.
        calls: The system calls that strace saw: all, or those of the one name that was to fail.
        struck: Those of them that the fault struck.
    """

    said: dict[str, str]
    calls: list[Call]
    struck: list[Call]


def run(act: Callable[[], str], *, fault: str | None = None, at: Call | None = None) -> Outcome:
    """Let a child do something, and one fault strike it at one system call."""
    options = []
    if fault and at:
        inject = f"inject={at.name}:{FAULTS[fault]}:when={at.ordinal}"
        options = ["-e", f"trace={at.name}", "-e", inject]
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _live(act, writer)
    os.close(writer)
    try:
        text, killed = _watch(child, options)
        said = json.loads(os.read(reader, 1 << 16) or "{}")
    finally:
        os.close(reader)
    if text is None:
        return Outcome(said={"crash": "it hangs"}, calls=[], struck=[])
    calls = _calls(text.splitlines())
    struck = calls[-1:] if killed else [call for call in calls if "(INJECTED)" in call.text]
    return Outcome(said=said, calls=calls, struck=struck)


def why_not() -> str | None:
    """Return why nothing can be traced here, or None."""
    if not shutil.which("strace"):
        return "no strace; on Debian: apt-get install strace"
    try:
        run(lambda: "")
    except PermissionError as error:
        return f"strace may not attach to a process here: {error}"
    return None


def _live(act: Callable[[], str], writer: int) -> None:
    gc.disable()  # so that every child makes the same calls
    try:
        os.kill(os.getpid(), signal.SIGSTOP)
        os.writev(writer, [json.dumps(_told(act)).encode()])
    finally:
        os._exit(0)


def _told(act: Callable[[], str]) -> dict[str, str]:
    try:
        return {"saved": act()}
    except MlxTuneError as error:
        return {"error": str(error), "code": str(error.exit_code)}
    except BaseException as error:
        return {"crash": f"{error!r} at {_place(error)}"}


def _place(error: BaseException) -> str:
    """Return the innermost line of the package; without reading files, which may be what fails."""
    place, trace = "", error.__traceback__
    while trace is not None:
        if "mlx_tune" in trace.tb_frame.f_code.co_filename:
            place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def _watch(child: int, options: list[str]) -> tuple[str | None, bool]:
    """Return what strace wrote about a child, None if it hung, and whether a signal ended it."""
    os.waitpid(child, os.WUNTRACED)
    command = ["strace", *options, "-p", str(child)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        try:
            if "attached" not in (line := strace.stderr.readline()):
                raise PermissionError(line.strip())
            os.kill(child, signal.SIGCONT)
            text: str | None = strace.communicate(timeout=HANGS_AFTER_SECONDS)[1]
        except subprocess.TimeoutExpired:
            text = None
        finally:
            strace.kill()
            os.kill(child, signal.SIGKILL)  # of a child that has ended, this changes nothing
            _, status = os.waitpid(child, 0)
    return text, os.WIFSIGNALED(status)


def _calls(lines: list[str]) -> list[Call]:
    seen: Counter[str] = Counter()
    calls = []
    for line in lines:
        match = re.match(r"(\w+)\(", line)
        if match and match[1] not in LAST_WORDS:
            seen[match[1]] += 1
            calls.append(Call(name=match[1], ordinal=seen[match[1]], text=line))
    return calls
