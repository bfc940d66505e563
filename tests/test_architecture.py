"""The house stays the house: import arrows, names that may not exist, and a map that is true.

The rules are those of ARCHITECTURE.md. They are read from the source, not from what happens to be loaded.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = {
    "jobguard": ROOT / "jobguard",
    "jobguard_store": ROOT / "store" / "jobguard_store",
    "jobguard_webui": ROOT / "webui" / "jobguard_webui",
    "jobguard_migrations": ROOT / "alembic" / "jobguard_migrations",
}
CLOCKS_AND_IO = {"asyncio", "time", "random", "socket", "sqlite3", "sqlalchemy", "threading", "os", "logging"}
OURS = set(SOURCES)

# What a part must not import: (part, forbidden prefixes, except for these modules).
FORBIDDEN: list[tuple[str, set[str], set[str]]] = [
    ("jobguard", {"jobguard_store", "jobguard_webui", "jobguard_migrations", "flask"}, set()),
    ("jobguard", {"sqlalchemy"}, {"jobguard.fencing.sqlalchemy", "jobguard.demo"}),
    ("jobguard", {"celery", "kombu", "billiard"}, {"jobguard.celery", "jobguard.demo"}),
    ("jobguard.demo", {"jobguard.demo.app"}, set()),  # an app of one's own, for whoever is told its name
    ("jobguard.wire", OURS | {"urllib3", "celery"}, set()),
    ("jobguard.tls", OURS - {"jobguard"} | {"urllib3", "celery", "jobguard.client"}, set()),
    ("jobguard.errors", OURS - {"jobguard"} | {"urllib3", "celery"}, set()),
    *(
        (f"jobguard.{part}", CLOCKS_AND_IO | {"celery", "urllib3", "jobguard.client"}, set())
        for part in (
            "records",
            "steps",
            "claims",
            "runs",
            "planning",
            "policy",
            "recovery",
            "schedule",
            "asked",
            "masking",
        )
    ),
    ("jobguard_store", {"jobguard_webui", "celery", "flask", "urllib3"}, set()),
    # The loop's clock never jumps, the wall's does. Durations that only are looked at need a finer one.
    ("jobguard_store", {"time", "datetime"}, {"jobguard_store.counts"}),
    ("jobguard_store.raft", CLOCKS_AND_IO | {"msgspec", "secrets", "uuid", "uvicorn"}, set()),
    ("jobguard_store.machine", CLOCKS_AND_IO | {"secrets", "uuid", "uvicorn", "jobguard"}, set()),
    ("jobguard_store.storage", {"asyncio", "uvicorn", "jobguard"}, set()),
    ("jobguard_store.api", {"sqlalchemy", "jobguard_store.raft", "jobguard_store.storage"}, set()),
    ("jobguard_webui", {"jobguard_store", "jobguard_migrations", "sqlalchemy"}, set()),
    ("jobguard_migrations", OURS - {"jobguard_migrations"}, set()),
]
# Inside the store, the parts that know nothing of those above them.
ABOVE = {
    "jobguard_store.raft": {"jobguard_store.node", "jobguard_store.api", "jobguard_store.storage"},
    "jobguard_store.machine": {"jobguard_store.node", "jobguard_store.api", "jobguard_store.storage"},
    "jobguard_store.storage": {"jobguard_store.node", "jobguard_store.api"},
}


def modules() -> Iterator[tuple[str, Path]]:
    for package, folder in SOURCES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            yield ".".join((package, *(part for part in parts if part != "__init__"))), path


def imports(module: str, path: Path) -> Iterator[tuple[str, int]]:
    """Every module that `path` imports, at import time or inside a function; typing-only imports left out."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
                kept = package[: len(package) - node.level + 1]
                base = ".".join((*kept, base)) if base else ".".join(kept)
            yield base, node.lineno
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


def within(name: str, part: str) -> bool:
    return name == part or name.startswith(part + ".")


def test_nothing_imports_against_the_arrows() -> None:
    wrong = []
    for module, path in modules():
        for imported, line in imports(module, path):
            for part, forbidden, exempt in FORBIDDEN:
                excused = any(within(module, e) for e in exempt) or within(imported, part)
                if within(module, part) and not excused and any(within(imported, f) for f in forbidden):
                    wrong.append(f"{path.relative_to(ROOT)}:{line} imports {imported}")
            for part, above in ABOVE.items():
                if within(module, part) and any(within(imported, a) for a in above):
                    wrong.append(f"{path.relative_to(ROOT)}:{line} imports {imported}")
    assert not wrong, "\n".join(sorted(set(wrong)))


def test_the_two_halves_of_the_house_meet_only_in_wire_and_tls() -> None:
    meeting = {
        imported
        for module, path in modules()
        if within(module, "jobguard_store")
        for imported, _ in imports(module, path)
        if within(imported, "jobguard")
    }
    assert {name for name in meeting if not within(name, "jobguard.wire")} <= {
        "jobguard",
        "jobguard.tls",
        "jobguard.tls.Certificates",
        "jobguard.tls.Unusable",
        "jobguard.tls.explained",
        "jobguard.tls.refused_us",
    }


def test_folders_that_are_no_packages_stay_so() -> None:
    """`alembic/__init__.py` would hide the library; `store` would clash with a user's own code."""
    for folder in ("alembic", "store", "webui"):
        assert not (ROOT / folder / "__init__.py").exists()
    spelled = [
        f"{path.relative_to(ROOT)}:{line}"
        for module, path in modules()
        for imported, line in imports(module, path)
        if imported.startswith(("store.", "webui.", "alembic.jobguard_migrations"))
    ]
    assert not spelled


def test_every_module_stands_in_the_map() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    missing = [
        module
        for module, path in modules()
        if path.name != "__init__.py" and "versions" not in path.parts and f"{path.stem}" not in text
    ]
    assert not missing, f"ARCHITECTURE.md does not name {missing}"


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for _, path in modules()
        if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not silent


@pytest.mark.parametrize("module", ["jobguard", "jobguard.wire", "jobguard_store", "jobguard_webui"])
def test_importing_a_package_loads_nothing_heavy(module: str) -> None:
    """A web process imports jobguard, the store imports jobguard.wire: neither loads the other's weight."""
    heavy = {"celery", "flask", "sqlalchemy", "urllib3", "uvicorn"}
    code = f"import sys, {module}; print(*sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=110, check=True
    )
    assert done.stdout.split() == []
