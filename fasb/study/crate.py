"""A study's results described for others: an RO-Crate of what made which file, of what.

In: the folder `results/` of a study. Out: its `ro-crate-metadata.json`, after the profile Process
Run Crate: an action for every job whose files are there, with its command, settings, inputs,
outputs and software. The crate is the folder as it is; nothing is copied.
"""

import hashlib
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fasb.artifacts import stamp_of
from fasb.errors import ArtifactError, ConfigError
from fasb.provenance import surroundings
from fasb.study.jobs import Job, read_study
from fasb.study.verify import CRATE, KINDS, RESULTS, command, flat, makers, verify_folder
from fasb.wholefiles import writing

PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
VERSION = "1.1"
"""Of RO-Crate; the one that the profile is of."""


def write_crate(root: Path) -> Path:
    """Write the description of a study's folder into it, and return its path.

    Files that are missing are left out.

    Raises:
        ArtifactError: the folder has no `study.json`, or a file that is damaged or stale, of which
            the study's settings would say what is not so.
        ConfigError: rocrate is not installed.
    """
    study = read_study(root / "study.json")
    wrong = [one for one in verify_folder(root) if one.wrong and one.path.exists()]
    if wrong:
        raise ArtifactError(
            f"{wrong[0].path}: {wrong[0].told}; 'fasb verify {root}' lists all such files"
        )
    crate = _Crate(root, study.run.name)
    # a job that writes several files stands there once for each
    for one in {command(one): one for one in makers(study).values()}.values():
        crate.add_job(one)
    path = root / CRATE
    with writing(path) as part:
        part.write_text(json.dumps(crate.finished(), indent=1, ensure_ascii=False) + "\n")
    return path


class _Crate:
    """The description while it grows; entities are added once, under their place in the folder."""

    def __init__(self, root: Path, name: str) -> None:
        try:
            from rocrate.rocrate import ROCrate
        except ImportError:
            raise ConfigError("fasb crate: needs rocrate; run 'pip install fasb[crate]'") from None
        self._root, self._crate = root, ROCrate(version=VERSION)
        self._known: dict[str, Any] = {}
        self._newest = 0.0
        self._crate.name = f"Results of the study {name}"
        self._crate.description = (
            "What models answered with and without activation steering, how it was judged and "
            "compared, and what made each file."
        )
        self._crate.license = "No licence has been named for these files."
        profile = {"@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"}
        self._crate.root_dataset["conformsTo"] = self._entity(PROFILE, profile)
        self._file(root / "study.json")

    def add_job(self, job: Job) -> None:
        """Describe a job of which all files are there."""
        made = [self._path(name) for name in job.paths.outputs.values()]
        if not all(path.exists() for path in made):
            return
        ended = max(path.stat().st_mtime for path in made)
        self._newest = max(self._newest, ended)
        settings = job.stage.settings(job.study, job.names)
        told = {"@type": "PropertyValue", "name": "settings", "value": _text(settings)}
        used = [self._path(name) for name in dict.fromkeys(flat(job.inputs.values()))]
        action = self._crate.add_action(
            self._software(made),
            identifier=f"#{job.key}-{'-'.join(command(job).split()[2:])}",
            object=[
                *(self._file(path) for path in used if path.exists()),
                self._entity(f"#settings-{job.key}", told),
            ],
            result=[self._file(path) for path in made],
            properties={
                "name": command(job),
                "endTime": _time(ended),
                "actionStatus": {"@id": "http://schema.org/CompletedActionStatus"},
            },
        )
        self._crate.root_dataset.append_to("mentions", action)

    def finished(self) -> dict[str, Any]:
        """Return the description as JSON-LD."""
        self._crate.datePublished = _time(self._newest)
        found: dict[str, Any] = self._crate.metadata.generate()
        return found

    def _path(self, name: str) -> Path:
        return self._root / Path(name).relative_to(RESULTS)

    def _file(self, path: Path) -> Any:
        """Return a file or folder as an entity; a file with its size and SHA-256."""
        place = path.relative_to(self._root).as_posix()
        if place not in self._known and path.is_dir():
            self._known[place] = self._crate.add_dataset(path, dest_path=place)
        elif place not in self._known:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            about = {"contentSize": str(path.stat().st_size), "sha256": digest}
            self._known[place] = self._crate.add_file(path, dest_path=place, properties=about)
        return self._known[place]

    def _software(self, made: Iterable[Path]) -> Any:
        """Return the version of this library that made a job's files, as they say themselves."""
        sealed = [path for path in made if path.suffix in KINDS and path.is_file()]
        # pictures and texts carry no stamp: they count as made by what describes them
        by = stamp_of(sealed[0])["provenance"] if sealed else surroundings()
        versions, commit = by.get("versions", {}), by.get("commit") or "no commit"
        needed = []
        for name, version in sorted(versions.items()):
            if name != "fasb" and version is not None:
                about = {"@type": "SoftwareApplication", "name": name, "softwareVersion": version}
                needed.append(self._entity(f"#{name}-{version}", about))
        hardware = sorted(by.get("hardware", {}).items())
        own = {
            "@type": "SoftwareApplication",
            "name": "fasb",
            "softwareVersion": f"{versions.get('fasb')} ({commit})",
            "softwareRequirements": [{"@id": one.id} for one in needed],
            "processorRequirements": ", ".join(
                f"{key} {value}" for key, value in hardware if value
            ),
        }
        number = hashlib.sha256(_text(own).encode()).hexdigest()[:12]
        return self._entity(f"#fasb-{number}", own)

    def _entity(self, identifier: str, properties: dict[str, Any]) -> Any:
        from rocrate.model import ContextEntity

        if identifier not in self._known:
            entity = ContextEntity(self._crate, identifier, properties=properties)
            self._known[identifier] = self._crate.add(entity)
        return self._known[identifier]


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
