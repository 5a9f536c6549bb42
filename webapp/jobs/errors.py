"""What may be wrong with a job."""

from __future__ import annotations

from webapp.errors import Conflict, NotFound, Unavailable


class JobNotFound(NotFound):
    """There is no such job, or it is another's."""

    def __init__(self, number: int) -> None:
        super().__init__(f"Job {number} does not exist.")


class JobEnded(Conflict):
    """The job has ended, which cannot be changed any more."""

    def __init__(self, number: int, status: str) -> None:
        super().__init__(f"Job {number} has {status} already.")


class JobNotRepeatable(Conflict):
    """The job cannot be done again."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(f"Job {number} cannot be done again: {reason}.")


class QueueFull(Unavailable):
    """There are as many jobs as may wait."""

    retry_after = 10


class ProcessDied(Unavailable):
    """The process that did the work was killed, or crashed for want of memory, say."""

    message = (
        "The process that worked on it died. If it dies again, it most likely needs more memory "
        "than it may take."
    )
    retry_after = 10


class EngineUnavailable(Unavailable):
    """The cluster that does the work cannot be reached, has no workers, or was lost meanwhile."""

    message = "The cluster that trains cannot be reached at present."
    retry_after = 10


class JobLost(Conflict):
    """The job was cancelled, or another process has taken it up."""

    message = "The job was cancelled."
