"""Makes opening a file slow, for the whole process and whatever language opens it: as a busy network share is.

A few lines of C that the loader puts before the C library (`LD_PRELOAD`): so Rust's readers are slowed down too, which
Python cannot see. Linux alone, and a C compiler.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

_NAME = "RAYLORA_SLOW_OPEN"
_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

static atomic_long delay_us;
static __thread long opens, waited_us;
static char below[4096];

void slow_open(const char *folder, long us) {
    strncpy(below, folder, sizeof below - 1);
    atomic_store(&delay_us, us);
}
long slow_opens(void) { return opens; }
long slow_waited_us(void) { return waited_us; }

static long now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000L + now.tv_nsec / 1000;
}

static void wait_for(const char *path) {
    if (!below[0] || strncmp(path, below, strlen(below))) return;
    long began = now_us(), us = atomic_load(&delay_us);
    struct timespec pause = {us / 1000000, us % 1000000 * 1000};
    if (us) nanosleep(&pause, 0);
    opens += 1;
    waited_us += now_us() - began;
}

#define WRAP(name, head, call)                                                  \
    int name head {                                                            \
        static int (*real) head;                                                \
        mode_t mode = 0;                                                        \
        if (flags & (O_CREAT | O_TMPFILE)) {                                    \
            va_list rest;                                                       \
            va_start(rest, flags);                                              \
            mode = va_arg(rest, mode_t);                                        \
            va_end(rest);                                                       \
        }                                                                       \
        if (!real) real = dlsym(RTLD_NEXT, #name);                              \
        wait_for(path);                                                         \
        return real call;                                                       \
    }
WRAP(open, (const char *path, int flags, ...), (path, flags, mode))
WRAP(open64, (const char *path, int flags, ...), (path, flags, mode))
WRAP(openat, (int folder, const char *path, int flags, ...), (folder, path, flags, mode))
WRAP(openat64, (int folder, const char *path, int flags, ...), (folder, path, flags, mode))
"""


def restart_with() -> None:
    """Start this program anew with slow opening built in, if it is not yet; ends it where that cannot be."""
    if built := os.environ.pop(_NAME, ""):
        del os.environ["LD_PRELOAD"]  # it is loaded; the programs that this one starts do without
        shutil.rmtree(built)
        return
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        sys.exit("this benchmark needs Linux and a C compiler (apt-get install gcc)")
    folder = Path(tempfile.mkdtemp())
    source, library = folder / "slow_open.c", folder / "slow_open.so"
    source.write_text(_SOURCE)
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    os.environ |= {"LD_PRELOAD": str(library), _NAME: str(folder)}
    os.execv(sys.executable, [sys.executable, *sys.argv])


def slow_down(folder: Path, seconds: float) -> None:
    """From now on each opening of a file below a folder takes so much longer."""
    ctypes.CDLL(None).slow_open(os.fsencode(folder), ctypes.c_long(int(seconds * 1e6)))


def opened() -> tuple[int, float]:
    """How many files below the folder this thread has opened, and the seconds that it waited for them."""
    library = ctypes.CDLL(None)
    library.slow_opens.restype = library.slow_waited_us.restype = ctypes.c_long
    return library.slow_opens(), library.slow_waited_us() / 1e6
