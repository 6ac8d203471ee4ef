"""A bundle on the hub, with a card that says what was measured and what was not.

In: a bundle and the name of a repository. Out: its address. Knows no model.
"""

import re
import tempfile
import textwrap
from pathlib import Path

from huggingface_hub import constants, errors

from fasb.errors import ConfigError, FasbError, ModelError
from fasb.steering.bundle import Bundle
from fasb.user.showing import as_text

NAME = "fasb.bundle"
"""What the file is called in its repository."""
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def push(bundle: Bundle, repo: str, private: bool = False) -> str:
    """Upload a bundle with its card; the repository is made where there is none.

    Return its address. The file names the questions it was fitted on by hashes only; of those
    held out up to three stand in it with their answers (`about["examples"]`).

    Raises:
        ConfigError: `repo` is not OWNER/NAME.
        ModelError: the hub is out of reach, or refuses the token.
    """
    if not REPOSITORY.fullmatch(repo):
        raise ConfigError(f"repo: {repo!r}; give OWNER/NAME")
    try:
        return _upload(bundle, repo, private)
    except FasbError:
        raise
    except Exception as error:  # the library passes on the kinds of others
        raise ModelError(f"{repo}: {_remedy(error)}") from error


def _upload(bundle: Bundle, repo: str, private: bool) -> str:
    """Upload a bundle and its card, and return their address."""
    import huggingface_hub

    api = huggingface_hub.HfApi()
    with tempfile.TemporaryDirectory() as scratch:
        bundle.save(Path(scratch, NAME))
        Path(scratch, "README.md").write_text(card(bundle, repo), "utf-8")
        address = api.create_repo(repo, private=private, exist_ok=True)
        # of one that exists, `create_repo` passes over what is asked
        if private and not api.repo_info(repo).private:
            raise ConfigError(
                f"repo: {repo} exists and is public; make it private on the hub, or give another"
            )
        api.upload_folder(repo_id=repo, folder_path=scratch)
    return str(address)


def _remedy(error: Exception) -> str:
    """Return what is wrong with an upload, and what to do."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.LocalTokenNotFoundError):
        return "uploading needs a token; run 'hf auth login'"
    if isinstance(error, errors.HFValidationError):
        return "no name that the hub takes; give another OWNER/NAME"
    if status in (401, 403, 404):
        return (
            "the hub does not let your token write there; run 'hf auth login' with one that may, "
            "or give another OWNER"
        )
    if isinstance(error, errors.OfflineModeIsEnabled) or constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE forbids to upload; unset it"
    if isinstance(error, ConnectionError):
        return "the hub is out of reach; try again where there is network"
    said = " ".join(str(error).split())[:300] or type(error).__name__
    return f"cannot be uploaded ({said}); try again"


def card(bundle: Bundle, repo: str) -> str:
    """Return the model card: what the bundle is, what was measured, how it is used."""
    model = bundle.fingerprint.model if bundle.fingerprint is not None else ""
    # a folder may be called like a repository, but only the hub's have a commit
    from_hub = bundle.fingerprint is not None and bool(bundle.fingerprint.revision)
    on_hub = from_hub and REPOSITORY.fullmatch(model) is not None
    base = f"base_model: {model}\n" if on_hub else ""
    measured = (
        "Measured on questions that it was neither fitted nor tuned on; the intervals are of the "
        "difference."
        if (bundle.about or {}).get("held_out")
        else "Nothing was measured with this policy."
    )
    # indented, so that no text of a bundle can end the block
    shown = textwrap.indent(as_text(bundle), "    ")
    return f"""---
library_name: fasb
tags: [fasb, activation-steering]
{base}---

# A steering bundle

It steers one model while that writes, and belongs to no other:

{shown}

{measured} What is not listed, such as fluency, other kinds of question and other languages, was not
measured.

```python
import fasb
from huggingface_hub import hf_hub_download

model = fasb.load("{model if on_hub else "MODEL"}")
print(fasb.steer(model, hf_hub_download("{repo}", "{NAME}"), ["Why?"])[0].text)
```
"""
