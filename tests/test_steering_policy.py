from dataclasses import replace

import numpy as np
import pytest

from fasb.errors import ConfigError
from fasb.steering.decide import decide, decide_choice, highest_judged
from fasb.steering.policy import Policy
from fasb.steering.trace import EOS, LIMIT, OPEN, Trace
from tests.unchecked import unchecked

N = 50
REFERENCE = Policy(alpha=60.0, beta=0.4, s=10, judged="previous")


def trace_of(length, low_at, p_true=0.0, ended=LIMIT):
    """One row of `length` tokens whose P1 is low at the given states and 1 elsewhere."""
    p = np.zeros((1, length + 1))
    p[0, list(low_at)] = 1 - p_true
    return Trace(np.zeros((1, length), dtype=np.int64), np.array([length]), np.array([ended]), p)


@pytest.mark.parametrize(
    ("low_at", "eos_at", "s", "p_true", "fired_at", "kept"),
    [
        pytest.param([3], 4, 10, 0.0, 4, 0, id="G-a a short answer restarts whole"),
        pytest.param([9], None, 10, 0.0, 10, 0, id="G-b first check, nothing stays"),
        pytest.param([10], None, 10, 0.0, 11, 1, id="G-c drops the last s tokens"),
        pytest.param(
            [8], None, 10, 0.0, None, None, id="G-d low before the first check is never seen"
        ),
        pytest.param([49], None, 10, 0.0, 50, 40, id="G-e the last token is checked"),
        pytest.param([0], None, 1, 0.0, 1, 0, id="G-f s of 1 judges the question"),
        pytest.param([5], 6, 10, 0.6, None, None, id="G-g equality never fires"),
        pytest.param([49], None, 60, 0.0, 50, 0, id="G-h s above N restarts whole"),
        pytest.param([12, 20], None, 10, 0.0, 13, 3, id="G-i only the first is seen"),
    ],
)
def test_released_program_keeps(low_at, eos_at, s, p_true, fired_at, kept):
    length = eos_at or N
    trace = trace_of(length, low_at, p_true, EOS if eos_at else LIMIT)
    decision = decide(trace, Policy(alpha=60.0, beta=1 - 0.6, s=s, judged="previous"))
    assert decision.fired.tolist() == [fired_at is not None]
    assert decision.fired_at.tolist() == [length if fired_at is None else fired_at]
    assert decision.kept.tolist() == [length if kept is None else kept]
    assert decision.strength.tolist() == [0.0 if kept is None else 60.0 * (1 - p_true)]


@pytest.mark.parametrize(
    ("low_at", "length", "fired_at", "kept"),
    [
        pytest.param([4], 4, 4, 0, id="the token that ended the row is judged"),
        pytest.param([10], 50, 10, 0, id="the newest token of the first check"),
        pytest.param([9], 50, None, None, id="one token earlier is never seen"),
        pytest.param([50], 50, 50, 40, id="the last allowed token is judged"),
        pytest.param([0], 50, None, None, id="the question alone is not judged"),
    ],
)
def test_newest_state_is_judged_by_default(low_at, length, fired_at, kept):
    decision = decide(trace_of(length, low_at), Policy(alpha=1.0, beta=0.4, s=10))
    assert decision.fired_at.tolist() == [length if fired_at is None else fired_at]
    assert decision.kept.tolist() == [length if kept is None else kept]


def choice_of(total, low_at, start=34):
    """A candidate answer of `total` tokens with L = 30; positions from L + 4 on may be edited."""
    p = np.full((1, max(total - start, 1)), np.nan)
    p[0, : max(total - start, 0)] = 0.0
    for t in low_at:
        p[0, t - start] = 1.0
    return Trace(
        np.zeros((1, 0), dtype=np.int64), np.array([total - 1 - start]), np.array([LIMIT]), p
    )


@pytest.mark.parametrize(
    ("total", "low_at", "edit_start"),
    [
        pytest.param(34, [], None, id="no position to edit"),
        pytest.param(35, [34], 34, id="the only position"),
        pytest.param(44, [43], 34, id="the last is always checked"),
        pytest.param(46, [44], 34, id="first regular check"),
        pytest.param(50, [43], None, id="not seen"),
        pytest.param(50, [45], 35, id="s positions back"),
        pytest.param(60, [52], 42, id="far in"),
    ],
)
def test_choice_is_edited_from(total, low_at, edit_start):
    for judged in ("newest", "previous"):
        policy = Policy(alpha=1.0, beta=0.4, s=10, judged=judged)
        decision = decide_choice(choice_of(total, low_at), policy)
        assert decision.fired.tolist() == [edit_start is not None]
        if edit_start is not None:
            assert (34 + decision.kept).tolist() == [edit_start]


@pytest.mark.parametrize("when", ["always", "prompt", "token", "never"])
def test_choice_without_editable_position_is_never_steered(when):
    decision = decide_choice(choice_of(34, []), Policy(alpha=1.0, beta=0.4, when=when))
    assert not decision.fired.any()


def test_strength_is_p_times_alpha_unless_adaptive_is_off():
    p = np.array([[0.0, 0.7]])
    trace = Trace(np.zeros((1, 1), dtype=np.int64), np.array([1]), np.array([EOS]), p)
    assert decide(trace, Policy(alpha=10.0, beta=0.5)).strength.tolist() == [0.7 * 10.0]
    assert decide(trace, Policy(alpha=10.0, beta=0.5, adaptive=False)).strength.tolist() == [10.0]


def test_without_backtracking_all_tokens_stay():
    policy = Policy(alpha=1.0, beta=0.4, s=3, backtrack=False)
    assert decide(trace_of(20, [7]), policy).kept.tolist() == [7]


def test_without_backtracking_a_row_that_fires_at_its_end_is_left_alone():
    policy = Policy(alpha=1.0, beta=0.4, s=3, backtrack=False)
    for length in (2, 20):
        decision = decide(trace_of(length, [length]), policy)
        assert (decision.fired.tolist(), decision.kept.tolist()) == ([False], [length])
    assert decide(trace_of(20, [20], ended=OPEN), policy).fired.tolist() == [True]


def test_the_prompt_is_judged_by_state_0_alone():
    policy = Policy(alpha=2.0, beta=0.4, when="prompt")
    decision = decide(trace_of(20, [0], p_true=0.25), policy)
    assert (decision.kept.tolist(), decision.strength.tolist(), decision.fired_at.tolist()) == (
        [0],
        [1.5],
        [0],
    )
    assert not decide(trace_of(20, range(1, 21)), policy).fired.any()


def test_policies_that_read_no_p_need_none():
    trace = Trace.of([[1, 2], [3]], [LIMIT, EOS])
    always = decide(trace, Policy(alpha=2.0, when="always"))
    assert (always.fired.tolist(), always.kept.tolist(), always.strength.tolist()) == (
        [True] * 2,
        [0, 0],
        [2.0, 2.0],
    )
    never = decide(trace, Policy(alpha=2.0, when="never"))
    assert (never.fired.tolist(), never.kept.tolist(), never.strength.tolist()) == (
        [False] * 2,
        [2, 1],
        [0.0, 0.0],
    )
    with pytest.raises(ValueError, match="observe the trace first"):
        decide(trace, Policy())


def test_after_steers_always_from_a_token_on_without_p():
    trace = Trace.of([[1, 2, 3], [1, 2], [1, 2], [1]], [EOS, EOS, OPEN, LIMIT])
    found = decide(trace, Policy(alpha=2.0, when="always", after=2))
    # of an answer that ended with its second token nothing is left to steer
    assert found.fired.tolist() == [True, False, True, False]
    assert found.kept.tolist() == found.fired_at.tolist() == [2, 2, 2, 1]
    assert found.strength.tolist() == [2.0, 0.0, 2.0, 0.0]
    # a candidate answer's last state may be edited
    found = decide_choice(trace, Policy(alpha=2.0, when="always", after=2))
    assert found.fired.tolist() == [True, True, True, False]


def test_an_oracle_takes_back_what_a_judge_found_not_true():
    trace = Trace.of([[1, 2, 3], [1, 2, 3], [4]], [EOS, EOS, EOS])
    trace = replace(trace, wrong=np.array([True, False, True]))
    for s, kept in ((1000, [0, 3, 0]), (2, [1, 3, 0])):
        found = decide(trace, Policy(alpha=2.0, when="oracle", s=s))
        assert found.fired.tolist() == [True, False, True]
        assert found.kept.tolist() == kept
        assert found.fired_at.tolist() == [3, 3, 1]
        assert found.strength.tolist() == [2.0, 0.0, 2.0]
    assert not decide(trace, Policy(when="oracle", backtrack=False)).fired.any()
    assert not decide_choice(trace, Policy(when="oracle")).fired.any()
    with pytest.raises(ValueError, match="needs verdicts"):
        decide(replace(trace, wrong=None), Policy(when="oracle"))


def test_rows_are_decided_alone():
    generator = np.random.default_rng(0)
    length = generator.integers(1, 30, 200)
    p = generator.random((200, 31)).astype(np.float32)
    p[np.arange(31) > length[:, None]] = np.nan
    trace = Trace(np.zeros((200, 30), dtype=np.int64), length, np.zeros(200, dtype=np.int64), p)
    for policy in (
        Policy(1.0, 0.9, 5),
        Policy(1.0, 0.9, 5, judged="previous"),
        Policy(1.0, 0.9, 5, backtrack=False),
    ):
        for function in (decide, decide_choice):
            together = function(trace, policy)
            for i in range(200):
                row = slice(i, i + 1)
                alone = Trace(
                    trace.tokens[row], length[row], trace.ended[row], p[row, : length[i] + 1]
                )
                alone = function(alone, policy)
                for field in ("fired", "kept", "strength", "fired_at"):
                    assert getattr(alone, field)[0] == getattr(together, field)[i]


def test_rows_without_tokens_never_fire():
    trace = Trace(
        np.zeros((2, 0), dtype=np.int64), np.zeros(2, dtype=np.int64), np.zeros(2, dtype=np.int64)
    )
    trace = Trace(trace.tokens, trace.length, trace.ended, np.ones((2, 1)))
    assert not decide(trace, Policy()).fired.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"s": 0}, r"policy\.s: 0.*set s between 1 and"),
        ({"beta": 1.5}, r"policy\.beta: 1\.5.*between 0 and 1"),
        ({"after": -1, "when": "always"}, r"policy\.after: -1; set it between 0 and"),
        ({"when": "oracle", "backtracks": 2}, r"policy\.when: 'oracle' knows verdicts"),
        ({"abstain": True, "best_of": 2}, r"policy\.abstain: nothing is written anew"),
        ({"after": 1}, r"policy\.after: is for what steers always"),
        ({"after": 1, "when": "always", "release": 0.1}, r"policy\.after: is for what"),
        ({"alpha": float("nan")}, r"policy\.alpha: nan.*between"),
    ],
)
def test_impossible_policies_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        Policy(**changes)


@pytest.mark.parametrize("judged", ["newest", "previous"])
@pytest.mark.parametrize("backtrack", [True, False])
def test_an_answer_fires_if_and_only_if_its_highest_judged_p_exceeds_beta(judged, backtrack):
    rng = np.random.default_rng(0)
    length = rng.integers(0, 9, size=60)
    p = rng.random((60, 10))
    p[np.arange(10) > length[:, None]] = np.nan
    ended = np.where(length > 7, LIMIT, EOS)
    trace = Trace(np.zeros((60, 9), dtype=np.int64), length, ended, p)
    policy = Policy(alpha=1.0, s=4, when="token", judged=judged, backtrack=backtrack)
    highest = highest_judged(trace, policy)
    for beta in (0.1, 0.5, 0.8, float(highest[np.isfinite(highest)][0])):
        fired = decide(trace, replace(policy, beta=beta)).fired
        assert np.array_equal(fired, highest > beta)
    with pytest.raises(ValueError, match="observe"):
        highest_judged(replace(trace, p=None), policy)


WRONG = [
    {"adaptive": "false"},
    {"judged": "newes"},
    {"when": "allways"},
    {"s": 2.5},
    {"s": True},
    {"alpha": "5"},
    {"alpha": True},
    {"beta": None},
    {"backtrack": "no"},
]


def test_a_value_of_another_type_is_refused_and_numbers_of_numpy_are_numbers():
    # in a process of its own, as the tests' type checker would refuse them first
    said = unchecked(
        "import numpy as np\n"
        "from fasb.errors import ConfigError\n"
        "from fasb.steering.policy import Policy\n"
        f"for changes in {WRONG}:\n"
        "    try:\n"
        "        print('taken', Policy(**changes))\n"
        "    except ConfigError as error:\n"
        "        print(error)\n"
        "import json\n"
        "taken = Policy(alpha=np.float32(2), s=np.int64(3), release=0)\n"
        "plain = Policy(alpha=2.0, s=3, release=0.0)\n"
        "assert json.dumps(taken.as_dict()) == json.dumps(plain.as_dict())\n"
        "print(taken.s)\n"
    )
    *refused, taken = said.splitlines()
    assert "'allways' is not one of 'never', 'always'" in said
    assert [line.partition(":")[0] for line in refused] == [f"policy.{min(one)}" for one in WRONG]
    assert taken == "3"


@pytest.mark.parametrize("backtrack", [True, False])
@pytest.mark.parametrize("s", [1, 3, 4, 5, 9])
def test_what_can_never_fire_never_does_and_all_else_may(s, backtrack):
    policy = Policy(s=s, beta=0.0, backtrack=backtrack)
    trace = replace(Trace.of([[7] * n for n in range(1, 5)], [LIMIT] * 4), p=np.ones((4, 5)))
    assert policy.never_fires(4) == (not decide(trace, policy).fired.any())
