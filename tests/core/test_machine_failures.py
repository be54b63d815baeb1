"""Which errors are the machine's, and what is said about them."""

import pytest

from cprune_rl.core.machine_failures import machine_failure, remedy


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "RuntimeError: Check failed: (lib_handle_ != nullptr) is false: Failed to load dynamic "
            "shared library 3-trial4.so 3-trial4.so: failed to map segment from shared object",
            "noexec",
        ),
        ("OSError: [Errno 28] No space left on device: 'trial1.so'", "Make room on the disk of X"),
        ("OSError: [Errno 122] Disk quota exceeded", "Make room on the disk of X"),
        ("MemoryError: no message", "memory"),
        ("InternalError: std::bad_alloc", "memory"),
        ("OSError: [Errno 12] Cannot allocate memory", "memory"),
        ("collect2: fatal error: ld terminated with signal 9 [Killed]", "memory"),
        ("FileNotFoundError: [Errno 2] No such file or directory: '/gone/x'", "TMPDIR=/var/tmp"),
        ("OSError: [Errno 30] Read-only file system", "read-only"),
        ("PermissionError: [Errno 13] Permission denied", "TMPDIR"),
        ("libm.so.6: version `GLIBC_2.38' not found", "TMPDIR"),
        ("1-net.so: wrong ELF class: ELFCLASS32", "TMPDIR"),
    ],
)
def test_a_failure_of_the_machine_is_known_and_has_a_remedy(text: str, said: str) -> None:
    assert machine_failure(text) is not None
    assert said in remedy(text, "X")


@pytest.mark.parametrize(
    "text",
    [
        "wrong output: it differs from torch's by 3 where values reach 28",
        "the program crashed, or its device went away: InternalError: kShutdown",
        "TimeoutError: no answer within 10 s; the session was ended",
        "build failed: InternalError: loop is not parallelizable: errno 120 is none",
        "no program fits this task",
    ],
)
def test_a_failure_of_a_program_stays_its_own(text: str) -> None:
    assert machine_failure(text) is None
