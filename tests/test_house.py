"""The house: imports run one way, the package is light to import, the wheel holds what it should."""

import ast
import importlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# A room may import rooms on lower floors, and none on its own floor but itself.
FLOORS = {
    "errors": 0,
    "intervals": 0,
    "machine": 0,
    "plain": 0,
    "schemes": 1,
    "network": 2,
    "table": 3,
    "result": 1,
    "factories": 1,
    "descriptor": 1,
    "losses": 3,
    "contracts": 3,
    "cost_cache": 4,
    "compiler": 5,
    "pruning": 5,
    "accuracy": 5,
    "envs": 6,
    "agents": 7,
    "report": 8,
    "testing": 8,
    "job": 9,
    "comparison": 10,
    "cli": 11,
}
# The two places that put the parts together import them when asked (DESIGN of the environment: "one
# place").
LAZY = {("envs", "job")}
FOREIGN = {"tvm": {"compiler"}, "torch_pruning": {"pruning"}}
LIGHT = (
    "errors",
    "schemes",
    "network",
    "table",
    "descriptor",
    "result",
    "contracts",
    "cost_cache",
    "envs",
)


def sources() -> list[tuple[str, Path]]:
    rooms = [("cost_cache", p) for p in (ROOT / "cost_cache").rglob("*.py")] + [
        ("envs", p) for p in (ROOT / "envs").rglob("*.py")
    ]
    rooms += [("agents", p) for p in (ROOT / "agents").rglob("*.py")]
    for path in (ROOT / "cprune_rl").rglob("*.py"):
        parts = path.relative_to(ROOT / "cprune_rl").parts
        if parts[0] not in ("agents", "envs", "cost_cache") and path.name != "__init__.py":
            rooms.append((parts[0].removesuffix(".py"), path))
    return rooms


def imports(path: Path) -> list[tuple[str, bool]]:
    """Modules a file imports, and whether at the top."""
    tree = ast.parse(path.read_text())
    top = {id(n) for n in tree.body}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.module, id(node) in top))
    return found


@pytest.mark.parametrize(
    ("room", "path"),
    sources(),
    ids=lambda v: str(v.relative_to(ROOT)) if isinstance(v, Path) else v,
)
def test_imports_run_one_way(room: str, path: Path) -> None:
    for module, at_top in imports(path):
        head, _, rest = module.partition(".")
        if head in FOREIGN:
            assert room in FOREIGN[head], f"only {FOREIGN[head]} may import {head}"
        if head != "cprune_rl" or not rest:
            continue
        target = rest.split(".")[0]
        if target == room or ((room, target) in LAZY and not at_top):
            continue
        assert FLOORS[target] < FLOORS[room], (
            f"{path.name} of {room} imports {module}, which stands above or beside it"
        )


def run_python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout


def test_importing_the_package_loads_neither_torch_nor_tvm() -> None:
    assert (
        run_python(
            "import sys, cprune_rl; print([m for m in ('torch', 'tvm', 'sqlalchemy') if m in sys.modules])"
        ).strip()
        == "[]"
    )


def test_a_recorded_problem_needs_neither_compiler_nor_pruner() -> None:
    code = "import sys, gymnasium, cprune_rl; e = gymnasium.make('cprune_rl/CPruneRecorded-v0'); e.reset(seed=0); e.step(0); "
    assert (
        run_python(
            code
            + "print([m for m in ('tvm', 'torch_pruning', 'torch', 'sklearn') if m in sys.modules])"
        ).strip()
        == "[]"
    )


def test_a_job_loads_the_compiler_only_where_there_is_one_to_ask() -> None:
    code = "import sys, cprune_rl.job.run, cprune_rl.job.recorded, cprune_rl.job.record, cprune_rl.job.validate, cprune_rl.cli; print('tvm' in sys.modules)"
    assert run_python(code).strip() == "False"


@pytest.mark.parametrize(
    "module",
    [
        "errors",
        "network",
        "table",
        "descriptor",
        "contracts",
        "result",
        "cost_cache",
        "envs",
        "envs.problems",
        "envs.recordings",
        "envs.recording_file",
        "testing",
        "agents.searcher",
        "agents.policy",
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
        "agents/policy.py",
        "cost_cache/sql.py",
        "compiler/tuner.py",
        "report/templates/page.html",
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
