"""What a study costs.

Counted work is what the stages do, times say what they rest on, missing things are named.
"""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_model_load import cached
from tiny import tiny_checkpoint, tiny_model, tiny_questions

from fasb.cli import group
from fasb.data import splits
from fasb.data.protocol import Question, Size
from fasb.errors import ArtifactError
from fasb.extensions import find
from fasb.fitting.bank import collect, texts_of
from fasb.fitting.reads import Read
from fasb.settings import ActivationSettings, PromptSettings, SplitSettings
from fasb.study import plan, rates
from fasb.study.check import needs
from fasb.study.config import load, load_study
from fasb.study.jobs import count_jobs
from fasb.study.templates import MESSAGE, Around

ROOT = Path(__file__).parents[1]
GRID = {"k": [2, 4], "alpha": [1, 2, 3], "beta": [0.4, 0.6], "s": [2]}
SHAPE = {"parameters": 0.5, "layers": 3, "heads": 4, "kv_heads": 2, "head_dim": 8}
ROLES = [(role, f"{role}{i}") for role in ("fit", "test") for i in range(7)]
CHOICES = [
    Question(name, f"A or B, {name}?", ("A",), ("B",), "A", name, role) for role, name in ROLES
]
PLAIN = [Question(f"{i}", f"{i}?", ("A",), (), "A", f"{i}") for i in range(100)]


def study_of_entry(entry):
    """A study of one dataset."""
    run = {"cells": [{"model": "m", "dataset": "d"}], "methods": ["iti"]}
    parts = {"models": {"m": {"path": "some/model"}}, "methods": {"iti": {"use": "head_vectors"}}}
    return load({**parts, "datasets": {"d": entry}, "run": run})


def study_of(path, **changes):
    """A study of one table of questions."""
    rows = [
        {"question": q.text, "true": list(q.true), "false": list(q.false)}
        for q in tiny_questions(20)
    ]
    (path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    judge = {"use": "similarity"}
    mapping = {
        "models": {"m": {"path": "some/model", "size": SHAPE}},
        "datasets": {
            "d": {"load": "table", "settings": {"path": str(path / "q.jsonl")}, "judge": judge}
        },
        "methods": {
            "unsteered": {},
            "fasb": {"use": "head_vectors", "gate": "probe", "grid": GRID},
            "question": {
                "use": "head_vectors",
                "gate": "probe",
                "settings": {"when": "prompt"},
                "grid": {"alpha": [1, 2], "beta": [0.4, 0.6]},
            },
            "same": {"use": "head_vectors", "gate": "probe", "like": "fasb"},
        },
        "run": {
            "cells": [{"model": "m", "dataset": "d"}],
            "seeds": [0, 1],
            "methods": ["unsteered", "fasb", "question", "same"],
        },
    }
    return load({**mapping, **changes})


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["truthfulqa", "natural_questions", "trivia_qa"])
def test_a_stated_size_is_that_of_the_published_files(name):
    if "FASB_DATA" not in os.environ:
        pytest.skip("FASB_DATA is not set; it names a folder with the published files")
    module = find("data", name)
    assert Size.of(module.load(module.Settings(path=os.environ["FASB_DATA"]))) == module.SIZE


@pytest.mark.parametrize("n", [1, 3, 50])
@pytest.mark.parametrize("questions", [tiny_questions(9), CHOICES], ids=["folds", "roles"])
def test_a_size_counts_banks_rows_and_is_cut_as_the_questions_are(questions, n):
    size = Size.of(questions)
    assert size.answers == len(texts_of(questions, Read(), PromptSettings()))
    cut, counted = size.first(n), Size.of(splits.first(questions, n))
    assert (cut.fit, cut.test) == (counted.fit, counted.test)
    assert abs(cut.questions - counted.questions) <= 1


@pytest.mark.parametrize("folds", [2, 5])
@pytest.mark.parametrize("questions", [PLAIN, CHOICES], ids=["folds", "roles"])
def test_validation_and_test_questions_are_those_of_the_splits(tmp_path, questions, folds):
    settings = SplitSettings(folds=folds, validation=0.3)
    found = splits.split(questions, settings, 0)
    (pair,) = plan.pairs(study_of(tmp_path, split=settings.model_dump())).values()
    pair = plan.Pair(Size.of(questions), pair.sections, None, "float32", True, True, (), ())
    assert pair.tuned_on == sum(len(split.validation) for split in found)
    assert pair.tested_on == sum(len(split.test) for split in found)


def test_every_job_is_in_the_plan_and_a_banks_bytes_are_exact(tmp_path):
    study = study_of(tmp_path)
    works = plan.works(study)
    counted = {
        rule: sum(w.jobs for names, w in works.items() if names[0] == rule)
        for rule in count_jobs(study)
    }
    assert counted == count_jobs(study)
    model, questions = (
        tiny_model(dtype="float32"),
        find("data", "table").load(find("data", "table").Settings(path=str(tmp_path / "q.jsonl"))),
    )
    texts = texts_of(questions, Read(), PromptSettings())
    bank = collect(model, texts, ActivationSettings(), tmp_path / "bank.h5", {})
    bytes_of_bank = sum(bank.layer(layer).nbytes for layer in range(bank.n_layers))
    assert works["activations", "m", "d"].disk == 2 * bytes_of_bank


def test_settings_that_cannot_differ_are_written_once_and_scale_with_seeds(tmp_path):
    study = study_of(tmp_path)
    works, (pair,) = plan.works(study), plan.pairs(study).values()
    assert works["sweep", "m", "d"].written == 2 * pair.tuned_on * (2 * 3 * 2 + 2) * 50
    assert works["judge_sweep", "m", "d"].judged == 2 * pair.tuned_on * (2 * 3 * 2 + 2 + 1)
    assert works["generate", "m", "d"].written == 2 * 20 * 4 * 50
    entry = {"load": "table", "settings": {"path": str(tmp_path / "q.jsonl")}}
    without, exact = (
        study_of(tmp_path, datasets={"d": one}) for one in (entry, entry | {"exact": True})
    )
    assert plan.works(exact)["generate", "m", "d"].written == works["generate", "m", "d"].written
    assert plan.works(exact)["judge", "m", "d"] == plan.Work(jobs=2)
    assert ("trace", "m", "d") not in plan.works(without)
    assert (
        plan.works(without)["sweep", "m", "d"].written
        == plan.works(without)["judge", "m", "d"].judged
        == 0
    )


def test_a_second_judge_judges_the_test_answers_again(tmp_path):
    entry = {
        "load": "table",
        "settings": {"path": str(tmp_path / "q.jsonl")},
        "judge": {"use": "similarity"},
    }
    second = {"second_judge": {"use": "similarity", "settings": {"metric": "chrf"}}}
    once = plan.works(study_of(tmp_path, datasets={"d": entry}))
    twice = plan.works(study_of(tmp_path, datasets={"d": entry | second}))
    assert twice["judge", "m", "d"] == once["judge", "m", "d"].times(2)
    assert twice["judge_sweep", "m", "d"] == once["judge_sweep", "m", "d"]


def test_what_is_taken_over_is_tested_alone_and_on_another_dataset_by_every_fold(tmp_path):
    entry = {
        "load": "table",
        "settings": {"path": str(tmp_path / "q.jsonl")},
        "judge": {"use": "similarity"},
    }
    here, there = {"model": "m", "dataset": "d"}, {"model": "m", "dataset": "other"}
    run = {
        "methods": ["fasb"],
        "seeds": [0, 1],
        "cells": [here, {**there, "from": here}, {**here, "train_share": 0.5}],
    }
    study = study_of(tmp_path, datasets={"d": entry, "other": entry}, run=run)
    works = plan.works(study)
    assert ("sweep", "m", "other") not in works
    assert ("activations", "m", "other") not in works
    assert works["sweep", "m", "d"].jobs == works["generate", "m", "d"].jobs == 4
    folds = study.sections("d").split.folds
    assert works["generate", "m", "other"].jobs == 2
    assert works["generate", "m", "other"].written == 2 * folds * 20 * 50
    # a second judge judges only where all training questions were at hand
    second = {"second_judge": {"use": "similarity", "settings": {"metric": "chrf"}}}
    both = study_of(tmp_path, datasets={"d": entry | second, "other": entry}, run=run)
    assert plan.works(both)["judge", "m", "d"].jobs == 2 * (2 + 1)
    assert sum(work.jobs for work in plan.works(both).values()) == count_jobs(both).total()
    counted = {
        rule: sum(w.jobs for names, w in works.items() if names[0] == rule)
        for rule in count_jobs(study)
    }
    assert counted == count_jobs(study)


@pytest.mark.realdata
def test_settings_that_change_the_rows_are_counted_on_the_set_if_it_is_at_hand():
    if "FASB_DATA" not in os.environ:
        pytest.skip("FASB_DATA is not set; it names a folder with the published files")
    sizes = []
    for path in (os.environ["FASB_DATA"], "/nowhere"):
        study = study_of_entry(
            {"load": "natural_questions", "settings": {"path": path, "rows": "released"}}
        )
        sizes.append(plan.size_of(study, "d").questions)
    assert sizes[0] > sizes[1] == find("data", "natural_questions").SIZE.questions


def test_memory_is_weights_and_the_cache_of_the_largest_batch(tmp_path):
    study = study_of(tmp_path, decoding={"tokens": 1000, "batch": 3})
    (pair,) = plan.pairs(study).values()
    weights, cache = plan.memory(pair)
    assert weights == 0.5e9 * 4
    assert cache == 3 * (pair.before + pair.question + 1000) * 2 * 3 * 2 * 8 * 4


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_model_in_a_folder_is_sized_by_its_config(tmp_path, name):
    models = {"m": {"path": str(tiny_checkpoint(tmp_path / "model", name))}}
    (pair,) = plan.pairs(study_of(tmp_path, models=models)).values()
    loaded = tiny_model(name, dtype="float32")
    n_bytes = sum(parameter.nbytes for parameter in loaded.model.parameters())
    config, layout = loaded.model.config, loaded.layout
    assert plan.memory(pair)[0] == pytest.approx(n_bytes)
    assert (pair.shape.layers, pair.shape.heads) == (layout.n_layers, layout.n_heads)
    assert pair.shape.head_dim == layout.head_dim
    assert pair.shape.kv_heads == getattr(config, "num_key_value_heads", layout.n_heads)


def test_a_folder_that_holds_no_model_has_no_size(tmp_path):
    models = {"m": {"path": str(tmp_path)}}
    (pair,) = plan.pairs(study_of(tmp_path, models=models)).values()
    assert pair.shape is None


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def chat_study(path, template, **prompt):
    """A study that asks through the template of a model's folder; None: of one not at hand."""
    models = {"m": {"path": "not/at-hand", "size": SHAPE}}
    if template is not None:
        (path / "model").mkdir(exist_ok=True)
        (path / "model" / "tokenizer_config.json").write_text(json.dumps(template))
        models["m"]["path"] = str(path / "model")
    return study_of(path, models=models, prompt={"chat": "on", **prompt})


@pytest.mark.parametrize(
    "template",
    [CHATML, [{"name": "tools", "template": ""}, {"name": "default", "template": CHATML}]],
)
def test_a_chat_counts_what_its_template_writes_around_a_question(tmp_path, template):
    (plain,) = plan.pairs(study_of(tmp_path)).values()
    study = chat_study(tmp_path, {"chat_template": template}, system="Be kind.")
    (pair,) = plan.pairs(study).values()
    # <|im_start|> system . . Be kind. <|im_end|> . <|im_start|> user .
    assert pair.before == 3 + -(-len("system\nBe kind.\nuser\n") // 4)
    # <|im_end|> . <|im_start|> assistant .
    assert pair.question == -(-pair.size.question // 4) + 2 + -(-len("\nassistant\n") // 4)
    assert pair.answer == -(-pair.size.answer // 4)
    read = {
        name: plan.works(one)["activations", "m", "d"].read
        for name, one in (("plain", study_of(tmp_path)), ("chat", study))
    }
    n_texts = 2 * pair.size.answers
    more = n_texts * (pair.before + pair.question + pair.answer - plain.question - plain.answer)
    more += pair.size.answers * (pair.question - plain.question)
    assert read["chat"] - read["plain"] == more


@pytest.mark.parametrize(
    "template",
    [
        *(None, {}, [], 5, {"chat_template": 5}, {"chat_template": {"a": 1}}),
        *({"chat_template": one} for one in ("{{ raise_exception('No.') }}", "{{ 1 / 0 }}", "{%")),
        *({"chat_template": one} for one in ("{{ range(10 ** 9) }}", [], ["a"])),
        {"chat_template": [{"name": "default"}, {"template": CHATML}]},
    ],
)
def test_a_template_that_is_not_at_hand_is_reckoned_by_messages(tmp_path, template):
    (pair,) = plan.pairs(chat_study(tmp_path, template, system="Be kind.")).values()
    assert pair.around == Around(2 + MESSAGE, 2 * MESSAGE, known=False)


HELD = rates.Held(7.0, "float16", "cuda", 64)
WORK = plan.Work(jobs=2, read=1000, written=6400)


def test_work_that_shards_share_is_planned_once(tmp_path):
    plain = plan.works(study_of(tmp_path))
    models = {"m": {"path": "some/model", "size": SHAPE, "job": {"shards": 3}}}
    study = study_of(tmp_path, models=models)
    works = plan.works(study)
    for rule in ("sweep", "generate", "score"):
        whole, part = plain[rule, "m", "d"], works[f"{rule}_part", "m", "d"]
        assert (part.jobs, part.read, part.written) == (3 * whole.jobs, whole.read, whole.written)
        assert works[rule, "m", "d"] == plan.Work(whole.jobs)
    for rule, n in count_jobs(study).items():
        assert sum(work.jobs for names, work in works.items() if names[0] == rule) == n


def test_a_job_that_ran_here_says_how_long_it_takes(tmp_path):
    for seed, seconds in ((0, 10), (1, 30)):
        file = tmp_path / "sweep" / "m" / "d" / f"seed{seed}.tsv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"s\th:m:s\n{seconds}.0\t0:00:10\n")
    assert rates.timed("sweep", "m", "d", tmp_path) == 20
    assert rates.timed("sweep", "m", "other", tmp_path) is None
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain" / "m.tsv").write_text("s\n5\n")
    assert rates.timed("pretrain", "m", "", tmp_path) == 5


@pytest.mark.parametrize("line", ["nan\t1", "inf\t1", "-5\t1", "a\t1", "", "1\t" + "0" * 200_000])
def test_a_time_that_is_none_counts_for_nothing(tmp_path, line):
    (tmp_path / "sweep.tsv").write_text("s\tmax_rss\n30\t1\n")
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "other.tsv").write_text(f"s\tmax_rss\n{line}\n")
    assert rates.timed("sweep", "", "", tmp_path) == 30


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", "5", "{}", '{"payload": []}', '{"payload": {"measured": []}}'),
        '{"payload": {"device": "cpu", "measured": {"live_over_limit": []}}}',
        '{"payload": {"measured": {"live_over_limit": {"tokens_per_s": 1, "parameters": 1}}}}',
        '{"payload": {"device": "cpu", "measured": {"live_over_limit": '
        '{"tokens_per_s": 1, "parameters": "a"}}}}',
    ],
)
def test_measured_rates_that_are_damaged_are_one_line(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"results.json[:,].*; "):
        rates.rates(tmp_path / "results.json")


def test_a_measured_rate_is_carried_over_by_size_and_without_one_there_is_a_bound(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    measured = {"live_over_limit": {"tokens_per_s": 100.0, "parameters": 3.5e9}}
    file = tmp_path / "results.json"
    file.write_text(json.dumps({"payload": {"device": "cuda", "measured": measured}}))
    known = rates.rates(file)
    assert known == {"cuda": rates.Rate(3.5, 100.0, 100.0)}
    assert rates.seconds(("sweep", "m", "d"), WORK, HELD, known) == (2 * 74.0, "rate")
    least, basis = rates.seconds(("sweep", "m", "d"), WORK, HELD, {})
    assert basis == "bound"
    assert least == pytest.approx(100 * 14e9 / 2.039e12 + 7400 * 14e9 / 312e12)
    assert rates.seconds(("splits", "", ""), plan.Work(1), None, known) == (0.0, "unknown")
    for missing in ({}, {"live_over_limit": {"tokens_per_s": 5.0}}):
        file.write_text(json.dumps({"payload": {"device": "cpu", "measured": missing}}))
        assert rates.rates(file) == {}


def test_a_plan_prints_work_disk_memory_and_what_its_times_rest_on(monkeypatch):
    monkeypatch.chdir(ROOT)
    run = CliRunner().invoke(
        group, ["plan", "--configfile", "config/tasks.yaml"], catch_exceptions=False
    )
    rows = {line.split()[0]: line.split() for line in run.output.splitlines() if line.strip()}
    assert rows["activations"][1:5] == ["12", "1.71", "M", "112.0"]
    assert rows["llama2-7b-chat"][1:6] == ["cuda", "6.74", "B", "13.5", "GB"]
    assert rows["all"][1] == str(count_jobs(load_study([Path("config/tasks.yaml")])).total())
    assert "≥ no measured rate for cuda, run `make bench` there: " in run.output
    assert max(map(len, run.output.splitlines())) <= 120


def test_a_studys_name_is_printed_as_it_is(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    (tmp_path / "own.yaml").write_text("run: {name: 'a [/b] [red]'}")
    arguments = ["plan", "--configfile", str(tmp_path / "own.yaml")]
    run = CliRunner().invoke(group, arguments, catch_exceptions=False)
    assert "a [/b] [red]: " in run.output


def test_a_check_divides_the_questions_as_the_study_will(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    file = tmp_path / "own.yaml"
    file.write_text("split: {folds: 500}")
    arguments = ["plan", "--check", "--configfile", str(file)]
    run = CliRunner().invoke(group, arguments, catch_exceptions=False)
    assert run.exit_code == 2
    assert "MISSING  dataset" in run.output
    assert "500 folds" in run.output


def test_a_check_asks_for_models_datasets_and_judges_without_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    cached(tiny_checkpoint(tmp_path / "tiny"), tmp_path / "hub", monkeypatch)
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", None)
    judge = {
        "use": "causal_lm",
        "settings": {"truth": {"path": str(tmp_path / "tiny")}, "info": {"path": "no/judge"}},
    }
    own = {
        "models": {"mine": {"path": "some/model"}, "other": {"path": "no/model"}},
        "datasets": {"truthfulqa": {"load": "fasb.world.questions", "judge": judge}},
        "run": {"cells": [{"model": name, "dataset": "truthfulqa"} for name in ("mine", "other")]},
    }
    file = tmp_path / "own.yaml"
    file.write_text(json.dumps(own))
    run = CliRunner().invoke(
        group, ["plan", "--check", "--configfile", str(file)], catch_exceptions=False
    )
    assert run.exit_code == 2
    mine, other, dataset, judged, *methods = run.output.splitlines()
    assert mine.split()[:4] == ["ok", "model", "mine", "some/model"]
    assert "at 111111111111: " in mine
    assert mine.endswith("in float32, weights at hand")
    assert other.startswith("MISSING  model    other")
    assert "run 'hf download no/model'" in other
    assert dataset.endswith(" 96 questions")
    assert judged.startswith("MISSING  judge")
    assert "no/judge: " in judged
    assert [line.split()[:3] for line in methods] == [
        ["ok", "method", "without-backtracking"],
        ["ok", "method", "without-backtracking-same"],
    ]


@pytest.mark.parametrize("trained", [True, False])
def test_a_check_refuses_more_heads_than_a_model_has(tmp_path, monkeypatch, trained):
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{i}?,a,b\n" for i in range(14))
    (tmp_path / "my.csv").write_text(f"question,true,false\n{rows}")
    size = {"layers": 2, "heads": 3, "hidden": 12}
    world = {"world": {"level": "easy", "seed": 1}, "pretrain": size}
    entry = world if trained else {"path": str(tiny_checkpoint(tmp_path / "m"))}
    steering = {"use": "head_vectors", "gate": "probe"}
    mine, same = {**steering, "grid": {"k": [2, 40]}}, {**steering, "like": "mine"}
    methods = {"unsteered": {}, "mine": mine, "same": same}
    study = load(
        {
            "models": {"m": entry},
            "datasets": {"d": {"load": "table", "settings": {"path": "my.csv"}}},
            "methods": methods,
            "run": {"cells": [{"model": "m", "dataset": "d"}], "methods": [*methods]},
        }
    )
    (kind, name, told, there), (_, _, _, asked) = needs(study)
    assert (kind, name, there, asked) == ("model", "m", False, True)
    heads = "6 heads (2 layers x 3)" if trained else "12 heads (3 layers x 4)"
    assert told.startswith(f"methods.mine: k 40, but this model has {heads}; set k between 1 and ")


@pytest.mark.parametrize(
    ("s", "tokens", "said"),
    [
        ([4, 12, 40], 40, "ok       method   {} 1 of 3 settings never fire"),
        ([4, 12, 40], 41, None),
        ([40, 60], 40, "MISSING  method   {} 2 of 2 settings never fire"),
    ],
)
def test_a_check_names_settings_that_can_never_fire(tmp_path, monkeypatch, s, tokens, said):
    monkeypatch.chdir(ROOT)
    method = {"use": "head_vectors", "gate": "probe", "settings": {"backtrack": False}}
    own = {
        "methods": {
            "kept": {**method, "grid": {"s": s}},
            "back": {**method, "settings": {}, "grid": {"s": s}},
        },
        "decoding": {"tokens": tokens},
        "run": {"methods": ["unsteered", "kept", "back"]},
    }
    file = tmp_path / "own.yaml"
    file.write_text(json.dumps(own))
    run = CliRunner().invoke(
        group, ["plan", "--check", "--configfile", str(file)], catch_exceptions=False
    )
    found = [line for line in run.output.splitlines() if " method " in line]
    if said is None:
        assert found == []
        return
    (line,) = found
    assert line.startswith(said.format(f"{'kept':24}"))
    assert run.exit_code == (2 if said.startswith("MISSING") else 0)
    assert f"s of 40 or more is too late in answers of {tokens} tokens" in line
    assert line.endswith(f"set s to {tokens - 1} or less")
