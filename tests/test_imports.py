"""The law of the house: who may import whom (DESIGN: the layers are the file names)."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "webapp").rglob("*.py"))
}
NUMERIC = {"numpy", "pandas", "sklearn", "scipy", "skops", "pyarrow"}
WEB = {"flask", "flask_smorest", "flask_sqlalchemy", "flask_migrate", "werkzeug", "webargs"}


def imported(path: Path) -> set[str]:
    """Return the dotted names of all modules that a file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names.add(str(node.module))
            names |= {
                f"{node.module}.{alias.name}"
                for alias in node.names
                if f"{node.module}.{alias.name}" in MODULES
            }
    return names


IMPORTS = {module: imported(path) for module, path in MODULES.items()}


def ours(module: str) -> set[str]:
    """Return the modules of this project that a module imports, packages left aside."""
    packages = {name for name in MODULES if MODULES[name].name == "__init__.py"}
    return {name for name in IMPORTS[module] if name in MODULES} - packages


def libraries(module: str) -> set[str]:
    """Return the top-level names of all that a module imports."""
    return {name.partition(".")[0] for name in IMPORTS[module]}


SHARED = ("errors", "scopes", "extensions", "commands")
LAW: dict[str, set[str]] = {
    # What every module may know …
    "errors": set(),
    "scopes": set(),
    "extensions": {"db", "web"},
    "commands": {"audit", "db", "errors"},
    # … and the folders, each of which names only those below it, and no feature in the first four.
    "server": set(),
    "db": {"errors"},
    "web": {"db", "errors"},
    "observability": {"web", "db", "errors", "scopes", "extensions"},
    "ui": {"web", "extensions"},
    "audit": {"web", "db", "errors", "scopes", "extensions"},
    "access": {"audit", "web", "db", *SHARED},
    "idempotency": {"web", "db", "errors", "extensions"},
    "jobs": {"audit", "web", "db", *SHARED},
    "items": {"idempotency", "audit", "web", "db", *SHARED},
    "ml": {"jobs", "idempotency", "audit", "observability", "web", "db", *SHARED},
    "cli": {"items", "ml", "audit", "db", "commands", "extensions"},
}
"""What each folder (or module beside them) of ``webapp`` may import; the root may import all."""


def folder(module: str) -> str:
    """Return the folder of ``webapp`` that a module is in, or its name beside them."""
    return module.split(".")[1]


@pytest.mark.parametrize("name", sorted({folder(m) for m in MODULES if "." in m}))
def test_every_folder_knows_only_what_its_law_allows(name: str) -> None:
    for module in MODULES:
        if module.startswith(f"webapp.{name}.") or module == f"webapp.{name}":
            known = {folder(found) for found in ours(module)} - {name}
            assert known <= LAW[name], module


def test_no_modules_import_each_other_in_a_circle() -> None:
    left = {module: ours(module) - {module} for module in MODULES}
    while free := [module for module, known in left.items() if not known & left.keys()]:
        for module in free:
            del left[module]
    assert not left


CORE = r"errors|ml\.errors|ml\.core\..+"
SERVICE = rf"{CORE}|db\.(base|outages|postgresql)|audit\.service|{{own}}\.(errors|models)"
WEB_PARTS = "blueprint|openapi|parsing|fields|jsonio|paging|problems|request"
ROUTES = rf"scopes|commands|errors|extensions|web\.({WEB_PARTS})|{{feature}}\..+"
LAYERS = [
    ("errors", "", WEB | NUMERIC | {"sqlalchemy", "marshmallow"}),
    (r"ml\.registry\..+", r"(?!ml\.(training|inference|upload)\.).+", set()),
    (r"ml\.training\..+", r"(?!ml\.(inference|search)\.).+", set()),
    (r"ml\.inference\..+", r"(?!ml\.training\.).+", set()),
    (r"ml\.core\.tables\..+", r"errors|ml\.core\.(datasets|signature|tables\..+)", set()),
    (r"ml\.core\..+", CORE, WEB | {"sqlalchemy", "marshmallow", "config", "time"}),
    (r".+\.models", r"db\.base", WEB),
    (r"db\.leases", "errors", set()),
    (
        r"ml\..+\.serving",
        rf"{CORE}|db\.leases|ml\.inference\.shadow",
        WEB | {"sqlalchemy", "marshmallow", "config"},
    ),
    (r"(?!ml|access).+\.service", SERVICE, WEB | {"marshmallow", "config"}),
    (r"access\.service", rf"{SERVICE}|scopes", WEB | {"marshmallow", "config"}),
    (
        r"ml\..+\.service",
        rf"{SERVICE}|{{own}}\.(boosting|work)|jobs\.(processes|runner|service)|db\.leases|"
        r"jobs\.steps|ml\.inference\.(serving|shadow)|ml\.registry\.(models|service)|"
        r"ml\.training\.(service|work)",
        WEB | {"marshmallow", "config"},
    ),
    (
        r".+\.schemas",
        rf"{CORE}|web\.(fields|paging)|{{feature}}\.((training|registry)\.)?schemas|"
        r"({own}|jobs)\.models",
        {"flask", "sqlalchemy"},
    ),
    (
        r".+\.routes|ml\.cli",
        rf"{ROUTES}|idempotency\.views|observability\.observer|jobs\.(models|processes|service)",
        {"sqlalchemy"},
    ),
]
"""Modules, which of ours they may import, and which libraries they may not.

``{own}`` is the folder that the module is in, and ``{feature}`` the first folder on the way there.
"""


@pytest.mark.parametrize(("layer", "allowed", "forbidden"), LAYERS)
def test_every_layer_obeys_its_law(layer: str, allowed: str, forbidden: set[str]) -> None:
    found = [module for module in MODULES if re.fullmatch(rf"webapp\.({layer})", module)]
    assert found
    for module in found:
        _, feature, *_ = module.split(".")
        own = module.removeprefix("webapp.").rpartition(".")[0]
        law = allowed.format(own=own, feature=feature)
        known = {name.removeprefix("webapp.") for name in ours(module)}
        assert not {name for name in known if not re.fullmatch(law, name)}, module
        assert not libraries(module) & forbidden, module


def test_nobody_but_the_root_reads_the_settings() -> None:
    assert [module for module in MODULES if "config" in libraries(module)] == ["webapp"]


def test_no_file_of_the_project_unpickles() -> None:
    unsafe = {"pickle", "joblib", "cloudpickle", "dill", "shelve", "marshal"}
    folders = ("webapp", "migrations", "tests", "benchmarks")
    for path in [*ROOT.glob("*.py"), *(p for f in folders for p in (ROOT / f).rglob("*.py"))]:
        assert not {name.partition(".")[0] for name in imported(path)} & unsafe, path


def test_importing_has_no_effects() -> None:
    for module, path in MODULES.items():
        calls = [
            node
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        ]
        assert not calls, f"{module} does something when it is imported"
