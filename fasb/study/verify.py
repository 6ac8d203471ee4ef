"""Whether the files of a study are whole, and still those that the study asks for.

In: the folder `results/` of a study, or one of its files. Out: a finding for each file that is
damaged, stale or missing; the commands that make a file again. All of it follows from what files
carry: checksum, settings with the hashes of code, digests of inputs, versions.
"""

import fcntl
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fasb.artifacts import SEALED, SHOWN, stamp_of
from fasb.errors import ArtifactError, ConfigError, FasbError
from fasb.provenance import content_hash, surroundings
from fasb.study.config import Study
from fasb.study.frames import MAPPINGS, read_mapping, read_table, table_of
from fasb.study.jobs import STAGES, STUDY, Job, job, read_study, run_job
from fasb.study.stage import STORE, TRAINING, differences, digest_of, stamped

RESULTS = Path("results")
"""What the paths begin with that a study and its files know."""
CRATE = "ro-crate-metadata.json"
"""What describes the folder for others; it is of no stage."""
ASIDE = ("models", "wandb", "timing", ".store")
"""Folders whose files others wrote, or that cost time only."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What is found of a file. wrong: it must not be used as it is; else it is worth knowing."""

    path: Path
    told: str
    wrong: bool = True


def verify_folder(root: Path) -> Iterator[Finding]:
    """Yield what is wrong with a study's files; a file without a finding of its own is well.

    Raises:
        ArtifactError: the folder has no `study.json`, or a damaged one.
    """
    study = read_study(root / "study.json")
    made = makers(study)
    for path in _checked(root, made):
        name = _name(root, path)
        # a file inside a folder that a job writes as a whole
        maker = made.get(name) or made.get(str(Path(name).parent))
        yield from _of_file(root, path, maker)
    for name, maker in made.items():
        path = root / Path(name).relative_to(RESULTS)
        if not path.exists():
            yield Finding(path, f"missing; run '{maker.command}'")
        elif Path(name).suffix and not path.is_file():
            yield Finding(path, f"no file; remove it and run '{maker.command}'")


def _checked(root: Path, made: Mapping[str, Job]) -> list[Path]:
    """Return the files that carry a checksum or are named in a receipt."""
    found = []
    for path in sorted(root.rglob("*")):
        inside = path.relative_to(root).parts
        aside = inside[0] in (*ASIDE, CRATE) or any(part.startswith(".") for part in inside)
        aside = aside and not (inside[0] == "models" and path.name == TRAINING)
        # texts and pictures that no job makes are somebody's own; a missing receipt is found once
        shown = path.suffix in SHOWN and path.with_suffix(".json").is_file()
        ours = path.suffix in SEALED or (shown and _name(root, path) in made)
        if ours and path.is_file() and not aside:
            found.append(path)
    return found


def _name(root: Path, path: Path) -> str:
    return str(RESULTS / path.relative_to(root))


def _of_file(root: Path, path: Path, maker: Job | None) -> Iterator[Finding]:
    again = "make it again" if maker is None else f"run '{maker.command}' again"
    try:
        made_by = stamp_of(path)["provenance"]
        _check_content(path)
    except FasbError as error:
        yield Finding(path, f"damaged: {str(error).removeprefix(f'{path}: ')}")
        return
    # no stage's file: it is what all of them are compared with
    if path == root / "study.json":
        return
    if maker is None:
        yield Finding(path, "not of the study in study.json, perhaps of one before it", False)
    else:
        asked = maker.stage.settings(maker.study, maker.names)
        changed = differences(made_by.get("settings", asked), asked)
        if changed:
            yield Finding(path, f"stale: {', '.join(changed[:3])} changed; {again}")
    for name, told in inputs_of(root, made_by):
        if told:
            yield Finding(path, f"stale: {name} {told}; {again}")
    if others := _other_versions(made_by):
        yield Finding(path, f"made with {', '.join(others)}", False)


def _check_content(path: Path) -> None:
    """Ask the schema of a file that has one by its name."""
    if table_of(path) is not None:
        read_table(path)
    elif path.name in MAPPINGS:
        read_mapping(path)


def inputs_of(root: Path, made_by: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each recorded input, and what is wrong with it; empty where it is as it was."""
    for name, digest in made_by.get("inputs", {}).items():
        below = Path(name).parts[:1] == ("results",)
        path = root / Path(name).relative_to(RESULTS) if below else name
        try:
            now = digest_of(Path(path))
        except ArtifactError:
            yield name, "is gone or damaged"
            continue
        yield name, "" if now == digest else "is another than it was made of"


def _other_versions(made_by: dict[str, Any]) -> list[str]:
    here = surroundings()
    found = []
    for name, version in made_by.get("versions", {}).items():
        if here["versions"].get(name) != version:
            found.append(f"{name} {version}, here {here['versions'].get(name)}")
    return found


def makers(study: Study) -> dict[str, Job]:
    """Return the job of every file and folder that a study makes."""
    found = {}
    for stage in STAGES.values():
        for target in stage.scope.targets(study):
            one = job(study, stage.name, target)
            for path in one.paths.outputs.values():
                found[path] = one
    return found


def chain(study: Study, name: str) -> list[Job]:
    """Return the jobs that make a file from nothing, in an order in which they can run.

    Raises:
        ConfigError: no job of the study makes it.
    """
    made = makers(study)
    # of a file in a folder that a job writes as a whole, that job
    last = next(
        (made[str(at)] for at in (Path(name), *Path(name).parents) if str(at) in made), None
    )
    if last is None:
        if name == str(STUDY):
            raise ConfigError(f"{name}: made of configs, by 'fasb study --configfile FILE'")
        raise ConfigError(f"{name}: no job of the study in {STUDY} makes it")
    order: dict[str, Job] = {}

    def visit(one: Job) -> None:
        for path in flat(one.inputs.values()):
            before = made.get(path)
            if before is not None and before.command not in order:
                visit(before)
        order[one.command] = one

    visit(last)
    return list(order.values())


def is_fresh(one: Job) -> bool:
    """Return whether all that a job writes is there, whole, and made of what it asks for.

    Of a folder that is no trained model the bundles in it are asked.
    """
    for path in map(Path, one.paths.outputs.values()):
        if not path.exists():
            return False
        speaks = stamped(path)
        asked = [speaks] if speaks else sorted(path.glob("*.safetensors"))
        if any(found.wrong for file in asked for found in _of_file(RESULTS, file, one)):
            return False
    return True


def make(study: Study, name: str) -> None:
    """Run the jobs that a file needs and that are not done; as many may do so at once as like to.

    Raises:
        ConfigError: no job of the study makes it.
    """
    for one in chain(study, name):
        lock = STORE / "locks" / content_hash(one.command)
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("w") as file:
            # given back when the file is closed, also by a killed process
            fcntl.flock(file, fcntl.LOCK_EX)
            if not is_fresh(one):
                run_job(one.stage.name, one.target, one.key)


def flat(groups: Iterable[list[str]]) -> list[str]:
    """Return all paths of a job's inputs."""
    return [path for group in groups for path in group]
