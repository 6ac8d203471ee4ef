"""Tables of plain texts: `tuning` and `judges`, whose own tests are elsewhere."""

from fasb.study.texttables import TextTable, texts_as_latex, texts_as_markdown

TABLE = TextTable("5 % of *all*", ["Method", "How", "test"], [["a_b", "1e5 | x", "7.0"]], n_text=2)


def test_what_somebody_called_a_method_is_text_in_both_forms():
    assert "5 % of \\*all\\*" in texts_as_markdown([TABLE])
    assert "| a\\_b" in texts_as_markdown([TABLE])
    assert "\\caption{5 \\% of *all*}" in texts_as_latex([TABLE])
    assert "a\\_b & 1e5 \\textbar{} x & 7.0" in texts_as_latex([TABLE])


def test_numbers_are_aligned_to_the_right_and_texts_to_the_left():
    head, rule, line = texts_as_markdown([TABLE]).splitlines()[-3:]
    assert [part[0] + part[-1] for part in rule.strip("|").split("|")] == [":-", ":-", "-:"]
    assert len(head) == len(line)
    assert "\\begin{tabular}{llr}" in texts_as_latex([TABLE])


def test_every_table_has_its_caption_above():
    text = texts_as_markdown([TABLE, TABLE])
    assert text.count("5 %") == text.count("| Method") == 2
    assert texts_as_latex([TABLE, TABLE]).count("\\end{table}") == 2
