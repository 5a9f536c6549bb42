"""gunicorn's settings, from the same table as the application's (`config.py`)."""

import gc
import importlib
import os
import resource
import select
import sys
from pathlib import Path
from typing import Any

from gunicorn.glogging import Logger

sys.path.insert(0, str(Path(__file__).resolve().parent))

from config import ConfigError, load_settings, usable_cores

try:
    _settings = load_settings()
except ConfigError as _error:
    raise SystemExit(f"Configuration error: {_error}") from None

RUNNERS = ("jobs", "uploads")
LEAVE = 5  # seconds that a worker has, after its last answer, to leave its jobs to others
OPEN_FILES = 65_536  # each connection is one, and one more for a large body

# Workers × threads × BLAS threads must fit the machine. Set before a worker imports NumPy;
# an operator's own value wins.
for _library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")


class ServerLog(Logger):
    """Passes gunicorn's messages to the application's log, unless they have a file."""

    def setup(self, cfg: Any) -> None:
        """Set up, at the start and at each reload."""
        super().setup(cfg)
        if cfg.errorlog == "-":
            self.error_log.handlers.clear()
            self.error_log.propagate = True


wsgi_app = "wsgi:app"
bind = _settings["BIND"]
_is_epoll = _settings["WORKER_CLASS"] == "epoll" and hasattr(select, "epoll")
worker_class = "webapp.server.worker.EpollWorker" if _is_epoll else "gthread"
# Workers are forked from a master that has imported everything: they start at once, share its
# memory, and no first prediction waits for scikit-learn. Nothing connects before the fork.
preload_app = True
workers = _settings["WEB_CONCURRENCY"] or max(2, usable_cores())
threads = _settings["WEB_THREADS"]
timeout = _settings["WEB_TIMEOUT"]
graceful_timeout = _settings["WEB_GRACEFUL_TIMEOUT"] + LEAVE
keepalive = 75  # longer than the usual proxy's, so that it is the proxy that closes
accesslog = None  # the application logs its requests (ACCESS_LOG)
logger_class = ServerLog
loglevel = _settings["LOG_LEVEL"].lower()
# By default it is in the user's home, where a second instance takes over the first one's.
control_socket_disable = True
# The heartbeat file: a disk that stalls must not look like a worker that hangs.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None
limit_request_line = 8190  # bytes of a URL: gunicorn's maximum
forwarded_allow_ips = ""  # forwarded headers are for the application (PROXY_HOPS)


def on_starting(server: object) -> None:
    """Prepare the master, before it forks workers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if _is_epoll:
        from webapp.server.worker import EpollWorker

        EpollWorker.max_body = _settings["MAX_CONTENT_LENGTH"]
        EpollWorker.grace = _settings["WEB_GRACEFUL_TIMEOUT"]
    of_sklearn = ("linear_model", "metrics", "model_selection")
    of_pyarrow = ("csv", "parquet", "pandas_compat")  # 12 ms of a child that judges an upload
    libraries = (
        *("skops.io", "pandas"),
        *(f"sklearn.{name}" for name in of_sklearn),
        *(f"pyarrow.{name}" for name in of_pyarrow),
    )
    for library in libraries:
        importlib.import_module(library)
    from sklearn.utils import check_array

    check_array([[0.0]])  # looks for plugins, once in each process: 8 ms of a child
    # What is here now stays: workers need not look through it for garbage, nor copy its pages.
    gc.collect()
    gc.freeze()
    from wsgi import app

    for name in RUNNERS:
        app.extensions[name].executor.start()  # what all workers share


def post_worker_init(worker: object) -> None:
    """Load the API keys, which a worker must know before the database may go away."""
    from wsgi import app

    app.extensions["keyring"].load()
    for name in RUNNERS:
        app.extensions[name].start()


def worker_exit(_server: object, _worker: object) -> None:
    """Leave the jobs that this worker has begun to others."""
    from wsgi import app

    for name in RUNNERS:
        app.extensions[name].close()
