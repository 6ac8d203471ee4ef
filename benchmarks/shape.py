"""`make measure`: print what the library's shape is, as numbers; `--json` for machines.

Sign-posts, not goals: a number that grew is a question to whoever made it grow. Counted are the
Python files of `fasb/` (or of another folder, given as argument) that git knows or would add.
"""

import argparse
import ast
import io
import json
import re
import statistics
import subprocess
import tokenize
from dataclasses import asdict, dataclass
from pathlib import Path

WIDTH = 100
COMPREHENSIONS = (ast.ListComp, ast.DictComp, ast.SetComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DOCUMENTED = (*FUNCTIONS, ast.ClassDef, ast.Module)
DIRECTIVE = re.compile(r"#\s*(noqa|type:|pragma)")
STUDY = ("study", "world", "cli")
"""Parts of the library that may import the study; nothing else may."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What one file holds."""

    path: Path
    lines: int
    blank: int
    docstrings: int
    """Lines of docstrings."""
    wide: int
    """Lines over 100 characters."""
    comments: int
    """Comments that are no directive to a tool."""
    comprehensions: int
    zips: int
    functions: tuple[int, ...]
    """Lines of each function, docstring included."""
    outward: tuple[str, ...]
    """Imports of study or world, in a file that may not have any."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Measures of all files together; shares are per 100 lines."""

    files: int
    lines: int
    code: int
    longest_file: str
    functions: int
    function_median: float
    function_p95: int
    function_max: int
    lines_over_100: int
    comments_per_100_code: float
    comprehensions_per_100: float
    zips_per_100: float
    imports_of_study: int
    methods: int
    gates: int


def count(path: Path, part: str) -> Counted:
    """Return what a file holds; `part` is its package within the library."""
    text = path.read_text()
    rows = text.splitlines()
    nodes = list(ast.walk(ast.parse(text)))
    documented = [node for node in nodes if isinstance(node, DOCUMENTED)]
    docs = [doc for node in documented if (doc := ast.get_docstring(node))]
    functions = [node for node in nodes if isinstance(node, FUNCTIONS)]
    return Counted(
        path=path,
        lines=len(rows),
        blank=sum(not row.strip() for row in rows),
        docstrings=sum(doc.count("\n") + 1 for doc in docs),
        wide=sum(len(row) > WIDTH for row in rows),
        comments=count_comments(text),
        comprehensions=sum(isinstance(node, COMPREHENSIONS) for node in nodes),
        zips=sum(isinstance(node, ast.Call) and is_zip(node) for node in nodes),
        functions=tuple(node.end_lineno - node.lineno + 1 for node in functions),
        outward=() if part in STUDY else imports_of_study(nodes),
    )


def count_comments(text: str) -> int:
    """Return the number of comments in a source, directives to tools left out."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = [token.string for token in tokens if token.type == tokenize.COMMENT]
    return sum(DIRECTIVE.match(comment) is None for comment in comments)


def is_zip(call: ast.Call) -> bool:
    """Return whether a call is of the built-in zip."""
    return isinstance(call.func, ast.Name) and call.func.id == "zip"


def imports_of_study(nodes: list[ast.AST]) -> tuple[str, ...]:
    """Return the modules of study/ and world/ that a file imports by `from`."""
    modules = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return tuple(module for module in modules if re.match(r"fasb\.(study|world)\b", module))


def measure(files: list[Path], folder: Path) -> Shape:
    """Return the shape of the library in `folder`, made of `files`."""
    counted = []
    for path in files:
        inside = path.relative_to(folder).parts
        counted.append(count(path, inside[0].removesuffix(".py")))
    lengths = sorted(length for file in counted for length in file.functions)
    longest = max(counted, key=lambda file: file.lines)
    lines = sum(file.lines for file in counted)
    filled = lines - sum(file.blank for file in counted)
    code = filled - sum(file.docstrings for file in counted)
    return Shape(
        files=len(counted),
        lines=lines,
        code=code,
        longest_file=f"{longest.path} ({longest.lines})",
        functions=len(lengths),
        function_median=statistics.median(lengths),
        function_p95=lengths[int(len(lengths) * 0.95)],
        function_max=lengths[-1],
        lines_over_100=sum(file.wide for file in counted),
        comments_per_100_code=round(100 * sum(file.comments for file in counted) / code, 2),
        comprehensions_per_100=round(
            100 * sum(file.comprehensions for file in counted) / filled, 2
        ),
        zips_per_100=round(100 * sum(file.zips for file in counted) / filled, 2),
        imports_of_study=sum(len(file.outward) for file in counted),
        methods=count_extensions(files, folder / "methods"),
        gates=count_extensions(files, folder / "gates"),
    )


def count_extensions(files: list[Path], package: Path) -> int:
    """Return how many extension files a package has."""
    return sum(file.parent == package and file.name != "__init__.py" for file in files)


def known_files(folder: Path) -> list[Path]:
    """Return the Python files of a folder that git has or would add, in order."""
    listed = ["git", "ls-files", "-co", "--exclude-standard", f"{folder}/*.py"]
    output = subprocess.run(listed, capture_output=True, text=True, check=True).stdout
    paths = sorted(Path(line) for line in output.splitlines())
    return [path for path in paths if path.is_file()]


def main() -> None:
    """Print the measures of the folder named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("fasb"))
    parser.add_argument("--json", action="store_true", help="one JSON object")
    given = parser.parse_args()
    shape = asdict(measure(known_files(given.folder), given.folder))
    if given.json:
        print(json.dumps(shape))
    else:
        print("\n".join(f"{name:24} {value}" for name, value in shape.items()))


if __name__ == "__main__":
    main()
