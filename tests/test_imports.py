"""The law of the house: who may import whom (DESIGN: the layers are the file names)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "webapp").rglob("*.py"))
}
FEATURES = ("items", "ml")
NUMERIC = {"numpy", "sklearn", "scipy", "skops", "pyarrow"}
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


def layer(name: str) -> list[str]:
    """Return the modules that bear a layer's name, of every feature."""
    return [
        module for module in MODULES if module.split(".")[-1] == name and "ml.core" not in module
    ]


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
    "items": {"idempotency", "audit", "web", "db", *SHARED},
    "ml": {"idempotency", "audit", "observability", "web", "db", *SHARED},
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


CORE = [module for module in MODULES if module.startswith("webapp.ml.core.")]


@pytest.mark.parametrize("module", CORE)
def test_core_knows_numbers_and_nothing_else(module: str) -> None:
    allowed = {"webapp.errors", "webapp.ml.errors", *CORE}

    assert ours(module) <= allowed
    assert not libraries(module) & (WEB | {"sqlalchemy", "marshmallow", "config", "time"})


@pytest.mark.parametrize("module", layer("models"))
def test_models_know_the_base_only(module: str) -> None:
    assert ours(module) <= {"webapp.db.base"}
    assert not libraries(module) & WEB


PARTS_OF_ML = {
    "core": {"core"},
    "registry": {"registry", "core"},
    "training": {"training", "registry", "core"},
    "inference": {"inference", "registry", "core"},
}
"""What each part of ``ml`` may import of the others."""


@pytest.mark.parametrize("part", PARTS_OF_ML)
def test_parts_of_ml_know_the_registry_which_knows_none(part: str) -> None:
    for module in MODULES:
        if module.startswith(f"webapp.ml.{part}."):
            known = {found.split(".")[2] for found in ours(module) if found.count(".") == 3}
            assert known & PARTS_OF_ML.keys() <= PARTS_OF_ML[part], module


def test_serving_knows_core_and_is_given_its_loaders() -> None:
    assert ours("webapp.ml.inference.serving") <= {
        "webapp.errors",
        "webapp.ml.errors",
        "webapp.db.leases",
        *CORE,
    }
    assert ours("webapp.db.leases") <= {"webapp.errors"}
    assert not libraries("webapp.ml.inference.serving") & (
        WEB | {"sqlalchemy", "marshmallow", "config"}
    )


@pytest.mark.parametrize("module", layer("service"))
def test_services_know_neither_flask_nor_schemas(module: str) -> None:
    feature = module.rpartition(".")[0]
    own = {f"{feature}.{name}" for name in ("errors", "models", "serving")}
    if feature.startswith("webapp.ml."):
        own |= {"webapp.ml.errors", "webapp.db.leases"}
        own |= {f"webapp.ml.registry.{name}" for name in ("models", "service")}

    shared = {"webapp.db.base", "webapp.errors", "webapp.db.outages", "webapp.db.postgresql"}
    audited = {"webapp.audit.service"}
    scopes = {"webapp.scopes"} if feature == "webapp.access" else set()
    assert ours(module) <= shared | own | audited | scopes | set(CORE)
    assert not libraries(module) & (WEB | {"marshmallow", "config"})


@pytest.mark.parametrize("module", layer("schemas"))
def test_schemas_know_fields_and_limits(module: str) -> None:
    feature = module.rpartition(".")[0]
    shared = {"webapp.errors", "webapp.web.fields", "webapp.web.paging"}
    shared |= {"webapp.ml.schemas"} if feature.startswith("webapp.ml.") else set()

    assert ours(module) <= shared | {f"{feature}.models"} | set(CORE)
    assert not libraries(module) & {"flask", "sqlalchemy"}


@pytest.mark.parametrize("module", [*layer("routes"), "webapp.ml.cli"])
def test_routes_and_commands_know_their_own_feature(module: str) -> None:
    feature = module.rpartition(".")[0]
    shared = {f"webapp.{name}" for name in ("scopes", "commands", "errors", "extensions")}
    shared |= {f"webapp.web.{name}" for name in ("blueprint", "openapi", "parsing")}
    shared |= {f"webapp.web.{name}" for name in ("fields", "jsonio", "paging", "problems")}
    shared |= {"webapp.idempotency.views", "webapp.observability.observer"}
    feature = "webapp.ml" if feature.startswith("webapp.ml") else feature
    own = {name for name in MODULES if name.startswith(f"{feature}.")}

    assert ours(module) <= shared | own
    assert "sqlalchemy" not in libraries(module)


@pytest.mark.parametrize("feature", FEATURES)
def test_features_do_not_know_each_other(feature: str) -> None:
    others = tuple(f"webapp.{other}." for other in FEATURES if other != feature)
    for module in MODULES:
        if module.startswith(f"webapp.{feature}."):
            assert not [name for name in ours(module) if name.startswith(others)]


def test_errors_import_nothing_of_ours_and_no_library() -> None:
    assert not ours("webapp.errors")
    assert not libraries("webapp.errors") & (WEB | NUMERIC | {"sqlalchemy", "marshmallow"})


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
