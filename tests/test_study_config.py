"""A study's configuration.

Layers of settings, one-line errors, and what each rule's settings depend on.
"""

import json
import os
import re
import subprocess
import sys
from functools import reduce
from pathlib import Path

import pytest
import yaml

from fasb import sourcecode
from fasb.errors import ConfigError, DataError
from fasb.extensions import known
from fasb.settings import PromptSettings
from fasb.study import cells, jobs
from fasb.study.config import (
    PRESETS,
    load,
    load_files,
    load_study,
    merge,
    read_mapping,
    read_preset,
)
from fasb.study.entries import ModelEntry
from fasb.study.names import TAKEN

EXTENSION = """
from fasb.settings import Section


class Settings(Section):
    k: int = 4


PROMPT = {"prefix": "Answer.", "stop": [";"]}


def load(settings): ...
def reads(settings): return ()
def fit(training, settings): ...
def judge(questions, answers, settings): ...
"""
ROOT = Path(__file__).parents[1]
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@pytest.fixture
def mapping(tmp_path, monkeypatch):
    """A small study of a model from the hub.

    Its dataset, method and judge are one module of somebody's own.
    """
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "extension.py").write_text(EXTENSION)
    monkeypatch.syspath_prepend(tmp_path)
    yield {
        "models": {"llama": {"path": "some/llama", "device": "cuda"}},
        "datasets": {"quiz": {"load": "own.extension", "judge": {"use": "own.extension"}}},
        "methods": {
            "steered": {"use": "own.extension", "grid": {"alpha": [1, 2]}},
            "same": {"use": "own.extension", "like": "steered"},
        },
        "run": {
            "cells": [{"model": "llama", "dataset": "quiz"}],
            "seeds": [0, 3],
            "methods": ["steered", "same"],
        },
    }
    for name in ("own", "own.extension"):
        sys.modules.pop(name, None)


def changed(mapping, path, value):
    """The mapping with the value at the dotted path set."""
    *above, last = path.split(".")
    addition = {last: value}
    for key in reversed(above):
        addition = {key: addition}
    return merge(mapping, addition)


def test_a_later_layer_of_settings_wins(mapping):
    study = load(mapping)
    assert study.sections("quiz").decoding.edit == "persistent"  # field default
    assert load({**mapping, "preset": "reference"}).sections("quiz").decoding.edit == "transient"
    both = {**mapping, "preset": "reference", "decoding": {"edit": "persistent"}}
    assert load(both).sections("quiz").decoding.edit == "persistent"
    own = changed(both, "datasets.quiz.decoding", {"edit": "transient"})
    assert load(own).sections("quiz").decoding.edit == "transient"


def test_a_key_that_is_not_given_leaves_lower_layers_alone(mapping):
    study = load({**mapping, "preset": "reference", "trackers": {"judged": "newest"}})
    assert study.sections("quiz").trackers.prototype == "logistic"


def test_a_datasets_module_gives_its_prompt_and_the_config_may_override_it(mapping):
    assert load({**mapping, "prompt": {"stop": ["!"]}}).sections("quiz").prompt.stop == (";",)
    study = load(changed(mapping, "datasets.quiz.prompt.stop", ["?"]))
    assert (study.sections("quiz").prompt.prefix, study.sections("quiz").prompt.stop) == (
        "Answer.",
        ("?",),
    )


def test_a_study_says_on_or_off_and_a_chat_uses_no_text_of_a_plain_prompt(mapping):
    with pytest.raises(ConfigError, match=r"quiz.prompt.chat: auto; a study says on or off"):
        load({**mapping, "prompt": {"chat": "auto"}}).sections("quiz")
    long = "Answer in one sentence. " * 100
    for path in ("prompt", "datasets.quiz.prompt"):
        given = changed(mapping, path, {"chat": "on", "prefix": long})
        with pytest.raises(ConfigError, match="prefix is not used where chat is on") as caught:
            load(given)
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize("preset", ["default", "paper"])
@pytest.mark.parametrize("own", [{}, {"prefix": ""}])
def test_a_chat_leaves_out_the_plain_text_that_preset_and_dataset_bring(mapping, preset, own):
    given = {**mapping, "preset": preset}
    study = load(changed(given, "datasets.quiz.prompt", {"chat": "on", **own}))
    assert study.sections("quiz").prompt == PromptSettings(chat="on")
    everywhere = load({**given, "prompt": {"chat": "on"}})
    assert everywhere.sections("quiz").prompt == PromptSettings(chat="on")


def test_a_datasets_module_may_make_its_prompt_of_its_settings(mapping, tmp_path):
    more = "\n\ndef prompt(settings):\n    return {'prefix': f'{settings.k}:'}\n"
    (tmp_path / "own" / "extension.py").write_text(EXTENSION + more)
    study = load(changed(mapping, "datasets.quiz.settings", {"k": 7}))
    assert study.sections("quiz").prompt.prefix == "7:"


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_preset_is_valid_and_says_only_what_it_changes(path):
    given = read_preset(path.stem)
    assert given == {section: values for section, values in given.items() if values}
    assert (path.stem == "default") == (not given)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("modls", {}, r"modls: unknown key; did you mean 'models'\?"),
        ("decoding.tokns", 5, r"decoding.tokns: unknown key; did you mean 'tokens'\?"),
        (
            "datasets.quiz.decoding.tokns",
            5,
            r"datasets.quiz.decoding.tokns: unknown key; did you mean 'tokens'\?",
        ),
        (
            "decoding.tokens",
            0,
            r"decoding.tokens: input should be greater than or equal to 1, got 0",
        ),
        ("preset", "papr", r"preset: 'papr' does not exist; did you mean 'paper'\?"),
        ("models.llama.dtyp", "x", r"models.llama.dtyp: unknown key; did you mean 'dtype'\?"),
        ("models.llama.world", {}, r"models.llama: needs either path or world; give one of them"),
        ("models.a/b", {"path": "x"}, r"models.a/b: not a file name; use letters"),
        pytest.param(f"models.{65 * 'm'}", {"path": "x"}, "models.m*: not a file name", id="long"),
        ("models.wandb", {"path": "x"}, r"models.wandb: results/wandb is for something else"),
        ("models.Models", {"path": "x"}, r"models.Models: results/Models is for something"),
        ("wandb.project", "a/b", r"wandb.project: .*, got 'a/b'"),
        ("wandb.project", "", r"wandb.project: .*, got ''"),
        ("run.name", "a\x1b[2J", r"run.name: .*, got 'a.x1b.2J'"),
        ("methods.iti.label", "a\x1b[2J", r"methods.iti.label: .*, got 'a.x1b.2J'"),
        ("methods.iti.crossed", ["a\x1b[2J", "b"], r"methods.iti.label: .*methods.iti.crossed.0: "),
        (
            "run.cells",
            [
                {"model": "llama", "dataset": "quiz", "train_share": share}
                for share in (0.1234567, 0.12345674)
            ],
            r"run.cells.1: its folder is that of cell 0; change train_share",
        ),
        (
            "datasets.quiz.load",
            "tabel",
            r"datasets.quiz.load: no module 'tabel'; did you mean 'table'\?",
        ),
        (
            "datasets.quiz.settings",
            {"kk": 1},
            r"datasets.quiz.settings.kk: unknown key; did you mean 'k'",
        ),
        (
            "datasets.quiz.judge.use",
            "nobody.x",
            r"datasets.quiz.judge.use: no module 'nobody' for 'nobody.x'; put the folder ",
        ),
        (
            "methods.steered.settings",
            {"alpa": 1},
            r"methods.steered.settings.alpa: .* did you mean 'alpha'\?",
        ),
        (
            "methods.steered.grid",
            {"alhpa": [1]},
            r"methods.steered.grid.alhpa: unknown key; did you mean 'alpha'\?",
        ),
        ("methods.steered.grid.alpha", ["x"], r"methods.steered.grid.alpha: .*number.*, got 'x'"),
        (
            "methods.steered.grid.alpha",
            [],
            r"methods.steered.grid.alpha: empty; give at least one value",
        ),
        (
            "methods.safe",
            {
                "use": "head_vectors",
                "gate": "probe",
                "settings": {"safe": 0.5},
                "grid": {"beta": [0.6, 0.4]},
            },
            r"methods.safe.settings.safe: 0.5 is not between 0 and 0.4",
        ),
        (
            "methods.same.like",
            "stered",
            r"methods.same.like: 'stered' is not defined; did you mean 'steered'\?",
        ),
        ("methods.same.grid", {"k": [1]}, r"methods.same.like: needs no grid"),
        (
            "methods.same.settings",
            {"alpha": 3},
            r"methods.same.settings.alpha: 3, but the grid of ",
        ),
        (
            "methods.steered",
            {"use": "own.extension", "settings": {"k": 3}, "grid": {"alpha": [1, 2]}},
            r"methods.same.settings.k: unset, but steered has 3, which `like` does not take over",
        ),
        (
            "run.methods",
            ["steerd"],
            r"run.methods: 'steerd' is not defined; did you mean 'steered'\?",
        ),
        ("run.seeds", [1, 1], r"run.seeds: one entry appears twice; remove it"),
        (
            "run.cells",
            [{"model": "lama", "dataset": "quiz"}],
            r"run.cells.0.model: 'lama' is not defined; did you",
        ),
        ("run.cells", [], r"run.cells: .*at least 1 item.*"),
    ],
)
def test_a_mistake_is_one_line_that_names_file_key_and_remedy(mapping, path, value, message):
    with pytest.raises(ConfigError, match=rf"^my.yaml: {message}") as caught:
        load(changed(mapping, path, value), "my.yaml")
    assert "\n" not in str(caught.value)


def test_no_model_may_be_called_like_what_else_is_in_the_results():
    written = [path for stage in jobs.STAGES.values() for path in stage.written().values()]
    beside = {path.split("/")[1] for path in written} - {"{model}"}
    # the other two are of no stage: times of all jobs, and the study itself
    assert set(TAKEN) == beside | {"timing", "study.json"}


def test_the_file_that_has_the_key_is_named_among_several(mapping, tmp_path):
    below, above = tmp_path / "below.yaml", tmp_path / "above.yaml"
    below.write_text(yaml.safe_dump({**mapping, "decoding": {"tokns": 1}}))
    above.write_text(yaml.safe_dump({"scoring": {"batsh": 1}}))
    with pytest.raises(ConfigError, match=r"above.yaml: scoring.batsh: unknown key"):
        load(merge(mapping, read_mapping(above)), [below, above])
    with pytest.raises(ConfigError, match=r"below.yaml: decoding.tokns: unknown key"):
        load(read_mapping(below), [below, above])


def test_names_with_dots_do_not_hide_the_file_that_has_the_key(mapping, tmp_path):
    below, above = tmp_path / "below.yaml", tmp_path / "above.yaml"
    below.write_text(yaml.safe_dump({"models": {"qwen2.5-7b": {"pth": "x"}}}))
    above.write_text(yaml.safe_dump({"models": {"own": {"path": "x"}}}))
    merged = merge(merge(mapping, read_mapping(below)), read_mapping(above))
    with pytest.raises(ConfigError, match=r"below.yaml: models.qwen2.5-7b.pth: unknown key"):
        load(merged, [below, above])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file"),
        ("a: [", "not YAML"),
        ("- a", "not a mapping; start from config/config.yaml"),
    ],
)
def test_a_file_that_is_no_config_is_named(tmp_path, text, message):
    if text is not None:
        (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"own.yaml: {message}"):
        load_files([tmp_path / "own.yaml"])


def test_definitions_merge_and_selections_are_replaced(mapping):
    merged = merge(mapping, {"models": {"other": {"path": "b"}}, "run": {"seeds": [7]}})
    assert set(load(merged).models) == {"llama", "other"}
    assert load(merged).run.seeds == (7,)


def stages_that_change(mapping, path, value):
    mapping = changed(
        mapping, "datasets.quiz.side_effects", {"load": "plain_text", "choices": "quiz"}
    )
    before, after = (keys(load(one)) for one in (mapping, changed(mapping, path, value)))
    return {place[0] for place, key in before.items() if after.get(place) != key}


def keys(study):
    """The key of every job of a study."""
    found = {}
    for stage in jobs.STAGES.values():
        for target, names in stage.scope.targets(study).items():
            found[stage.name, target] = stage.key(study, names)
    return found


@pytest.mark.parametrize(
    ("path", "value", "stages"),
    [
        ("probes.C", 0.5, {"trackers", "vectors"}),
        ("vectors.scale", "raw", {"vectors"}),
        ("split.folds", 3, {"splits"}),
        ("decoding.edit", "transient", {"sweep", "tune"}),
        ("decoding.tokens", 9, {"trace", "sweep", "tune"}),
        ("prompt.probe", "{question} {answer}", {"activations", "sweep", "tune", "side_effects"}),
        ("methods.steered.grid.alpha", [1, 2, 3], {"sweep", "tune"}),
        ("datasets.quiz.judge.settings.k", 5, {"judge", "judge_sweep", "check_judges"}),
        ("wandb.project", "mine", {"wandb"}),
        ("models.llama.job.mem_mb", 9, set()),
        (
            "models.llama.dtype",
            "float16",
            {"activations", "trace", "sweep", "generate", "score", "side_effects"},
        ),
        ("datasets.quiz.side_effects.tokens", 9, {"side_effects"}),
    ],
)
def test_a_changed_key_reruns_exactly_the_stages_that_use_it(mapping, path, value, stages):
    assert stages_that_change(mapping, path, value) == stages


def settings_of(study, stage, target):
    """What a job depends on, as it is written beside its result."""
    return jobs.job(study, stage, target).paths.provenance["settings"]


def test_side_effects_need_a_dataset_that_exists(mapping):
    with pytest.raises(
        ConfigError,
        match=r"datasets\.quiz\.side_effects\.choices: 'quizz' is not defined; did you mean 'q",
    ):
        load(
            changed(
                mapping, "datasets.quiz.side_effects", {"load": "plain_text", "choices": "quizz"}
            )
        )
    with pytest.raises(
        ConfigError, match=r"datasets\.quiz\.side_effects\.settings\.pth: unknown key"
    ):
        load(
            changed(
                mapping,
                "datasets.quiz.side_effects",
                {"load": "plain_text", "settings": {"pth": "x"}},
            )
        )


def test_an_edited_method_changes_the_keys_of_the_stages_that_use_it(mapping, tmp_path):
    before = keys(load(mapping))
    (tmp_path / "own" / "extension.py").write_text(EXTENSION + "EDITED = True\n")
    # as another process would: this one has read the file
    sourcecode._read.cache_clear()
    sourcecode.code_of.cache_clear()
    after = keys(load(mapping))
    # the same file is the study's dataset and judge as well
    edited = {stage for (stage, target), key in before.items() if after[stage, target] != key}
    assert edited == {
        "questions",
        "check_judges",
        "vectors",
        "sweep",
        "judge_sweep",
        "tune",
        "judge",
    }


def test_what_a_method_is_called_or_drawn_with_changes_outputs_alone(mapping):
    for key, value in (("label", "Mine"), ("role", "control"), ("colour", "#123456")):
        changed_by = stages_that_change(mapping, f"methods.same.{key}", value)
        assert changed_by == {"table", "figure", "report", "wandb"}


@pytest.mark.parametrize(
    ("device", "asked", "gpu"), [("cuda", None, 1), ("cpu", None, 0), ("cpu", 1, 1), ("auto", 4, 4)]
)
def test_a_job_asks_for_a_gpu_where_its_model_is_on_one_or_the_config_says_so(
    mapping, device, asked, gpu
):
    study = load(
        changed(changed(mapping, "models.llama.device", device), "models.llama.job", {"gpu": asked})
    )
    assert study.models["llama"].gpu == gpu


def test_reading_a_config_module_needs_neither_torch_nor_pandas():
    heavy = "{'torch', 'pandas', 'transformers'}"
    program = f"import sys, fasb.study.config; print(sorted({heavy} & set(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["config.yaml", "evidence.yaml", "methods.yaml", "tasks.yaml"])
def test_shipped_configs_are_valid_without_torch(name):
    program = (
        "import sys; from pathlib import Path; from fasb.study.config import load_study; from "
        "fasb.study.jobs import count_jobs\n"
        f"study = load_study([Path('config/{name}')]); print(count_jobs(study).total())\n"
        "assert 'torch' not in sys.modules"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert run.returncode == 0, run.stderr
    assert name != "config.yaml" or int(run.stdout) <= 80


@pytest.mark.realdata
def test_the_papers_config_has_its_own_model_prompt_and_judge():
    if "FASB_DATA" not in os.environ:
        pytest.skip("FASB_DATA is not set; it names a folder with TruthfulQA's files")
    here = {"datasets": {"truthfulqa": {"settings": {"path": os.environ["FASB_DATA"]}}}}
    paths = [ROOT / "config" / name for name in ("models.yaml", "config.yaml", "paper.yaml")]
    study = load(reduce(merge, [*map(read_mapping, paths), here]), paths)
    assert str(cells.cells(study)[0].folder) == "results/llama2-7b-chat/truthfulqa/seed42"
    assert cells.tables(study) == [
        "main",
        "differences",
        "ablation",
        "models",
        "transfer",
        "side_effects",
        "tuning",
    ]
    assert "data_efficiency" in cells.figures(study)
    assert len({cell.model for cell in cells.whole(study)}) == 7
    prompt = study.sections("truthfulqa").prompt
    assert prompt.prefix.startswith("Interpret each question literally")
    assert (prompt.open, prompt.stop) == ("", ())
    assert set(grid_sizes(study).values()) == {1, 16}
    assert settings_of(study, "check_judges", "truthfulqa")["judges"][0]["use"] == "causal_lm"
    assert jobs.count_jobs(study)["pretrain"] == 0


def grid_sizes(study):
    sizes = {}
    for name in study.run.methods:
        sizes[name] = 1
        for values in study.methods[name].grid.values():
            sizes[name] *= len(values)
    return sizes


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("config.yaml", 36),
        ("crossing.yaml", 18),
        ("evidence.yaml", 36),
        ("methods.yaml", 16),
        ("methods.yaml depths.yaml", 18),
        ("tasks.yaml", 24),
    ],
)
def test_every_tuned_method_of_a_shipped_config_has_an_equally_fine_grid(name, most, monkeypatch):
    monkeypatch.chdir(ROOT)
    study = load_study([Path("config") / file for file in name.split()])
    sizes = {n: size for n, size in grid_sizes(study).items() if size > 1}
    # what only chooses among draws has fewer knobs
    sizes = {n: size for n, size in sizes.items() if study.methods[n].use is not None}
    assert set(sizes.values()) == {max(sizes.values())}
    assert max(sizes.values()) <= most
    tuned = set()
    for name, method in study.chosen_methods.items():
        if method.use is not None and method.like is None:
            tuned.add(name)
    assert set(sizes) == tuned


def test_every_method_is_compared_in_a_config_of_its_own(monkeypatch):
    monkeypatch.chdir(ROOT)
    study = load_study([Path("config/methods.yaml")])
    # some came later, and stand in the file that is laid over it
    further = load_study([Path("config/methods.yaml"), Path("config/depths.yaml")])
    defined = {entry.use for entry in further.methods.values() if entry.use}
    assert defined >= set(known("methods"))
    compared = [*study.chosen_methods.values(), *further.chosen_methods.values()]
    left_out = defined - {entry.use for entry in compared}
    assert left_out <= {"fgaa"}  # it needs an autoencoder of the model
    assert cells.fits_with_model(study, study.run.cells[0].dataset)
    plain = load_study([Path("config/config.yaml")])
    assert not cells.fits_with_model(plain, plain.run.cells[0].dataset)


def test_every_study_sees_the_library_of_models_and_may_change_one(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    own = tmp_path / "own.yaml"
    own.write_text(
        "models: {llama2-7b-chat: {revision: abc}}\nrun: "
        "{cells: [{model: llama2-7b-chat, dataset: copa}]}"
    )
    study = load_study([Path("config/tasks.yaml"), own])
    chosen = study.models["llama2-7b-chat"]
    assert (chosen.path, chosen.revision, chosen.gpu) == ("meta-llama/Llama-2-7b-chat-hf", "abc", 1)
    assert [cell.model for cell in cells.cells(study)] == ["llama2-7b-chat"] * 2


def test_the_library_names_no_revision_and_gives_every_model_its_size_and_room():
    for name, entry in read_mapping(ROOT / "config" / "models.yaml")["models"].items():
        model = ModelEntry(**entry)
        assert model.revision is None
        assert model.size is not None, name
        assert model.job.mem_mb > 1000 * model.size.parameters * BYTES[model.dtype], name


def test_a_size_changes_no_jobs_settings(mapping):
    size = {"parameters": 1.5, "layers": 4, "heads": 4, "kv_heads": 2, "head_dim": 8}
    assert stages_that_change(mapping, "models.llama.size", size) == set()


def test_a_study_is_planned_from_the_repositorys_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ConfigError, match=r"config/models\.yaml: not in .*; change to the root of the repository"
    ):
        load_study()


def test_the_committed_schema_is_the_one_that_fasb_schema_prints():
    from click.testing import CliRunner

    from fasb.cli.study import schema_command

    assert (ROOT / "config" / "schema.json").read_text() == CliRunner().invoke(
        schema_command
    ).output


def test_a_second_judge_is_another_and_has_settings_of_its_own(mapping):
    two = load(changed(mapping, "datasets.quiz.second_judge", {"use": "light"}))
    targets = (f"llama/quiz/seed0/{name}" for name in ("judged", "judged_second"))
    both = [settings_of(two, "judge", target) for target in targets]
    assert [one["judge"]["use"] for one in both] == ["own.extension", "light"]
    with pytest.raises(
        ConfigError, match=r"datasets.quiz.second_judge: needs another beside it; give `judge`, or"
    ):
        load(changed(mapping, "datasets.quiz.second_judge", {"use": "own.extension"}))


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (
            {"from": {"model": "llama", "dataset": "nowhere"}},
            "no cell of this run fits it; add {model: llama, dataset: nowhere}",
        ),
        ({"from": {"model": "llama", "dataset": "tqa"}}, "is the cell itself; name another"),
        (
            {"from": {"model": "a", "dataset": "b"}, "train_share": 0.5},
            "nothing is fitted in a cell with `from`; remove",
        ),
    ],
)
def test_a_transfer_needs_a_cell_that_fits(mapping, entry, told):
    (first, *_) = mapping["run"]["cells"]
    names = {"model": first["model"], "dataset": first["dataset"]}
    entry = json.loads(
        json.dumps(entry)
        .replace('"llama"', json.dumps(names["model"]))
        .replace('"tqa"', json.dumps(names["dataset"]))
    )
    with pytest.raises(ConfigError, match=re.escape(told.replace("llama", names["model"]))):
        load(changed(mapping, "run.cells", [first, names | entry]))


SLURM = {"partition": "a100", "account": "lab", "qos": "long", "constraint": "a100|h100"}


def test_what_a_model_asks_of_slurm_has_snakemakes_names():
    job = ModelEntry(path="x", job={**SLURM, "slurm_extra": "--nodelist=n1,n2"}).job
    assert job.slurm == {
        "slurm_partition": "a100",
        "slurm_account": "lab",
        "qos": "long",
        "constraint": "a100|h100",
        "slurm_extra": "--nodelist=n1,n2",
    }
    assert ModelEntry(path="x").job.slurm == {}


@pytest.mark.parametrize("key", [*SLURM, "slurm_extra"])
@pytest.mark.parametrize("value", ["a; rm -rf x", "$(id)", "`id`", "a\nb", ""], ids=repr)
def test_no_value_for_slurm_is_anything_to_a_shell(mapping, key, value):
    mapping["models"]["llama"]["job"] = {key: value}
    with pytest.raises(ConfigError, match=rf"models\.llama\.job\.{key}: ") as caught:
        load(mapping)
    assert "\n" not in str(caught.value)


def test_what_only_some_models_ask_of_slurm_is_refused(mapping):
    mapping["models"]["other"] = {"path": "some/other", "job": {"partition": "a100"}}
    load(mapping)  # nothing runs it
    mapping["run"]["cells"].append({"model": "other", "dataset": "quiz"})
    with pytest.raises(ConfigError, match=r"models\.llama\.job\.partition: unset, but"):
        load(mapping)
    mapping["models"]["llama"]["job"] = {"partition": "cpu"}
    load(mapping)


def test_a_plan_needs_no_file_of_a_prompt(tmp_path, monkeypatch):
    """Where nothing can be downloaded, work is counted without instruction and primer."""
    monkeypatch.chdir(ROOT)
    files = [ROOT / "config" / name for name in ("models.yaml", "config.yaml", "paper.yaml")]
    own = tmp_path / "own.yaml"
    own.write_text(f"datasets: {{truthfulqa: {{settings: {{path: {tmp_path}}}}}}}\n")
    with pytest.raises(DataError, match=r"presets\.py"):
        load_files([*files, own])
    study = load_files([*files, own], prompts=False)
    assert list(study.do_without_missing_prompts()) == ["truthfulqa"]
    assert study.sections("truthfulqa").prompt.prefix == ""


def worlds_by_name(mapping, model, dataset, **entry):
    """The small study with its model and dataset called otherwise."""
    models = {model: entry or next(iter(mapping["models"].values()))}
    datasets = {dataset: next(iter(mapping["datasets"].values()))}
    run = {**mapping["run"], "cells": [{"model": model, "dataset": dataset}]}
    return {**mapping, "models": models, "datasets": datasets, "run": run}


def test_names_that_tables_would_average_over_are_those_of_worlds(mapping):
    with pytest.raises(ConfigError, match=r"models\.bert-s1: tables average over names"):
        load(worlds_by_name(mapping, "bert-s1", "own"))
    with pytest.raises(ConfigError, match=r"datasets\.own-s1: tables average over names"):
        load(worlds_by_name(mapping, "bert", "own-s1"))
    for model, dataset in (("bert-s", "own"), ("own-s1", "own-s1"), ("bert-1", "own")):
        load(worlds_by_name(mapping, model, dataset))
    load(worlds_by_name(mapping, "lies-s1", "own", world={"level": "easy", "seed": 1}))


@pytest.mark.parametrize(
    ("entry", "exact", "refused"),
    [
        ({"like": "steered", "mean_strength": True}, False, True),
        ({"settings": {"when": "oracle"}}, True, True),
        ({"grid": {"when": ["oracle", "always"]}}, True, True),
        # nothing is generated there, and of choices nobody asks a judge
        ({"settings": {"when": "oracle"}}, False, False),
    ],
)
def test_what_waits_for_verdicts_that_no_judge_gives_is_refused_before_anything_runs(
    mapping, entry, exact, refused
):
    entries = changed(mapping, "methods.waits", {"use": "own.extension", **entry})
    entries["run"] = {**entries["run"], "methods": ["steered", "waits"]}
    assert load(entries).run.methods == ("steered", "waits")
    entries["datasets"] = {"quiz": {"load": "own.extension", "exact": exact}}
    if not refused:
        assert load(entries).run.methods == ("steered", "waits")
        return
    with pytest.raises(
        ConfigError, match=r"run\.methods: waits needs .* set datasets\.quiz\.judge"
    ):
        load(entries)


def test_a_chat_under_the_released_preset_is_refused_before_anything_runs(mapping):
    chat = changed({**mapping, "preset": "reference"}, "datasets.quiz.prompt", {"chat": "on"})
    with pytest.raises(ConfigError, match=r"datasets\.quiz\.scoring: released places are counted"):
        load(chat).sections("quiz")
    offsets = changed(chat, "datasets.quiz.scoring", {"start": "answer", "span": "offsets"})
    assert load(offsets).sections("quiz").prompt.chat == "on"
