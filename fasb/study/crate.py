"""A study's results described for others: an RO-Crate of what made which file, of what.

In: the folder `results/` of a study. Out: its `ro-crate-metadata.json`, after the profile Process
Run Crate: an action for every job whose files are there, with its command, settings, inputs,
outputs and software, as far as the files themselves say it. The crate is the folder as it is;
nothing is copied.
"""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fasb.artifacts import stamp_of
from fasb.errors import ArtifactError, ConfigError
from fasb.provenance import content_hash
from fasb.study.jobs import Job, read_study
from fasb.study.stage import stamped
from fasb.study.verify import CRATE, RESULTS, flat, makers, verify_folder
from fasb.wholefiles import writing

PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
VERSION = "1.1"
"""Of RO-Crate; the one that the profile is of."""


def write_crate(root: Path) -> Path:
    """Write the description of a study's folder into it, and return its path.

    Files that are missing are left out.

    Raises:
        ArtifactError: the folder has no `study.json`, or a file that is damaged or stale: it was
            not made of the inputs that the study names.
        ConfigError: rocrate is not installed.
    """
    study = read_study(root / "study.json")
    crate = _Crate(root, study.run.name)
    wrong = [one for one in verify_folder(root) if one.wrong and one.path.exists()]
    if wrong:
        raise ArtifactError(
            f"{wrong[0].path}: {wrong[0].told}; 'fasb verify {root}' lists all such files"
        )
    # a job that writes several files stands there once for each
    for one in {one.command: one for one in makers(study).values()}.values():
        crate.add_job(one)
    path = root / CRATE
    with writing(path) as part:
        part.write_text(json.dumps(crate.finished(), indent=1, ensure_ascii=False) + "\n", "utf-8")
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
        paths = [self._path(name) for name in dict.fromkeys(flat(job.inputs.values()))]
        used = [self._file(path) for path in paths if path.exists()]
        # a folder that is no trained model carries no stamp: nobody knows of which settings it is
        sealed = [speaks for path in made if (speaks := stamped(path))]
        made_by = stamp_of(sealed[0])["provenance"] if sealed else {}
        if "settings" in made_by:
            value = json.dumps(made_by["settings"], sort_keys=True, ensure_ascii=False)
            told = {"@type": "PropertyValue", "name": "settings", "value": value}
            used.append(self._entity(f"#settings-{content_hash(value)}", told))
        action = self._crate.add_action(
            self._software(made_by),
            identifier=f"#{'-'.join(job.command.split()[2:])}",
            object=used,
            result=[self._file(path) for path in made],
            properties={
                "name": job.command,
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

    def _software(self, made_by: dict[str, Any]) -> Any:
        """Return this library as a file's stamp names it; of no version where there is no stamp."""
        own: dict[str, Any] = {"@type": "SoftwareApplication", "name": "fasb"}
        if "versions" not in made_by:
            own["description"] = "The files do not say which version made them."
            return self._entity("#fasb", own)
        versions, commit = made_by["versions"], made_by.get("commit") or "no commit"
        needed = []
        for name, version in sorted(versions.items()):
            if name != "fasb" and version is not None:
                other = {"@type": "SoftwareApplication", "name": name, "softwareVersion": version}
                needed.append({"@id": self._entity(f"#{name}-{version}", other).id})
        hardware = sorted(made_by.get("hardware", {}).items())
        own["softwareVersion"] = f"{versions.get('fasb')} ({commit})"
        own["softwareRequirements"] = needed
        own["processorRequirements"] = ", ".join(
            f"{key} {value}" for key, value in hardware if value
        )
        return self._entity(f"#fasb-{content_hash(own)}", own)

    def _entity(self, identifier: str, properties: dict[str, Any]) -> Any:
        from rocrate.model import ContextEntity

        if identifier not in self._known:
            entity = ContextEntity(self._crate, identifier, properties=properties)
            self._known[identifier] = self._crate.add(entity)
        return self._known[identifier]


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
