"""A bundle on the hub: what is uploaded, and what its card says."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import yaml
from steering import some_bundle
from tiny import tiny_model

import fasb
from fasb.errors import ConfigError, ModelError
from fasb.user.publishing import card

MEASURE = {"name": "mc2", "unsteered": 0.3, "steered": 0.4, "difference": 0.1}
ABOUT = {"held_out": [{**MEASURE, "low": -0.01, "high": 0.21}]}


@pytest.fixture(scope="module")
def bundle():
    one = some_bundle(tiny_model())
    return replace(
        one,
        about=ABOUT,
        fingerprint=replace(one.fingerprint, model="lab/small", revision="0123abcd"),
    )


def test_bundle_and_card_are_uploaded(bundle, monkeypatch):
    found, private = {}, True

    class Api:
        def create_repo(self, repo, private, exist_ok):
            found.update(repo=repo, private=private)
            return f"https://huggingface.co/{repo}"

        def repo_info(self, repo):
            return SimpleNamespace(private=private)

        def upload_folder(self, repo_id, folder_path):
            found["files"] = {file.name for file in Path(folder_path).iterdir()}
            found["key"] = fasb.Bundle.load(Path(folder_path, "fasb.bundle")).key()

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert fasb.push(bundle, "me/mine", private=True) == "https://huggingface.co/me/mine"
    assert found == {
        "repo": "me/mine",
        "private": True,
        "files": {"README.md", "fasb.bundle"},
        "key": bundle.key(),
    }
    # of a repository that exists, the hub passes over what is asked
    found, private = {}, False
    with pytest.raises(ConfigError, match="repo: me/mine exists and is public"):
        fasb.push(bundle, "me/mine", private=True)
    assert "files" not in found
    fasb.push(bundle, "me/mine")
    assert found["files"] == {"README.md", "fasb.bundle"}


def test_the_card_says_what_was_measured(bundle):
    text = card(bundle, "me/mine")
    head = yaml.safe_load(text.split("---")[1])
    assert head["base_model"] == "lab/small"
    assert "95 %: -1.0 to +21.0" in text
    assert "neither fitted nor tuned on" in text
    changed = card(bundle.with_policy(alpha=1.0), "me/mine")
    assert "Nothing was measured with this policy." in changed
    assert "95 %" not in changed


def test_a_folder_called_like_a_repository_is_not_linked(bundle):
    local = replace(bundle, fingerprint=replace(bundle.fingerprint, revision=""))
    assert "base_model" not in yaml.safe_load(card(local, "me/mine").split("---")[1])


def test_a_name_that_is_no_repository_of_the_hub_is_not_linked(bundle):
    odd = replace(bundle, fingerprint=replace(bundle.fingerprint, model="x\nlicense: mit"))
    text = card(odd, "me/mine")
    assert "license" not in yaml.safe_load(text.split("---")[1])
    assert 'fasb.load("MODEL")' in text


def test_what_cannot_be_uploaded_is_one_line(bundle, monkeypatch):
    with pytest.raises(ConfigError, match="give OWNER/NAME"):
        fasb.push(bundle, "mine")

    def refuse(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    with pytest.raises(ModelError, match="me/mine: ") as caught:
        fasb.push(bundle, "me/mine")
    assert "\n" not in str(caught.value)


def answered(status):
    """What the hub's library raises of an answer with a status."""
    error = huggingface_hub.errors.HfHubHTTPError.__new__(huggingface_hub.errors.HfHubHTTPError)
    OSError.__init__(error, f"Client error {status}")
    error.response = SimpleNamespace(status_code=status)
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (huggingface_hub.errors.LocalTokenNotFoundError("x"), "needs a token; run 'hf auth login'"),
        (huggingface_hub.errors.OfflineModeIsEnabled("x"), "HF_HUB_OFFLINE forbids to upload; un"),
        (huggingface_hub.errors.HFValidationError("x"), "no name that the hub takes; give another"),
        (ConnectionError("x"), "the hub is out of reach; try again where there is network"),
        (answered(403), "does not let your token write there; run 'hf auth login' with one"),
        (answered(500), "cannot be uploaded (Client error 500); try again"),
    ],
)
def test_what_goes_wrong_in_uploading_is_not_said_of_loading(bundle, monkeypatch, error, message):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(ModelError) as caught:
        fasb.push(bundle, "me/mine")
    assert message in str(caught.value)
    assert "download" not in str(caught.value)
