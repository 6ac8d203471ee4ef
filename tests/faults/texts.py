"""Text that is none, tables that do not fit, templates that reach too far."""

from pathlib import Path

from registry import fault, said

from fasb.data.table import Settings, load
from fasb.errors import ConfigError
from fasb.extensions import find, validated
from fasb.settings import PromptSettings
from fasb.study.layers import read_mapping

CSV = "question,true,false\nWho?,me,you\n"


def table(folder: Path, content: bytes, name: str = "my.csv") -> str:
    (folder / name).write_bytes(content)
    return said(lambda: load(Settings(path=str(folder / name))))


def config(folder: Path, content: bytes) -> str:
    (folder / "my.yaml").write_bytes(content)
    return said(lambda: read_mapping(folder / "my.yaml"))


DEEP = b"[" * 100_000
BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    + [f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 10) + "]" for i in range(1, 9)]
).encode()
TABLES = {
    "a table in cp1252": ("my.csv", CSV.replace("you", "caf\u00e9").encode("cp1252")),
    "a table in UTF-16 without its mark": ("my.csv", CSV.encode("utf-16-le")),
    "a comma too many in a row": ("my.csv", CSV.replace("you", "you,they").encode()),
    "a quote that is never closed": ("my.csv", CSV.replace("you", '"you').encode()),
    "a column that is missing": ("my.csv", CSV.replace("false", "flase").encode()),
    "an answer both true and false": ("my.csv", CSV.replace("you", "me").encode()),
    "no false answer": ("my.csv", CSV.replace("you", "").encode()),
    "JSON that is nested too deeply": ("my.jsonl", DEEP),
    "a number of 5,000 digits": ("my.jsonl", b'{"question": ' + b"1" * 5000 + b"}"),
    "half a character": ("my.jsonl", b'{"question": "\\ud800", "true": "a", "false": "b"}'),
    "a label where an answer is": ("my.jsonl", b'{"question": "a", "true": true, "false": "b"}'),
    "a Parquet file of 0 bytes": ("my.parquet", b""),
    "a year as pandas writes it beside an empty field": (
        "my.jsonl",
        b'{"question": "When?", "true": 1990.0, "false": "b"}',
    ),
}
for what, (name, content) in TABLES.items():
    fault(what)(lambda folder, name=name, content=content: table(folder, content, name))
for what, content in {
    "a config with a key twice": b"a: 1\na: 2\n",
    "a config that is no mapping": b"- a\n",
    "a config whose aliases grow without end": BOMB,
    "a config that names Python objects": b"a: !!python/object/apply:os.system [ls]\n",
}.items():
    fault(what)(lambda folder, content=content: config(folder, content))
for what, template in {
    "a template with a width": "{question:>1000000000}",
    "a template with an index": "{question[x]}",
    "a template without its place": "no place",
    "a template with an open brace": "{question} {",
}.items():
    fault(what)(
        lambda folder, template=template: said(
            lambda: validated(PromptSettings, {"question": template}, "prompt")
        )
    )


@fault("an extension called `../../x`")
def extension(folder):
    def call():
        try:
            find("methods", "../../x")
        except ConfigError as error:
            # the known names change with every method
            raise ConfigError(str(error).partition("; ")[0] + "; known: …") from None

    return said(call)
