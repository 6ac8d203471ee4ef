"""Jobs of a study: which there are, what each reads and writes, and how one is run.

In: a `Study`, or the file that the workflow wrote of it. Every stage is declared in `stages/`;
this is what the Snakefile and `fasb run` ask about them. Imports no torch.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fasb.errors import ArtifactError, ConfigError, did_you_mean
from fasb.extensions import validated
from fasb.study.config import Study
from fasb.study.stage import Names, Paths, Stage, differences, stamped, without_code
from fasb.study.stages import data, fit, outputs, test, tune, world

STUDY = Path("results/study.json")
"""The whole study as it was validated; only the keys that somebody gave, so that presets still lie
below them."""
MODULES = (world, data, fit, tune, test, outputs)
"""In the order of the pipeline."""
STAGES = {
    stage.name: stage
    for module in MODULES
    for stage in vars(module).values()  # in the order in which the module defines them
    if isinstance(stage, Stage)
}
"""Every stage by its name."""


@dataclass(frozen=True, slots=True)
class Job:
    """One stage for one target."""

    stage: Stage
    target: str
    names: Names
    study: Study

    @property
    def inputs(self) -> dict[str, list[str]]:
        """The files that it reads, by name."""
        return self.stage.read(self.study, self.names)

    @property
    def key(self) -> str:
        """The hash of all that its result depends on beside its input files."""
        return self.stage.key(self.study, self.names)

    @property
    def paths(self) -> Paths:
        """Its files."""
        return self.stage.paths(self.study, self.names)

    @property
    def command(self) -> str:
        """What runs it by hand."""
        return f"fasb run {self.stage.command} {self.target}".rstrip()

    def require_inputs(self) -> None:
        """Refuse to begin where a file that is read is not there; the workflow makes it before.

        Raises:
            ArtifactError: naming the file and the command that makes it.
        """
        for path in self.paths.every():
            if not path.exists():
                made = (maker_of(self.study, stage, str(path)) for stage in STAGES)
                maker = next(filter(None, made), None)
                remedy = f"run '{maker.command}' first" if maker else "make it again"
                raise ArtifactError(f"{path}: no such file; {remedy}")

    def check_inputs(self) -> None:
        """Refuse files that were made with other settings than the study has now.

        The workflow makes these anew, where it knows their history: not in a folder that was copied
        without `.snakemake`, nor when a stage is run by hand. Other code is let pass: who keeps
        results beyond a change of code says so to the workflow, and `fasb verify` names them.

        Raises:
            ArtifactError: naming the file, what differs, and the command that makes it.
        """
        from fasb.artifacts import stamp_of

        for path in self.paths.every():
            speaks = stamped(path)
            if speaks is None:
                continue
            made_by = stamp_of(speaks)["provenance"]
            maker = maker_of(self.study, str(made_by.get("stage")), str(path))
            if maker is None:
                continue
            asked = maker.stage.settings(self.study, maker.names)
            made_with = without_code(made_by.get("settings", asked))
            changed = differences(made_with, without_code(asked))
            if changed:
                raise ArtifactError(
                    f"{path}: made with another {', '.join(changed[:3])} than the study has now; "
                    f"run '{maker.command}' first"
                )

    def run(self) -> None:
        """Do it, if its inputs are there and are those that the study asks for.

        Raises:
            ArtifactError: an input is missing, or was made with other settings.
        """
        self.require_inputs()
        self.check_inputs()
        self.stage.run(self.study, **self.names, paths=self.paths)


def job(study: Study, stage: str, target: str = "") -> Job:
    """Return the job of a stage for a target.

    Raises:
        ConfigError: there is no such stage, or the study has no such target.
    """
    found = STAGES.get(stage.replace("-", "_"))
    if found is None:
        commands = [one.command for one in STAGES.values()]
        raise ConfigError(f"fasb run: no stage {stage!r}; {did_you_mean(stage, commands)}")
    known = found.scope.targets(study)
    if target not in known:
        remedy = did_you_mean(target, known) if known else "its config asks for none"
        raise ConfigError(f"{found.command}: the study has no target {target!r}; {remedy}")
    return Job(found, target, known[target], study)


def job_of(study: Study, stage: str, wildcards: Mapping[str, str]) -> Job:
    """Return the job of a stage by the workflow's wildcards."""
    return job(study, stage, STAGES[stage].scope.wildcards.format(**wildcards))


def maker_of(study: Study, stage: str, path: str) -> Job | None:
    """Return the job of a stage that makes a file; None where no target of the study does."""
    found = STAGES.get(stage)
    if found is None:
        return None
    for target, names in found.scope.targets(study).items():
        if path in (written.format(**names) for written in found.outputs.values()):
            return Job(found, target, names, study)
    return None


def count_jobs(study: Study) -> Counter[str]:
    """Return how many jobs of each stage an empty folder needs."""
    counts = {name: len(stage.scope.targets(study)) for name, stage in STAGES.items()}
    return Counter({name: n for name, n in counts.items() if n})


def run_job(stage: str, target: str = "", key: str | None = None) -> None:
    """Run a job of the study in `results/study.json`.

    Raises:
        ConfigError: the study has no such job.
        ArtifactError: that file is missing; or what the job depends on is not what `key` was taken
            of: the study, the library or an extension file changed in between; or an input is
            missing, or was made with other settings.
    """
    found = job(read_study(), stage, target)
    check_key(f"{found.stage.command} {target}", found.key, key)
    found.run()


def check_key(what: str, now: str, key: str | None) -> None:
    """Refuse a job that depends on something else now than when `key` was taken of it.

    Raises:
        ArtifactError: naming the job.
    """
    if key is not None and key != now:
        raise ArtifactError(
            f"{STUDY}: {what} depends on other settings, code or local files than when the "
            "workflow started; let it end, and start it again"
        )


# ---- the study's file


def write_study(study: Study, path: Path = STUDY) -> None:
    """Write the study, unless the file holds it already."""
    from fasb.artifacts import read_json, write_json

    payload = dump_study(study)
    try:
        same = path.is_file() and read_json(path) == payload
    # a damaged file is written anew, not complained of
    except ArtifactError:
        same = False
    if not same:
        write_json(path, payload, {"stage": "study"})


def read_study(path: Path = STUDY) -> Study:
    """Return the study that `write_study` wrote.

    Raises:
        ArtifactError: the file is missing or damaged.
        ConfigError: it is of a version of the library that had other keys.
    """
    from fasb.artifacts import read_json

    if not path.is_file():
        raise ArtifactError(f"{path}: no such file; run 'snakemake', or 'fasb study' to write it")
    study: Study = validated(Study, read_json(path), str(path))
    return study


def dump_study(study: Study) -> dict[str, Any]:
    """Return the study as plain values, of which `Study` makes an equal one."""
    payload: dict[str, Any] = study.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return payload
