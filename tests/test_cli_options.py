"""The option `--settings`."""

import json

import click
import pytest
from click.testing import CliRunner

from fasb.cli.options import read_settings
from fasb.errors import ConfigError


@click.command()
@click.option("--settings", callback=read_settings)
def show(settings):
    click.echo(json.dumps(settings))


def call(*arguments):
    return CliRunner().invoke(show, arguments, catch_exceptions=False)


def test_settings_are_json_text_or_a_file_that_holds_it_or_yaml(tmp_path):
    (tmp_path / "s.json").write_text('{"a": [1e-05, "$x {y}"]}')
    (tmp_path / "s.yaml").write_text("a:\n- 0.00001\n- $x {y}\n")
    for given in ('{"a": [1e-05, "$x {y}"]}', str(tmp_path / "s.json"), str(tmp_path / "s.yaml")):
        assert json.loads(call("--settings", given).output) == {"a": [1e-05, "$x {y}"]}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "no.json",
            "--settings: no file 'no.json'; give JSON text, or the path of a .json or .yaml file",
        ),
        ("{a: [}", "--settings: not YAML .*; correct that line"),
        ("[1]", "--settings: no file '.1.'; give JSON text"),
        ('{"a": 1, "a": 2}', "--settings: .*has the key 'a' again"),
        (f'{{"a": {"[" * 10**5}', "--settings: not YAML .*nested too deeply.*; correct it"),
        (f'{{"a": {"9" * 5000}}}', "--settings: not YAML .*digits.*; correct it"),
    ],
)
def test_settings_that_cannot_be_read_are_one_line(given, message):
    with pytest.raises(ConfigError, match=message) as caught:
        call("--settings", given)
    assert "\n" not in str(caught.value)


def test_a_settings_file_must_hold_a_mapping(tmp_path):
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(ConfigError, match="--settings: not a mapping; write keys and values"):
        call("--settings", str(tmp_path / "list.json"))


def test_without_settings_there_are_none():
    assert json.loads(call().output) == {}
