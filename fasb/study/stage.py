"""What a stage of the study is: declared once, for workflow, command line and job.

In: functions of the modules `stages/*.py`, each under the decorator `stage`. Out: for every target
of a study its input and output files, the settings that its result depends on with their hash, and
the function that makes it. Imports no torch.

A target is what a stage is run for, as it is written in a command: a cell (`model/dataset/seed0`),
a dataset, a table. Its names are the arguments of the stage's functions beside the study.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fasb.extensions import code_hash, find, settings_of
from fasb.provenance import content_hash, content_of, contents_of
from fasb.sourcecode import version_of
from fasb.study import cells
from fasb.study.config import Study

CELL = "{model}/{dataset}/seed{seed}{suffix}"
"""A cell's name in the workflow's wildcards."""
DECLARING = ("fasb.study.stage", "fasb.study.config", "fasb.study.cells")
"""Modules whose change changes no result: what they say of a job is in its settings and inputs."""
STORE = Path("results/.store")
TRAINING = "training.json"
"""What says of a trained model's folder what made it; other folders carry nothing."""
MODEL_CONFIG = "config.json"
"""What every folder of a model holds, and no other folder of a study."""
Names = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Scope:
    """What stages are run for: how a target is written, and the names of all that a study has."""

    target: str
    of: Callable[[Study], Iterable[Names]]

    def targets(self, study: Study) -> dict[str, Names]:
        """Return the names of every target, by how it is written."""
        found: dict[str, Names] = study.once(
            self, lambda: {self.target.format(**names): names for names in self.of(study)}
        )
        return found

    @property
    def wildcards(self) -> str:
        """How a target is written with the workflow's wildcards."""
        return self.target.replace("{cell}", CELL)


@dataclass(frozen=True, slots=True)
class Paths:
    """The files of one job by name, and what is written into those that it makes."""

    inputs: dict[str, list[str]]
    outputs: dict[str, str]
    provenance: dict[str, Any]

    def __getitem__(self, name: str) -> Path:
        """Return the file of that name."""
        found = self.outputs.get(name)
        return Path(self.inputs[name][0] if found is None else found)

    def parts(self, name: str) -> list[Path]:
        """Return the parts of an output that shards have made; none where there are no shards."""
        return [Path(path) for path in self.inputs.get(f"{name}_parts", [])]

    def get(self, name: str) -> Path | None:
        """Return an input that a job may do without."""
        return Path(self.inputs[name][0]) if self.inputs[name] else None

    def every(self, *names: str) -> list[Path]:
        """Return all inputs of these names; without names simply all."""
        return [Path(path) for name in names or self.inputs for path in self.inputs[name]]

    def made_by(self, **more: Any) -> dict[str, Any]:
        """Return stage, settings, and the digests of the input files and folders."""
        digests = {str(path): digest_of(path) for path in self.every() if path.exists()}
        return {**self.provenance, "inputs": digests, **more}


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage: what it is run for, reads, writes and depends on, and the function that does it.

    `inputs` and `depends` take the study and a target's names; `run` a `Paths` as well. In
    `outputs`, `{cell}` and other names stand for the target's; a path without suffix is a folder.
    """

    name: str
    scope: Scope
    inputs: Callable[..., Mapping[str, str | list[str]]]
    outputs: dict[str, str]
    depends: Callable[..., dict[str, Any]]
    run: Callable[..., None]
    sharded: bool = False
    """Whether the jobs of its `part` may do it, which its own job then puts together."""

    @property
    def command(self) -> str:
        """The stage's name as it is typed."""
        return self.name.replace("_", "-")

    @property
    def place(self) -> str:
        """Where jobs have their log and their time, below the folders of these."""
        return "/".join(filter(None, [self.name, self.scope.wildcards]))

    def read(self, study: Study, names: Names) -> dict[str, list[str]]:
        """Return the files that a job reads."""
        found = dict(self.inputs(study, **names))
        if self.sharded and (parts := cells.parts(study, names["cell"])):
            for name, path in _part_outputs(self).items():
                found[f"{name}_parts"] = [path.format(**names, part=part) for part in parts]
        return {key: [one] if isinstance(one, str) else one for key, one in found.items()}

    def is_folder(self, output: str) -> bool:
        """Return whether an output is a folder."""
        return not Path(self.outputs[output]).suffix

    def written(self) -> dict[str, str]:
        """Return the files that jobs write, in the workflow's wildcards."""
        return {name: path.replace("{cell}", CELL) for name, path in self.outputs.items()}

    def settings(self, study: Study, names: Names) -> dict[str, Any]:
        """Return all that a job's result depends on beside its input files, as plain values."""
        version = version_of(self.run.__module__, without=DECLARING)
        used = {"version": version, **self.depends(study, **names)}
        # as files give them back, tuples as lists: `verify` compares the two
        plain: dict[str, Any] = json.loads(json.dumps(used))
        return plain

    def key(self, study: Study, names: Names) -> str:
        """Return the hash of all that a job's result depends on beside its input files."""
        text = json.dumps(self.settings(study, names), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def paths(self, study: Study, names: Names) -> Paths:
        """Return the files of a job."""
        written = {name: path.format(**names) for name, path in self.outputs.items()}
        provenance = {"stage": self.name, "settings": self.settings(study, names)}
        return Paths(self.read(study, names), written, provenance)


def stamped(path: Path) -> Path | None:
    """Return the file that says what made a path: itself, or of a trained model's folder its own.

    None where nothing does.
    """
    from fasb.artifacts import CHECKED

    speaks = path / TRAINING if path.is_dir() else path
    return speaks if speaks.suffix in CHECKED and speaks.is_file() else None


def digest_of(path: Path) -> str:
    """Return 16 digits of what a file or folder of the study holds, as inputs are recorded by.

    A file is known by the digest that it carries, with which its content is compared; a model's
    folder by the content of its files, where a large one is sampled (`content_of`); a folder of
    bundles by the digests that they carry. What made them, and when, does not count.

    Raises:
        ArtifactError: the file, or one in the folder, is missing or damaged.
    """
    from fasb.artifacts import SEALED, stamp_of

    if not path.is_dir():
        return str(stamp_of(path)["digest"])[:16]
    if (path / MODEL_CONFIG).is_file():
        # how long a training took differs where its weights are the same
        return content_hash([one for one in content_of(str(path)) if one[0] != TRAINING])
    files = sorted(file for file in path.glob("*") if file.suffix in SEALED)
    return content_hash([(file.name, stamp_of(file)["digest"]) for file in files])


def differences(before: Any, now: Any, key: str = "") -> list[str]:
    """Return the keys, dots between them, under which two nested mappings differ."""
    if not isinstance(before, dict) or not isinstance(now, dict):
        return [] if before == now else [key or "settings"]
    found = []
    for name in sorted(before.keys() | now.keys()):
        way = f"{key}.{name}" if key else name
        found += differences(before.get(name), now.get(name), way)
    return found


def without_code(settings: Any) -> Any:
    """Return a job's settings without the library's version and the hashes of extension files.

    What a stranger's file has in their place, no mapping, stays as it is, and differs from any.
    """

    def of(value: Any) -> Any:
        if isinstance(value, list):
            return [of(one) for one in value]
        if not isinstance(value, dict):
            return value
        # beside `use` and `load` alone: an extension's own settings may have a key of that name
        left_out = {"code"} if {"use", "load"} & value.keys() else set()
        return {key: of(one) for key, one in value.items() if key not in left_out}

    found = of(settings)
    if not isinstance(found, dict):
        return found
    return {key: one for key, one in found.items() if key != "version"}


def part_of(whole: Stage) -> Stage:
    """Return the stage whose jobs each do one part of a sharded stage's cell.

    It runs the same function, which is told which part; its result depends on the same settings.
    """

    def of(study: Study) -> list[Names]:
        found: list[Names] = []
        for names in whole.scope.of(study):
            found += [{**names, "part": part} for part in cells.parts(study, names["cell"])]
        return found

    return Stage(
        f"{whole.name}_part",
        Scope(f"{whole.scope.target}/{{part}}", of),
        lambda study, cell, part: whole.inputs(study, cell),
        _part_outputs(whole),
        lambda study, cell, part: whole.depends(study, cell),
        whole.run,
    )


def _part_outputs(whole: Stage) -> dict[str, str]:
    """Each output in a folder of its part, under the same name."""
    return {
        name: path.replace("{cell}/", "{cell}/parts/{part}/")
        for name, path in whole.outputs.items()
    }


def stage(
    scope: Scope,
    outputs: Mapping[str, str],
    inputs: Callable[..., Mapping[str, str | list[str]]],
    depends: Callable[..., dict[str, Any]],
    sharded: bool = False,
) -> Callable[[Callable[..., None]], Stage]:
    """Declare the function below as the stage of its name (see `Stage`)."""

    def declare(run: Callable[..., None]) -> Stage:
        return Stage(run.__name__, scope, inputs, dict(outputs), depends, run, sharded)

    return declare


def each(name: str, of: Callable[[Study], Iterable[Any]]) -> Scope:
    """Return the scope of stages that are run for one thing of a kind."""
    return Scope(f"{{{name}}}", lambda study: [{name: one} for one in of(study)])


EACH_WORLD = each("model", cells.worlds)
EACH_DATASET = each("dataset", cells.asked)
EACH_FITTED_CELL = each("cell", cells.fitting)
EACH_CELL = each("cell", cells.cells)
ONCE = Scope("", lambda study: [{}])


# ---- what several stages depend on


def model_settings(study: Study, model: str) -> dict[str, Any]:
    """Return how a model is loaded; one that the study trains lies in its folder."""
    entry = study.models[model]
    dumped = entry.model_dump(mode="json", exclude={"world", "pretrain", "size", "job"})
    return {**dumped, "path": dumped["path"] or f"results/models/{model}"}


def model_content(study: Study, model: str) -> dict[str, Any]:
    """Return how a model is loaded, and the content of one that lies in a folder or a file.

    What the study trains is an input of the jobs that load it.
    """
    entry = study.models[model]
    files = contents_of((entry.path, entry.tokenizer))
    return {**model_settings(study, model), "files": files}


def extension(package: str, use: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return an extension file's name, its hash, its settings, and the content of files in them.

    What it makes itself, as its attribute `MAKES` says, is no input.
    """
    made = {"use": use, "code": code_hash(package, use), "settings": settings}
    makes = getattr(find(package, use), "MAKES", ())
    files = contents_of({key: value for key, value in settings.items() if key not in makes})
    return {**made, "files": files} if files else made


def digests_of(load: str, settings: dict[str, Any]) -> dict[str, str]:
    """Return the content of the local files that a dataset is read from: a table may be edited."""
    from fasb.data.sources import digests

    return digests(find("data", load), settings_of("data", load, settings, load))
