"""Who may import what: the network, a training step and the completion engine run without Ray.

Imports are read from the source, so those inside functions count too.
"""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

WIRING = ("train_run", "tune_run", "trial", "cluster", "turns", "alone", "quiet")
RAY_IMPORTERS = {f"sttn_ray/{name}.py" for name in WIRING}
# The plan's hash holds the version of the library that decodes and encodes; it reads no video itself.
AV_VERSION_READER = "sttn_ray/catalog/plan.py"


def imported_modules(source: str, package: str) -> Iterator[str]:
    """Absolute names of all modules, and of what is taken from them, that a module of `package` imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = parents[: len(parents) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def importers_of(names: set[str], folder: str) -> set[str]:
    """Paths below `folder`, relative to the root, of modules that import one of `names` or a part of it."""
    found = set()
    for path in (ROOT / folder).rglob("*.py"):
        relative = path.relative_to(ROOT)
        modules = imported_modules(path.read_text(), ".".join(relative.parent.parts))
        if any(module == name or module.startswith(f"{name}.") for module in modules for name in names):
            found.add(relative.as_posix())
    return found


def test_imports_are_read_from_every_form() -> None:
    source = "import a.b as c\nfrom d import e\ndef f():\n    from . import g\n    from ..h.i import j\n"
    assert list(imported_modules(source, "top.sub")) == ["a.b", "d.e", "top.sub.g", "top.h.i.j"]


def test_only_wiring_imports_ray() -> None:
    importers = importers_of({"ray"}, "sttn_ray")
    assert "sttn_ray/cluster.py" in importers
    assert importers <= RAY_IMPORTERS


def test_only_video_imports_av() -> None:
    importers = importers_of({"av"}, "sttn_ray") | importers_of({"av"}, "pipelines")
    assert "sttn_ray/video/decode.py" in importers
    assert {path for path in importers if not path.startswith("sttn_ray/video/")} <= {AV_VERSION_READER}


def test_only_the_command_knows_the_programs() -> None:
    importers = importers_of({"pipelines", "sttn_ray.pipelines"}, "sttn_ray")
    assert importers <= {"sttn_ray/command.py"}


def test_parts_do_not_import_ray_by_way_of_another_module() -> None:
    programs = {f"sttn_ray/{name}.py" for name in ("train", "tune")}
    wiring = {path.removesuffix(".py").replace("/", ".") for path in RAY_IMPORTERS}
    assert importers_of(wiring, "sttn_ray") <= RAY_IMPORTERS | programs


def test_planning_and_encoding_go_without_torch() -> None:
    """It takes nearly 0.2 GB and a second of every process, of which there are as many as cores."""
    told = (
        "import sys, pipelines.inpaint_steps, pipelines.progress; print('torch' in sys.modules, 'ray' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", told], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "True"]


def test_what_speaks_to_stores_is_loaded_for_a_store_alone() -> None:
    told = "import sys; from sttn_ray.paths import as_path; as_path({}); print('s3fs' in sys.modules)"
    for path, is_loaded in (("a", "False"), ("s3://a/b", "True")):
        command = [sys.executable, "-c", told.format(repr(path))]
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert found.stdout.split() == [is_loaded]


def test_the_wheel_holds_every_package() -> None:
    folders = {path.parent.relative_to(ROOT).parts for path in (ROOT / "sttn_ray").rglob("__init__.py")}
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert set(setuptools["packages"]) == {".".join(parts) for parts in folders} | {"sttn_ray.pipelines"}
    assert setuptools["package-dir"]["sttn_ray.pipelines"] == "pipelines"


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {path.parent for name in ("sttn_ray", "pipelines") for path in (ROOT / name).rglob("*.py")}
    assert all((folder / "__init__.py").is_file() for folder in folders)
