"""No import cycle: imports inside functions and under TYPE_CHECKING are counted too."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("bench", "adapters", "pretrain", "leaderboards", "tools")


def modules(root: Path) -> dict[str, Path]:
    """Every module's file by its dotted name."""
    files = (path.relative_to(root) for folder in FOLDERS for path in (root / folder).rglob("*.py"))
    return {".".join(f.with_suffix("").parts).removesuffix(".__init__"): root / f for f in files}


def imports(root: Path) -> dict[str, set[str]]:
    """The modules that each module imports, wherever the statement stands.

    `from package import name` counts for the module `package.name` where there is one, else for the package.
    """
    known = modules(root)
    found: dict[str, set[str]] = {module: set() for module in known}
    for module, path in known.items():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found[module] |= {alias.name for alias in node.names} & known.keys()
            elif isinstance(node, ast.ImportFrom) and node.module:
                for name in (f"{node.module}.{alias.name}" for alias in node.names):
                    found[module] |= {name if name in known else node.module} & known.keys()
    return found


def test_no_module_imports_itself_through_others() -> None:
    graph = imports(ROOT)
    assert len(graph) > 100
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"An import cycle: {' <- '.join(error.args[1])}")


def test_a_deferred_import_closes_a_cycle(tmp_path: Path) -> None:
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench/one.py").write_text("from bench import two\n")
    (tmp_path / "bench/two.py").write_text("def later():\n    from bench.one import value\n")
    with pytest.raises(CycleError):
        TopologicalSorter(imports(tmp_path)).prepare()


def test_nothing_has_relative_imports() -> None:
    """`imports` and import-linter would not see them alike."""
    for path in modules(ROOT).values():
        levels = [n.level for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.ImportFrom)]
        assert not any(levels), path
