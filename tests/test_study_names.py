"""Names that would be one file, or another thing's file, are refused before anything is made."""

import pytest

from fasb.errors import ConfigError
from fasb.study.agreement import ALL
from fasb.study.names import OF_ROWS, TAKEN, check_model_name, check_names
from fasb.study.tables import AVERAGE


@pytest.mark.parametrize("kind", ["models", "datasets", "methods"])
def test_names_that_differ_in_capital_letters_alone_are_one_file_on_some_disks(kind):
    check_names(kind, ["a", "b", "a-B"])
    with pytest.raises(ConfigError, match=rf"^{kind}\.A: differs from 'a' in capital letters"):
        check_names(kind, ["a", "b", "A"])


@pytest.mark.parametrize("name", ["", ".store", "a/b", "a b", "x" * 65, "é"])
def test_what_is_no_name_of_a_file_is_refused(name):
    with pytest.raises(ConfigError, match=r"not a file name; use letters"):
        check_names("models", [name])


def test_nothing_is_called_like_rows_over_several():
    assert {"methods": ALL, "datasets": AVERAGE} == OF_ROWS
    check_names("models", [ALL, AVERAGE])
    for kind, name in OF_ROWS.items():
        with pytest.raises(ConfigError, match=rf"^{kind}\.{name}: rows over several {kind} are"):
            check_names(kind, ["another", name])


@pytest.mark.parametrize("name", [*TAKEN, "Tables", "a.accepted", "a.Accepted"])
def test_a_model_whose_files_would_be_something_elses_is_refused(name):
    check_model_name("accepted")
    with pytest.raises(ConfigError, match=r"is for (something else|another model); rename it"):
        check_model_name(name)
