"""gunicorn's settings, from the same table as the application's (`config.py`)."""

import gc
import importlib
import math
import os
import select
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from config import ConfigError, load_settings

try:
    _settings = load_settings()
except ConfigError as _error:
    raise SystemExit(f"Configuration error: {_error}") from None


def _usable_cores() -> int:
    """Return the cores this process may really use: its affinity, cut by the cgroup's quota."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else min(cores, math.ceil(int(quota) / int(period)))


# Workers × threads × BLAS threads must fit the machine. Set before a worker imports NumPy;
# an operator's own value wins.
for _library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

wsgi_app = "wsgi:app"
bind = _settings["BIND"]
# Ours is quicker, and holds no thread for clients who dawdle; epoll is Linux's.
_has_epoll = hasattr(select, "epoll")
worker_class = "webapp.server.worker.EpollWorker" if _has_epoll else "gthread"
# Workers are forked from a master that has imported everything: they start at once, share its
# memory, and no first prediction waits for scikit-learn. Nothing connects before the fork.
preload_app = True
workers = _settings["WEB_CONCURRENCY"] or max(2, _usable_cores())
threads = _settings["WEB_THREADS"]
timeout = _settings["WEB_TIMEOUT"]
graceful_timeout = _settings["WEB_GRACEFUL_TIMEOUT"]
keepalive = 75  # longer than the usual proxy's, so that it is the proxy that closes
accesslog = None  # the application tells of its requests itself, whatever serves it
logger_class = "webapp.server.log.ServerLog"
loglevel = _settings["LOG_LEVEL"].lower()
# It is on by default, in the user's home, where a second instance takes over the first one's.
control_socket_disable = True
# The heartbeat file: a disk that stalls must not look like a worker that hangs.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None
limit_request_line = 8190  # bytes of a URL: gunicorn's most
# Forwarded headers are the application's business (PROXY_HOPS).
forwarded_allow_ips = ""


def post_worker_init(worker: object) -> None:
    """Load what a worker must know before the database may go away."""
    from wsgi import app

    app.extensions["keyring"].load()


def on_starting(server: object) -> None:
    """Import what models need before the first worker is forked; prepare the server's stop."""
    if _has_epoll:
        from webapp.server.worker import EpollWorker

        EpollWorker.watch(server)
    for library in ("skops.io", "sklearn.linear_model", "sklearn.metrics"):
        importlib.import_module(library)
    # What is here now stays: workers need not look through it for garbage, nor copy its pages.
    gc.collect()
    gc.freeze()
