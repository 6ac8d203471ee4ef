"""The commands for one's own model and questions, as a person types them."""

import json
import shlex
import shutil
from dataclasses import replace

import pytest
from click.testing import CliRunner

from fasb.artifacts import write_json
from fasb.cli import group
from fasb.cli.user import opened_bundle
from fasb.errors import BundleError, ConfigError, DataError, FasbError, ModelError
from fasb.provenance import content_hash, content_of
from fasb.steering.bundle import Bundle
from tests.steering import some_bundle
from tests.test_user import QUESTIONS, SETTINGS
from tests.tiny import tiny_checkpoint, tiny_model


def run(*arguments):
    """Standard output and standard error of `fasb ARGUMENTS`; errors are raised."""
    found = CliRunner().invoke(
        group, [str(argument) for argument in arguments], catch_exceptions=False
    )
    assert found.exit_code == 0, found.output
    return found.stdout, found.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint, a CSV of questions, and the bundle that `fasb fit` makes of them."""
    folder = tmp_path_factory.mktemp("mine")
    tiny_checkpoint(folder / "model")
    (folder / "model" / "generation_config.json").write_text('{"repetition_penalty": 1.5}')
    rows = [f"{q.text},{';'.join(q.true)},{';'.join(q.false)}" for q in QUESTIONS]
    (folder / "my.csv").write_text("\n".join(["question,true,false", *rows]) + "\n")
    (folder / "settings.yaml").write_text(json.dumps(SETTINGS))
    options = ("--settings", folder / "settings.yaml", "--out", folder / "my.bundle")
    stdout, stderr = run("fit", "--model", folder / "model", "--data", folder / "my.csv", *options)
    assert "AUC of p" in stdout
    assert "20 questions: 12 to fit, 4 to tune, 4 held out" in stderr
    assert f"{folder / 'my.bundle.work'} may be deleted" in stderr
    return folder


def mine(folder):
    """The options that name the model and the bundle."""
    return "--model", folder / "model", "--bundle", folder / "my.bundle"


def test_steer_shows_each_question_its_answer_and_what_happened(folder):
    stdout, _ = run("steer", *mine(folder), QUESTIONS[0].text, QUESTIONS[1].text)
    lines = stdout.splitlines()
    assert lines.count(QUESTIONS[0].text) == lines.count(QUESTIONS[1].text) == 1
    assert sum(line.startswith(("steered", "not steered")) for line in lines) == 2


def test_options_stand_in_for_what_the_bundle_says(folder, tmp_path):
    some_bundle(tiny_model(), alpha=2.0, beta=0.4, tokens=9).save(tmp_path / "a.bundle")
    own = {"bundle": tmp_path / "a.bundle", "alpha": None, "beta": None, "tokens": None}
    assert opened_bundle(own).key() == Bundle.load(own["bundle"]).key()
    changed = opened_bundle({**own, "alpha": 7.0, "beta": 0.6, "tokens": 3})
    assert (changed.policy.alpha, changed.policy.beta, changed.decoding.tokens) == (7.0, 0.6, 3)
    for option, value in (("alpha", float("nan")), ("beta", 2.0), ("tokens", 0)):
        with pytest.raises(ConfigError, match=option):
            opened_bundle({**own, option: value})
    stdout, _ = run("steer", *mine(folder), "--tokens", "1", "--json", QUESTIONS[0].text)
    assert [json.loads(line)["kind"] for line in stdout.splitlines()].count("token") <= 2


def test_a_threshold_turns_on_what_was_switched_off(tmp_path):
    some_bundle(tiny_model(), when="never", alpha=2.0).save(tmp_path / "a.bundle")
    own = {"bundle": tmp_path / "a.bundle", "alpha": None, "beta": None, "tokens": None}
    assert opened_bundle(own).policy.when == "never"
    on = opened_bundle({**own, "alpha": 7.0, "beta": 0.6})
    assert (on.policy.when, on.policy.alpha, on.policy.beta) == ("token", 7.0, 0.6)
    with pytest.raises(ConfigError, match="leave it out, or give --beta, which turns it on; see"):
        opened_bundle({**own, "alpha": 7.0})


@pytest.mark.parametrize(("option", "when"), [("alpha", "never"), ("beta", "always")])
def test_an_option_that_would_change_nothing_is_refused(tmp_path, option, when):
    some_bundle(tiny_model(), when=when).save(tmp_path / "a.bundle")
    own = {"bundle": tmp_path / "a.bundle", "alpha": None, "beta": None, "tokens": None}
    with pytest.raises(ConfigError, match=f"--{option}: changes nothing"):
        opened_bundle({**own, option: 0.5})


def test_a_bundle_says_what_its_models_generation_config_asked_for(folder):
    assert Bundle.load(folder / "my.bundle").about["passed_over"] == {"repetition_penalty": 1.5}


def test_steer_draws_its_answers(folder, tmp_path):
    run("steer", *mine(folder), "--svg", tmp_path / "steer.svg", QUESTIONS[0].text)
    assert (tmp_path / "steer.svg").read_text().startswith("<svg")


def test_steer_gives_events_to_a_script(folder):
    stdout, _ = run("steer", *mine(folder), "--json", QUESTIONS[0].text)
    events = [json.loads(line) for line in stdout.splitlines()]
    assert {event["question"] for event in events} == {QUESTIONS[0].text}
    assert events[0]["kind"] in ("token", "back")
    assert events[-1]["kind"] == "done"


def test_evaluate_leaves_out_what_was_fitted_on(folder):
    stdout, _ = run("evaluate", *mine(folder), "--data", folder / "my.csv")
    assert stdout.splitlines()[-1] == "n = 4 questions; 16 that were fitted or tuned on left out; %"


def test_evaluate_gives_json_to_a_script(folder):
    stdout, _ = run("evaluate", *mine(folder), "--data", folder / "my.csv", "--seen", "--json")
    found = json.loads(stdout, parse_constant=pytest.fail)
    assert found["n"] == 20
    assert {measure["name"] for measure in found["measures"]} >= {"mc1", "steered"}


def test_verify_names_digest_and_maker_in_one_line_each(folder):
    stdout, _ = run(
        "verify", folder / "my.bundle", *sorted((folder / "my.bundle.work").glob("*.h5"))
    )
    assert len(stdout.splitlines()) == 2
    assert all(": ok, " in line and "fasb 0.1.0" in line for line in stdout.splitlines())
    assert f"data {folder / 'my.csv'}" in stdout


def test_verify_goes_on_after_a_damaged_file_and_fails_at_the_end(folder, tmp_path):
    damaged = tmp_path / "damaged.bundle"
    damaged.write_bytes((folder / "my.bundle").read_bytes()[:-8])
    found = CliRunner().invoke(
        group, ["verify", str(damaged), str(folder / "my.bundle"), str(tmp_path / "gone.json")]
    )
    assert found.exit_code == 2
    assert ": ok, " in found.stdout
    assert "damaged.bundle: cannot be read" in found.stderr
    assert "gone.json: no such file" in found.stderr


FIT = ["fit", "--data", "my.csv", "--out", "x"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        pytest.param(
            ["steer", "--bundle", "none.bundle", "Why?"],
            FasbError,
            "none.bundle: no such file",
            id="bundle",
        ),
        pytest.param(
            ["fit", "--data", "none.csv", "--out", "x"],
            DataError,
            "none.csv: no such file",
            id="data",
        ),
        pytest.param(
            [*FIT, "--settings", '{"model": 3}'], ConfigError, "settings.model: ", id="model"
        ),
        pytest.param(
            [*FIT, "--settings", '{"grid": {"s": [0]}}'],
            ConfigError,
            "settings.grid.s.0: .*got 0",
            id="grid",
        ),
        pytest.param(
            [*FIT, "--settings", "none.yaml"], ConfigError, "no file 'none.yaml'", id="no file"
        ),
        pytest.param([*FIT, "--settings", "{a: [}"], ConfigError, "not YAML", id="not YAML"),
        pytest.param(
            ["fit", "--data", "my.csv", "--out", "."], FasbError, "a folder", id="out is a folder"
        ),
        pytest.param([*FIT, "--settings", "my.csv"], ConfigError, "not a mapping", id="no mapping"),
        pytest.param(
            ["steer", "--bundle", "x", "--settings", '{"decoding": {"tokens": 5}}', "Why?"],
            ConfigError,
            "--settings: decoding: not used by this command; it takes model$",
            id="steer",
        ),
        pytest.param(
            ["evaluate", "--bundle", "x", "--data", "my.csv", "--settings", '{"seed": 5}'],
            ConfigError,
            "--settings: seed: not used by this command; it takes model, judge, separator$",
            id="evaluate",
        ),
        pytest.param(
            ["evaluate", "--bundle", "x", "--data", "my.csv", "--judge", ""],
            ConfigError,
            "judges: '' is no name of a module",
            id="empty judge",
        ),
    ],
)
def test_a_wrong_argument_is_one_line(folder, monkeypatch, arguments, error, message):
    monkeypatch.chdir(folder)
    with pytest.raises(error, match=message) as caught:
        run(
            arguments[0], "--model", "no/such", *arguments[1:]
        )  # found before a model is looked for
    assert "\n" not in str(caught.value)


def test_a_model_that_is_not_there_is_named(folder):
    with pytest.raises(ModelError, match="no/such"):
        run("steer", "--model", "no/such", "--bundle", folder / "my.bundle", "Why?")


def test_a_bundle_is_refused_by_another_model(folder, tmp_path):
    other = tiny_checkpoint(tmp_path / "other", seed=1)
    with pytest.raises(BundleError, match="siblings"):
        run("steer", "--model", other, "--bundle", folder / "my.bundle", "Why?")
    assert run("steer", "--model", other, "--bundle", folder / "my.bundle", "--siblings", "Why?")
    asked = ["evaluate", "--model", other, "--bundle", folder / "my.bundle", "--seen"]
    asked += ["--data", folder / "my.csv"]
    with pytest.raises(BundleError, match="siblings"):
        run(*asked)
    assert "n = 20 questions" in run(*asked, "--siblings")[0]


def test_a_command_does_not_write_over_what_it_reads(folder, tmp_path):
    table, bundle, settings = (tmp_path / f"my.{kind}" for kind in ("csv", "bundle", "yaml"))
    table.write_bytes((folder / "my.csv").read_bytes())
    bundle.write_bytes((folder / "my.bundle").read_bytes())
    settings.write_bytes((folder / "settings.yaml").read_bytes())
    shutil.copytree(folder / "model", tmp_path / "model")
    (tmp_path / "named.yaml").write_text(json.dumps({"controls": str(table)}))
    config = (tmp_path / "model" / "config.json").read_bytes()
    model, data = ("--model", tmp_path / "model"), ("--data", folder / "my.csv")
    for arguments in (
        ("fit", *model, "--data", table, "--out", table),
        ("fit", *model, *data, "--controls", table, "--out", table),
        ("fit", *model, *data, "--settings", settings, "--out", settings),
        ("fit", *model, *data, "--settings", tmp_path / "named.yaml", "--out", table),
        ("fit", *model, *data, "--out", tmp_path / "model" / "config.json"),
        ("fit", "--model", "a/b", *data, "--settings", settings, "--out", settings),
        ("steer", *model, "--bundle", bundle, "--svg", tmp_path / "model" / "tokenizer.json", "?"),
        ("steer", *model, "--bundle", bundle, "--svg", bundle, "Why?"),
        ("export", bundle, bundle),
    ):
        with pytest.raises(FasbError, match="is read by this command; write to another file"):
            run(*arguments)
    assert table.read_bytes() == (folder / "my.csv").read_bytes()
    assert bundle.read_bytes() == (folder / "my.bundle").read_bytes()
    assert settings.read_bytes() == (folder / "settings.yaml").read_bytes()
    assert (tmp_path / "model" / "config.json").read_bytes() == config


def test_questions_are_counted_before_a_model_is_looked_for(folder, tmp_path):
    # the one with a false answer cannot be both tuned on and held out
    rows = [f"{one.text},{one.true[0]},{'no' * (one is QUESTIONS[0])}" for one in QUESTIONS]
    (tmp_path / "my.csv").write_text("\n".join(["question,true,false", *rows]) + "\n")
    given = ("--settings", folder / "settings.yaml", "--out", tmp_path / "x")
    with pytest.raises(DataError, match="no question .* has a false answer, and nobody judges"):
        run("fit", "--model", "no/such", "--data", tmp_path / "my.csv", *given)
    seen = Bundle.load(folder / "my.bundle").about["questions"]["seen"]
    rows = [
        f"{one.text},{';'.join(one.true)},{';'.join(one.false)}"
        for one in QUESTIONS
        if one.keys & set(seen)
    ]
    (tmp_path / "seen.csv").write_text("\n".join(["question,true,false", *rows]) + "\n")
    given = ("--bundle", folder / "my.bundle", "--data", tmp_path / "seen.csv")
    with pytest.raises(DataError, match="all questions were fitted or tuned on"):
        run("evaluate", "--model", "no/such", *given)


@pytest.mark.parametrize("own", [{"path": "other"}, {"model": "x"}, {"dtypo": "float32"}])
def test_settings_say_how_a_model_is_loaded_and_not_which(folder, tmp_path, own):
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"model": own}))
    with pytest.raises(ConfigError, match=f"model.{min(own)}: not a setting beside --model"):
        run("steer", *mine(folder), "--settings", path, "Why?")


def test_a_picture_of_answers_is_of_answers_that_are_shown(folder, tmp_path):
    with pytest.raises(ConfigError, match="leave out --json"):
        run("steer", *mine(folder), "--svg", tmp_path / "a.svg", "--json", "Why?")


@pytest.mark.parametrize(
    "made_by",
    [
        {"model": "m\ntouch PWNED #", "data": "d"},
        {"model": "mine"},
        {"model": 7, "settings": "zig", "data": None},
    ],
)
def test_what_a_bundle_says_of_itself_is_no_command(tmp_path, monkeypatch, made_by):
    monkeypatch.chdir(tmp_path)
    some_bundle(tiny_model()).save(tmp_path / "a.bundle", made_by)
    told = CliRunner().invoke(group, ["verify", "a.bundle"], catch_exceptions=False)
    assert (told.exit_code, told.stdout.count("\n")) == (0, 1)
    told = CliRunner().invoke(group, ["explain", "a.bundle"])
    assert told.exception is None or isinstance(told.exception, FasbError)
    first, *commands = told.stdout.splitlines()
    assert first.startswith("# a.bundle: ")
    assert not any(line.startswith("touch") for line in shlex.join(commands).splitlines())
    assert len(commands) == (2 if "\n" in str(made_by["model"]) else 0)


def test_a_fitted_bundle_knows_what_its_questions_were(folder):
    stdout, _ = run("explain", folder / "my.bundle")
    assert f"{folder / 'my.csv'} as it was" in stdout


def test_what_makes_a_bundle_again_tells_that_its_questions_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.csv").write_text("one")
    inputs = {"mine.csv": content_hash(content_of("mine.csv"))}
    made_by = {"model": "m", "data": "mine.csv", "inputs": inputs}
    some_bundle(tiny_model()).save(tmp_path / "a.bundle", made_by)
    told = []
    for text in ("one", "two"):
        (tmp_path / "mine.csv").write_text(text)
        told.append(CliRunner().invoke(group, ["explain", "a.bundle"]).stdout.splitlines())
    assert told[0][1] == "#   mine.csv as it was"
    assert told[1][1] == "#   mine.csv is gone, or another than it was fitted to"
    assert told[0][2:] == told[1][2:] == ["fasb fit --model m --data mine.csv --out a.bundle"]


@pytest.mark.parametrize("value", [pytest.param(10**400, id="10^400"), [], None, "x"])
@pytest.mark.parametrize("key", ["unsteered", "low", "name"])
def test_what_a_bundle_says_was_measured_may_be_anything(tmp_path, key, value):
    one = {"name": "mc2", "unsteered": 0.1, "steered": 0.2, "low": 0.0, "high": 0.3, key: value}
    bundle = replace(some_bundle(tiny_model()), about={"held_out": [one]})
    bundle.save(tmp_path / "a.bundle")
    told = CliRunner().invoke(group, ["show", str(tmp_path / "a.bundle")])
    assert told.exit_code == 0 or isinstance(told.exception, BundleError)


@pytest.mark.parametrize("key", ["versions", "hardware", "inputs"])
def test_provenance_of_another_form_is_one_line(tmp_path, key):
    write_json(tmp_path / "x.json", 3)
    document = json.loads((tmp_path / "x.json").read_text())
    document["provenance"][key] = ["x"]
    (tmp_path / "x.json").write_text(json.dumps(document))
    told = CliRunner().invoke(group, ["verify", str(tmp_path / "x.json")], catch_exceptions=False)
    assert told.exit_code == 2
    assert f"{key} in its provenance is no mapping" in told.stderr
