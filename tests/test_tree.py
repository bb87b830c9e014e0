"""The tree: one direction of imports, one owner of each library, one name a file."""

import ast
import collections
import functools
import re
import sys
from pathlib import Path

import pytest
from helpers import ROOT, run_program

PACKAGE = ROOT / "pdae_jax"

# Each imports from itself and from those before it alone.
LAYERS = (
    "runtime",
    "formats",
    "value_range",
    "arrays protocol loss_weight schedule samplers multistep reversible pdae distillation latent",
    "networks",
    "data",
    "images",
    "workdir",
    "model",
    "metrics",
    "tasks",
    "training",
    "convert",
    "cost",
    "pages",
    "explorer",
    "commands config",
    "main __main__",
)
# Libraries that a layer must not reach, not even through others.
NEVER = {
    "runtime.choices": "jax",
    "runtime.progress": "jax",
    "runtime.atomic": "jax",
    "loss_weight": "jax",
    "arrays": "flax optax orbax",
    "schedule": "flax optax orbax",
    "samplers": "flax optax orbax",
    "pdae": "flax optax orbax",
    "latent": "flax optax orbax",
    "networks": "optax orbax sklearn",
    "networks.architecture": "jax flax",
    "images": "jax",
    "data": "jax flax optax orbax torch",
    "formats": "jax flax optax orbax torch",
    "metrics": "optax orbax",
    "tasks": "optax ml_collections torch",
    "workdir": "optax ml_collections sklearn torch",
    "training": "ml_collections torch",
    "pages": "jax flax orbax sklearn",
    "cost.hlo": "jax flax",
}
# Libraries that a few layers alone import.
OWNERS = {
    "flax": "networks",
    "optax": "training",
    "orbax": "workdir",
    "ml_collections": "config main commands.train commands.compile",
    "absl": "main commands.flags",
    "torch": "convert.torch_twin convert.verification convert.conversion",
    "sklearn": "tasks commands.probe data.builtin",
    "clu": "training.log",
}


def module_of(path: Path) -> str:
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    return name.removesuffix(".__init__")


MODULES = {module_of(path): path for path in PACKAGE.rglob("*.py")}


def within(module: str, layer: str) -> bool:
    return module == layer or module.startswith(layer + ".")


@functools.cache
def imports(module: str) -> frozenset[str]:
    """Every import of a module, wherever it stands: our modules, and other libraries' names."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    ours = {name.removeprefix("pdae_jax.") for name in found if name.startswith("pdae_jax.")}
    return frozenset(ours & MODULES.keys()) | {
        name.split(".")[0] for name in found if not name.startswith("pdae_jax")
    }


@functools.cache
def reached(module: str) -> frozenset[str]:
    """All that a module imports, also through others."""
    seen, queue = set(), [module]
    while queue:
        for name in imports(queue.pop()):
            if name not in seen:
                seen.add(name)
                queue += [name] if name in MODULES else []
    return frozenset(seen)


def layer_of(module: str) -> int:
    return next(
        k for k, layer in enumerate(LAYERS) if any(within(module, one) for one in layer.split())
    )


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"", "__init__"}))
def test_a_module_imports_from_the_layers_before_it_alone(module):
    later = [name for name in reached(module) & MODULES.keys() if layer_of(name) > layer_of(module)]
    assert not later


@pytest.mark.parametrize("layer", NEVER)
def test_a_layer_never_reaches_some_libraries(layer):
    modules = [module for module in MODULES if within(module, layer)]
    assert modules
    for module in modules:
        assert not reached(module) & set(NEVER[layer].split()), module


@pytest.mark.parametrize("library", OWNERS)
def test_a_library_has_its_owners(library):
    users = {module for module in MODULES if library in imports(module)}
    assert users
    for module in users:
        assert any(within(module, owner) for owner in OWNERS[library].split()), module


def test_there_is_no_circle():
    circles = {module for module in MODULES if module in reached(module)}
    assert not circles


def test_importing_a_command_brings_nothing_heavy():
    assert run_program("imports").stdout.split() == []


def test_every_file_name_is_there_once():
    folders = ("pdae_jax", "configs", "tools", "benchmarks", "examples")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    count = collections.Counter(path.name for path in files if path.name != "__init__.py")
    assert not [name for name, n in count.items() if n > 1]
    assert max(len(path.relative_to(PACKAGE).parts) for path in PACKAGE.rglob("*.py")) <= 2


def test_only_the_workdir_names_files_of_a_model():
    """Names of files that stand in a workdir are in no other layer, docstrings apart.

    A folder of diffusers, which `convert.model_folder` reads and writes, is no workdir, and neither
    are `explorer`'s page and the archive that a person takes home from it.
    """
    names = re.compile(r"(?<!docs/)\b[a-z_-]+\.(json|jsonl|npz|csv|md|html|parquet|txt|npy)\b")
    for module in MODULES:
        if any(
            within(module, one) for one in ("workdir", "data", "convert.model_folder", "explorer")
        ):
            continue
        tree = ast.parse(MODULES[module].read_text())
        texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        documents = {
            ast.get_docstring(node, clean=False)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        }
        texts = [text for text in texts - documents if isinstance(text, str)]
        assert not [text for text in texts if names.search(text)], module


def listing() -> str:
    """The tree with one line a file: the first of its docstring."""
    lines = ["pdae_jax/"]
    folders = sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))
    for folder in (PACKAGE, *folders):
        if folder != PACKAGE:
            lines.append(f"  {folder.name}/")
        for path in sorted(folder.glob("*.py")):
            text = ast.get_docstring(ast.parse(path.read_text()))
            if text and path.name != "__init__.py":
                indent = "  " if folder == PACKAGE else "    "
                lines.append(f"{indent}{path.name:<24}{text.splitlines()[0]}")
    return "\n".join(lines)


def test_contributing_lists_every_file():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert listing() in text, f"the listing in CONTRIBUTING.md should be\n{listing()}"


def test_a_test_asserts_something():
    """Every test asserts, expects an error, or hands over to something that does."""
    telling = re.compile(r"assert|raises|warns|check|compare|verify|run_program")
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                assert telling.search(ast.unparse(node.body)), f"{path.name}: {node.name}"


def test_the_standard_library_is_not_shadowed():
    shadows = {name.split(".")[-1] for name in MODULES if "." not in name} & sys.stdlib_module_names
    assert not shadows
