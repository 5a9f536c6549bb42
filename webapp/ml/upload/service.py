"""Upload: from a file that was fitted elsewhere to a job, and from its answer to a version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from webapp.db.leases import Leases
from webapp.errors import InvalidInput
from webapp.jobs.processes import MB, ProcessFailed, ProcessLimits
from webapp.jobs.runner import Kind
from webapp.jobs.service import Order
from webapp.ml.core.packing import pack_upload, unpack_upload
from webapp.ml.core.tables.shapes import Source
from webapp.ml.errors import ArtifactUnusable
from webapp.ml.registry.models import ModelVersion
from webapp.ml.training.service import IF_BETTER, make_version_kind
from webapp.ml.upload import work

KIND = "upload"


def order_upload(
    *,
    name: str,
    data: bytes,
    format_name: str | None = None,
    source: str | None = None,
    checks: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    activate: bool | str = False,
    metric: str | None = None,
    table: Source | None = None,
    target: str | None = None,
    extra: str = "refuse",
    holder: str = "",
) -> Order:
    """Return the order to store a file, a model fitted elsewhere, as a model's next version.

    Without a ``format_name``, the file's bytes tell. ``source`` is the name of the file.
    ``checks`` are what else came with it, for the format's ``describe``: feature names, a
    signature, a sample with expected predictions. With a ``metric``, it is activated only if it is
    better than the active version on the rows of the ``table``, whose column ``target`` is to be
    predicted, and whose further columns are refused or ignored as ``extra`` says; ``comparison``
    in its metrics says what was compared.
    """
    return Order(
        kind=KIND,
        model=name,
        options={
            "format": format_name,
            "source": source,
            "activate": activate if metric is None else IF_BETTER,
            "metric": metric,
        },
        payload=pack_upload(
            data,
            table,
            format_name=format_name,
            checks=checks or {},
            metrics=metrics or {},
            metric=metric,
            target=target,
            extra=extra,
        ),
        holder=holder,
    )


def make_kind(leases: Leases[Any, Any], settings: Mapping[str, Any]) -> Kind:
    """Return how jobs of this kind are done."""

    def limit(_order: Order) -> ProcessLimits:
        return ProcessLimits(settings["MAX_UPLOAD_MEMORY"] * MB, settings["MAX_UPLOAD_SECONDS"])

    def make(order: Order, answer: dict[str, Any]) -> tuple[ModelVersion, bytes]:
        version = ModelVersion(
            origin="uploaded",
            libraries=answer["libraries"],
            source=order.options["source"],
            warnings=answer["warnings"],
            **answer["version"],
        )
        return version, unpack_upload(order.payload)[0]

    def explain(order: Order, failure: ProcessFailed) -> Exception:
        if failure.reason == "error":
            return failure
        # Also where it died: compiled code that loads a file ends so for want of memory, too.
        allowed = f"{limit(order)} (MAX_UPLOAD_MEMORY, MAX_UPLOAD_SECONDS)"
        message = str(ArtifactUnusable(f"it could not be loaded and tried within {allowed}"))
        return InvalidInput({"artifact": [message]}, source="form")

    return make_version_kind(
        leases,
        work=work.inspect,
        bound=settings["MAX_COLUMNS"],
        limit=limit,
        make=make,
        explain=explain,
    )
