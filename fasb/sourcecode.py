"""What code does, as a hash: what it made is made again when it changes.

In: a module's name, and the folder that it is imported from. Out: a hash of the module and of all
that it imports from there or from this library. Reads files and imports nothing.
"""

import ast
import hashlib
import sysconfig
from collections.abc import Collection, Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parents[1]
"""The folder that this library is imported from."""
INSTALLED = frozenset(Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib"))
"""Folders of installed packages: what lies there beside a module is not of its making."""


def version_of(module: str, without: tuple[str, ...] = ()) -> str:
    """Return the library's version with the hash of what one of its modules does behind a plus."""
    return f"{metadata.version('fasb')}+{code_of(module, HERE, without)}"


@cache
def code_of(module: str, folder: Path = HERE, without: tuple[str, ...] = ()) -> str:
    """Return 12 hex digits of what a module of a folder, and all that it imports, do.

    Comments, docstrings, layout, imports for annotations alone and the words of errors do not
    count: they change no result. What is imported by a name that is put together does not either.

    Args:
        module: its name, with dots.
        folder: the folder that it is imported from.
        without: modules that are neither counted nor followed.
    """
    parts = sorted(_modules(module, folder, without).items())
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def _modules(module: str, folder: Path, without: Collection[str]) -> dict[str, str]:
    """Return the hash of each module that `module` consists of, by name."""
    found: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        file = None if name in found or name in without else _file(name, folder, module)
        if file is not None:
            found[name], imported = _read(file, name)
            waiting += imported
    return found


def _file(name: str, folder: Path, module: str) -> Path | None:
    """Return the file of a module that counts; None of any other module, and of what is none."""
    top = name.partition(".")[0]
    if top == "fasb":
        folder = HERE
    elif top != module.partition(".")[0] and folder in INSTALLED:
        return None
    path = folder.joinpath(*name.split("."))
    for file in (path / "__init__.py", path.with_name(f"{path.name}.py")):
        if file.is_file():
            return file
    return None


@cache
def _read(file: Path, name: str) -> tuple[str, tuple[str, ...]]:
    """Return the hash of what a file does, and the names that it may import."""
    tree = _Deeds().visit(ast.parse(file.read_bytes()))
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), tuple(_imported(tree, package))


def _imported(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield every name that is imported anywhere; of `from a import b` both `a` and `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # one dot is the module's own package, each further one the package above
            above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            source = ".".join([*above, node.module] if node.module else above)
            yield source
            yield from (f"{source}.{alias.name}" for alias in node.names)


class _Deeds(ast.NodeTransformer):
    """Takes from a module's tree what changes no result."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        """Leave out docstrings."""
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return None
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST | None:
        """Leave out imports for annotations."""
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return None
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        """Keep of an error its class."""
        kind = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        return ast.Raise(exc=kind, cause=None)
