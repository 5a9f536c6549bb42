"""The decorators with which views state their contract: arguments, errors, scopes, names."""

from __future__ import annotations

import http
from collections.abc import Callable
from typing import Any, TypeVar

import flask_smorest
from flask.views import MethodView

from webapp.web.openapi import SECURITY_SCHEME
from webapp.web.parsing import StrictParser

View = TypeVar("View", bound=Callable[..., Any])


class Blueprint(flask_smorest.Blueprint):
    """A flask-smorest blueprint with strict arguments, and errors documented in one line.

    With ``ignores_undeclared`` its views accept any query and body, as health probes need it.
    """

    ARGUMENTS_PARSER = StrictParser()

    def __init__(self, *args: Any, ignores_undeclared: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ignores_undeclared = ignores_undeclared
        self.allowed: dict[tuple[str, str], frozenset[Any]] = {}
        """The scopes that each endpoint and method asks for, where its view says so."""

    def add_url_rule(
        self, rule: str, endpoint: str | None = None, view_func: Any = None, **options: Any
    ) -> None:
        """Register a route; ``get="list_items"`` and the like are its operation ids by method.

        Generated clients call the operation by this name. Raises KeyError where one is missing.
        """
        names = {m: options.pop(m) for m in map(str.lower, self.HTTP_METHODS) if m in options}
        endpoint = endpoint or view_func.__name__
        is_class = isinstance(view_func, type) and issubclass(view_func, MethodView)
        methods = [m.lower() for m in view_func.methods or ()] if is_class else ["get"]
        named: dict[str, Any] = {}
        for method in methods:
            view = getattr(view_func, method) if is_class else view_func
            # flask-smorest wraps it: a view may stand at several routes, with a name at each.
            named[method] = flask_smorest.Blueprint.doc(operationId=names[method])(view)
            if hasattr(view, "scopes"):
                self.allowed[f"{self.name}.{endpoint}", method.upper()] = view.scopes
        view_func = type(view_func.__name__, (view_func,), named) if is_class else named["get"]
        super().add_url_rule(rule, endpoint, view_func, **options)

    def arguments(self, schema: Any, *, location: str = "json", **kwargs: Any) -> Any:
        """Declare what a view takes."""
        # flask-smorest would make an instance for each request: 50 µs.
        schema = schema() if isinstance(schema, type) else schema
        parse = super().arguments(schema, location=location, **kwargs)
        if location not in self.DEFAULT_LOCATION_CONTENT_TYPE_MAPPING:
            return parse
        return lambda view: self.problems(400, 411, 413, 415)(parse(view))

    @staticmethod
    def doc(**kwargs: Any) -> Callable[[View], View]:
        """Add to what is documented of a view.

        flask-smorest wraps the view each time, only to call it: 5 of a prediction's 100 µs.
        """
        document = flask_smorest.Blueprint.doc(**kwargs)

        def decorate(view: View) -> View:
            view._apidoc = document(view)._apidoc  # type: ignore[attr-defined] # flask-smorest's
            return view

        return decorate

    def problems(self, *codes: int) -> Callable[[View], View]:
        """Document the errors that a view may answer with."""
        return self.doc(responses={code: http.HTTPStatus(code).name for code in codes})

    def allow(self, *scopes: str) -> Callable[[View], View]:
        """Let a view be called with an API key that has one of these scopes; by all without any.

        To stand above all other decorators of the view.
        """
        security = self.doc(security=[{SECURITY_SCHEME: [scope]} for scope in scopes])
        codes = [*([] if self.ignores_undeclared else [422]), *([401, 403] if scopes else [])]

        def decorate(view: View) -> View:
            allowed: Any = self.problems(*codes)(security(view))
            allowed.scopes = frozenset(scopes)
            return allowed  # type: ignore[no-any-return]

        return decorate
