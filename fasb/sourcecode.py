"""What code does, as a hash: what it made is made again when it changes.

In: a module's name, and the folder that it is imported from. Out: a hash of the module and of all
that it imports but the standard library and installed packages, and of the files that these name.
Reads files and imports nothing.
"""

import ast
import hashlib
import importlib.util
import sys
import sysconfig
import warnings
from collections.abc import Collection, Iterator
from functools import cache
from importlib import metadata
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from fasb import _HOME
from fasb.errors import ConfigError

HERE = Path(__file__).parents[1]
"""The folder that this library is imported from."""
INSTALLED = frozenset(Path(path) for path in sysconfig.get_paths().values())
"""Folders of the standard library and of packages: what lies there beside a module is no part."""
SITES = ("site-packages", "dist-packages", "lib-dynload")
"""How such folders are called elsewhere: one's own, the system's."""
COMPILED = (*EXTENSION_SUFFIXES, ".pyc")


@cache
def version_of(module: str, without: tuple[str, ...] = ()) -> str:
    """Return the library's version with the hash of what one of its modules does behind a plus.

    Of a copy that is not installed the hash alone says what it is.
    """
    try:
        release = metadata.version("fasb")
    except metadata.PackageNotFoundError:
        release = "unknown"
    return f"{release}+{code_of(module, HERE, without)}"


@cache
def code_of(module: str, folder: Path = HERE, without: tuple[str, ...] = ()) -> str:
    """Return 12 hex digits of what a module of a folder, and all that it imports, do.

    Comments, docstrings, layout, imports for annotations alone and the words of errors do not
    count: they change no result. What is imported by a name that is put together does not either.

    Args:
        module: its name, with dots.
        folder: the folder that it is imported from.
        without: modules that are neither counted nor followed.

    Raises:
        ConfigError: the module is in no file.
    """
    parts = sorted(_modules(module, folder, without).items())
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def _modules(module: str, folder: Path, without: Collection[str]) -> dict[str, str]:
    """Return the hash of each module that `module` consists of, by name.

    Raises:
        ConfigError: `module` itself is in no file.
    """
    archive = next((path for path in (folder, *folder.parents) if path.is_file()), None)
    if archive is not None:  # a zip file on PYTHONPATH counts as a whole
        return {module: _content(archive)}
    found: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        file = None if name in found or name in without else _file(name, folder, module)
        if file is not None:
            found[name], imported = _read(file, name)
            waiting += [part for one in (name, *imported) for part in _with_packages(one)]
    if module not in found and module not in without:
        raise ConfigError(f"{module}: its code is in no file below {folder}; put it into one")
    return found


def _with_packages(name: str) -> Iterator[str]:
    """Yield a module's name and those of the packages around it, which run before it."""
    while name:
        yield name
        name = name.rpartition(".")[0]


def _file(name: str, folder: Path, module: str) -> Path | None:
    """Return the file of a module that counts; None of any other module, and of what is none."""
    top, *inner = name.split(".")
    if top == "fasb":
        return _file_in(HERE, top, *inner)
    if top == module.partition(".")[0]:
        return _file_in(folder, top, *inner)
    places = [*([] if _is_installed(folder) else [folder]), *_places(top)]
    return next(filter(None, (_file_in(place, top, *inner) for place in places)), None)


def _file_in(folder: Path, *parts: str) -> Path | None:
    if not all(parts):
        return None
    path = folder.joinpath(*parts)
    files = [path / "__init__.py", path.with_name(f"{path.name}.py")]
    files += [path.with_name(f"{path.name}{suffix}") for suffix in COMPILED]
    return next((file for file in files if file.is_file()), None)


@cache
def _places(top: str) -> tuple[Path, ...]:
    """Return the folders that hold a package or module that is neither standard nor installed."""
    if top in sys.stdlib_module_names:
        return ()
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError, OSError):
        return ()
    if spec is None:
        return ()
    # of a namespace package, which has no file, several folders
    inside = spec.submodule_search_locations
    origins = [spec.origin] if inside is None else list(inside)
    places = [Path(origin).parent for origin in origins if origin]
    return tuple(place for place in places if not _is_installed(place))


def _is_installed(folder: Path) -> bool:
    # what pip installs anywhere else lies beside its metadata
    return folder in INSTALLED or folder.name in SITES or _has_metadata(folder)


@cache
def _has_metadata(folder: Path) -> bool:
    return any(folder.glob("*.dist-info"))


@cache
def _read(file: Path, name: str) -> tuple[str, tuple[str, ...]]:
    """Return the hash of what a file does, and the names that it may import."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python says it where the module is imported
            tree = _Deeds().visit(ast.parse(file.read_bytes()))
        deeds = ast.dump(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        # compiled, or nested too deeply for the parser: every byte of it counts
        return _content(file), ()
    beside = [(one.name, _content(one)) for one in _beside(tree, file)]
    imported = tuple(dict.fromkeys(_imported(tree, package)))
    return hashlib.sha256(repr([deeds, *beside]).encode()).hexdigest(), imported


def _content(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _imported(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield every name that is imported anywhere; of `from a import b` both `a` and `a.b`.

    Of this library's public names, which `fasb` imports when they are asked for, their modules.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = _absolute("." * node.level + (node.module or ""), package)
            homes = _HOME if source == "fasb" else {}
            yield source
            yield from (homes.get(alias.name, f"{source}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and _name_of(node.func) in ("import_module", "__import__"):
            text = _text_of(node.args[0]) if node.args else None
            if text is not None:
                yield _absolute(text, package)
        elif isinstance(node, ast.Attribute) and _name_of(node.value) == "fasb":
            yield _HOME.get(node.attr, "fasb")


def _name_of(node: ast.AST) -> str | None:
    """Return the last name of `name` or of `package.name`."""
    return getattr(node, "id", getattr(node, "attr", None))


def _absolute(name: str, package: str) -> str:
    """Return a name without the dots before it: one is the package, each further one above it."""
    inner = name.lstrip(".")
    level = len(name) - len(inner)
    if not level:
        return name
    parts = package.split(".")
    above = parts[: max(0, len(parts) + 1 - level)]
    return ".".join([*above, inner] if inner else above)


def _beside(tree: ast.AST, file: Path) -> list[Path]:
    """Return the files that a module which looks beside itself names, as texts of its code.

    They lie in its folder, or in one above of the same package; of a folder that is named, and is
    no package, all that lie in it.
    """
    nodes = list(ast.walk(tree))
    if not any(_name_of(node) in ("__file__", "resources", "get_data") for node in nodes):
        return []
    texts = {text for text in map(_text_of, nodes) if text is not None}
    folders = [file.parent]
    while (folders[-1].parent / "__init__.py").is_file():
        folders.append(folders[-1].parent)
    found: set[Path] = set()
    for folder in folders:
        for text in texts:
            found.update(_files_at(folder, text))
    return sorted(found)


def _files_at(folder: Path, text: str) -> list[Path]:
    path = folder / text
    if ".." in path.parts or not path.parent.is_relative_to(folder) or path.suffix == ".py":
        return []
    try:
        if path.is_file():
            return [path]
        inside = list(path.iterdir())
    except (OSError, ValueError):  # no folder either, or a text that is no name
        return []
    return [] if any(one.suffix == ".py" for one in inside) else [x for x in inside if x.is_file()]


class _Deeds(ast.NodeTransformer):
    """Takes from a module's tree what changes no result."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        """Leave out docstrings."""
        return None if _is_text(node.value) else self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        """Leave out imports for annotations, and keep what runs in their place."""
        self.generic_visit(node)
        is_annotations = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        return node.orelse if is_annotations else node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        """Keep of an error its class, and what it carries beside its words."""
        kind = node.exc
        if isinstance(kind, ast.Call):
            carried = [one for one in kind.args if not _is_text(one)]
            named = [one for one in kind.keywords if not _is_text(one.value)]
            kind = ast.Call(kind.func, carried, named)
        return ast.Raise(exc=kind, cause=None)


def _text_of(node: ast.AST) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or _text_of(node) is not None
