"""The house: imports run one way, the package is light to import, the wheel has what it should."""

import ast
import graphlib
import importlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# A room may import rooms on lower floors, and none on its own floor but itself; lazy imports count.
FLOORS = {
    "errors": 0,
    "core": 1,
    "cost_cache": 2,
    "models": 3,
    "latency": 3,
    "compiler": 4,
    "pruning": 4,
    "accuracy": 4,
    "envs": 5,
    "agents": 6,
    "testing": 7,
    "reporting": 7,
    "pipeline": 8,
    "comparison": 9,
    "validation": 9,
    "api": 9,
    "pruner": 10,
    "cli": 10,
}
FOREIGN = {"tvm": {"compiler"}, "torch_pruning": {"pruning"}}
TOP = ("agents", "cost_cache", "envs")


def sources() -> list[tuple[str, Path]]:
    """Every module, with its room."""
    rooms = [(top, path) for top in TOP for path in (ROOT / top).rglob("*.py")]
    for path in (ROOT / "cprune_rl").rglob("*.py"):
        parts = path.relative_to(ROOT / "cprune_rl").parts
        if parts[0] not in TOP and parts != ("__init__.py",):
            rooms.append((parts[0].removesuffix(".py"), path))
    return rooms


def module_name(path: Path) -> str:
    """`cprune_rl.envs.problem` of envs/problem.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "cprune_rl" else ("cprune_rl", *parts)
    return ".".join(parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Modules that a file imports, at the top or inside a function; not for type checkers alone."""
    tree = ast.parse(path.read_text())
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and id(node) not in for_types:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize(
    ("room", "path"),
    sources(),
    ids=lambda v: str(v.relative_to(ROOT)) if isinstance(v, Path) else v,
)
def test_imports_run_one_way(room: str, path: Path) -> None:
    for module in imports(path):
        head, _, rest = module.partition(".")
        if head in FOREIGN:
            assert room in FOREIGN[head], f"only {FOREIGN[head]} may import {head}"
        target = rest.split(".")[0]
        if head != "cprune_rl" or target not in FLOORS or target == room:
            continue
        assert FLOORS[target] < FLOORS[room], (
            f"{path.name} of {room} imports {module}, which stands above or beside it"
        )


def test_no_module_imports_itself_by_way_of_others() -> None:
    modules = {module_name(path): path for _, path in sources()}
    edges = {name: {m for m in imports(path) if m in modules} for name, path in modules.items()}
    for name in edges:  # a package's file is its front, which may import what stands in it
        edges[name] = {m for m in edges[name] if not name.startswith(f"{m}.") and m != name}
    graphlib.TopologicalSorter(edges).prepare()


def run_python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout


def test_importing_the_package_loads_neither_torch_nor_tvm() -> None:
    assert (
        run_python(
            "import sys, cprune_rl; "
            "print([m for m in ('torch', 'tvm', 'sqlalchemy') if m in sys.modules])"
        ).strip()
        == "[]"
    )


def test_a_recorded_problem_needs_neither_compiler_nor_pruner() -> None:
    code = (
        "import sys, gymnasium, cprune_rl; e = gymnasium.make('cprune_rl/CPruneRecorded-v0'); "
        "e.reset(seed=0); e.step(0); "
    )
    assert (
        run_python(
            code
            + "print([m for m in ('tvm', 'torch_pruning', 'torch', 'sklearn') if m in sys.modules])"
        ).strip()
        == "[]"
    )


def test_a_job_loads_the_compiler_only_where_there_is_one_to_ask() -> None:
    parts = (
        "pipeline.run",
        "pipeline.backends.recorded",
        "pipeline.record_problem",
        "validation.run",
        "cli",
    )
    modules = ", ".join(f"cprune_rl.{part}" for part in parts)
    code = f"import sys, {modules}; print('tvm' in sys.modules)"
    assert run_python(code).strip() == "False"


@pytest.mark.parametrize(
    "module",
    [
        "errors",
        "core.network",
        "core.subgraph_table",
        "core.device_descriptor",
        "core.protocols",
        "core.result",
        "cost_cache",
        "envs",
        "envs.problems.generated",
        "envs.problems.registry",
        "envs.problems.recording_file",
        "testing",
        "agents.core.searcher",
        "agents.rl.policy",
        "pruning.groups",
    ],
)
def test_what_a_module_offers_exists(module: str) -> None:
    loaded = importlib.import_module(f"cprune_rl.{module}")
    assert all(hasattr(loaded, name) for name in loaded.__all__)


@pytest.mark.slow
def test_the_wheel_holds_one_package_with_all_its_rooms(tmp_path: Path) -> None:
    subprocess.run(
        [
            sys.executable,
            "-m",
            "build",
            "--wheel",
            "--no-isolation",
            "--outdir",
            str(tmp_path),
            str(ROOT),
        ],
        check=True,
        capture_output=True,
    )
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    assert {n.split("/")[0] for n in names if ".dist-info" not in n} == {"cprune_rl"}
    wanted = (
        "py.typed",
        "envs/cprune_env.py",
        "agents/rl/policy.py",
        "cost_cache/sql_store.py",
        "compiler/tuning/network_tuner.py",
        "reporting/templates/run.html",
    )
    assert [w for w in wanted if f"cprune_rl/{w}" not in names] == []
    recordings = [
        p.name
        for p in (ROOT / "envs" / "recorded").iterdir()
        if p.name.endswith((".json", ".json.gz"))
    ]
    assert recordings
    assert [r for r in recordings if f"cprune_rl/envs/recorded/{r}" not in names] == []
    modules = {
        f"cprune_rl/{p.relative_to(ROOT / 'cprune_rl')}" for p in (ROOT / "cprune_rl").rglob("*.py")
    }
    modules |= {
        f"cprune_rl/{p.relative_to(ROOT)}"
        for folder in ("agents", "cost_cache", "envs")
        for p in (ROOT / folder).rglob("*.py")
    }
    policies = {
        f"cprune_rl/{p.relative_to(ROOT)}"
        for p in (ROOT / "agents" / "policies").glob("*/policy.*")
    }
    assert (modules | policies) - set(names) == set()
    assert {
        "cprune_rl/cost_cache/migrations/env.py",
        "cprune_rl/cost_cache/migrations/versions/v0002.py",
    } <= set(names)
    assert len(names) == len(set(names))
