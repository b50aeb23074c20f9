import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_reml.io.errors import InputError
from gpu_reml.io.text import read_text_table


def read(path, min_width=2, **options):
    return read_text_table(path, "test", "two fields or more", min_width, **options)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.txt", "a b c\nd e f\n"),
        ("t.txt", "  a   b\tc \n\nd e f"),
        ("t.txt", "a\tb\tc\r\nd\te\tf\r\n"),
        ("t.txt", "\ufeffa b c\n \t \nd e f\n"),
        ("t.csv", 'a,b,c\nd,"e",f\n,,\n'),
        ("t.csv", "a b c\nd e f\n"),
    ],
)
def test_separators_blank_lines_line_ends_and_byte_order_marks_are_understood(write, name, text):
    assert read(write(name, text)).fields.to_numpy().tolist() == [["a", "b", "c"], ["d", "e", "f"]]


def test_gzip_is_read_by_suffix(write):
    path = write("t.txt.gz", gzip.compress(b"a b\nc d\n"))
    assert read(path).fields.to_numpy().tolist() == [["a", "b"], ["c", "d"]]


def test_empty_field_between_tabs_is_kept(write):
    path = write("t.txt", "a\tb\tc\nd\t\tf\ng\th\t\n")
    assert read(path).fields.to_numpy().tolist() == [["a", "b", "c"], ["d", "", "f"], ["g", "h", ""]]


def test_quotes_and_hashes_outside_csv_are_characters(write):
    assert read(write("t.txt", "a' \"b\n#c d\n")).fields.to_numpy().tolist() == [["a'", '"b'], ["#c", "d"]]


@pytest.mark.parametrize("name", ["t.txt", "t.tsv", "t.csv"])
def test_line_of_a_row_counts_blank_lines(write, name):
    sep = {"t.txt": " ", "t.tsv": "\t", "t.csv": ","}[name]
    table = read(write(name, f"\na{sep}b\n\n \nc{sep}d\n\n"))
    assert [table.line(row) for row in range(len(table.fields))] == [2, 5]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.txt", "a b c\n\nd e\n", r"line 3 \(d e\): expected 3 fields as in line 1, found 2; .* blanks or tabs"),
        ("t.txt", "a b c\nd e f g\n", r"line 2 \(d e\): expected 3 fields as in line 1, found 4"),
        ("t.txt", "a\tb\tmy c\nd\te\tf\n", r"expected 4 .* found 3; .* a blank in it: write _ in its place"),
        ("t.txt", "a\tb\tmy c\nd\te\n", r"expected 4 .* found 2; .* complete the line"),
        ("t.txt", "a b c\nd e f g h\n", r"line 2 \(d e\): .* found 5; .* complete the line"),
        ("t.txt", "a b c\n1 d e f\n", r"found 4; .* row names of R, write\.table\(row\.names = FALSE\)"),
        ("t.txt", "a\tb\tc\nd\te\n", r"line 2 \(d e\): expected 3 fields as in line 1, found 2; .* separated by tabs"),
        ("t.csv", "a,b,c\nd,e\n", r"line 2 \(d e\): .* found 2; .* separated by commas"),
        ("t.csv", 'a,b,c\nd,"e,f",g,h\n', r"line 2 \(d e,f\): .* found 4"),
        ("t.txt", "\na\n", r"line 2: expected two fields or more, found 1 field"),
        ("t.txt", "a,b\n", r"found 1 field\(s\); commas separate fields only in a file named \.csv"),
        ("t.txt", b"\xff\xfe\x00a", r"the test file is not UTF-8 text"),
        ("t.txt.gz", b"not gzip", r"the test file cannot be read"),
    ],
)
def test_malformed_text_is_refused_in_one_line_that_names_the_place(write, name, text, message):
    path = write(name, text)
    with pytest.raises(InputError, match=message) as error:
        read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_file_and_directory_are_named(tmp_path):
    with pytest.raises(InputError, match=r"test file not found: \S*none\.txt"):
        read(tmp_path / "none.txt")
    with pytest.raises(InputError, match=r"the test file cannot be read \(Is a directory\)"):
        read(tmp_path)


WORDS = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"], exclude_characters='"'), min_size=1)
BLANK = st.sampled_from(["", "  ", "\t", " \t "])


@settings(max_examples=60, deadline=None)
@given(data=st.data(), width=st.integers(2, 5), num_rows=st.integers(1, 6))
def test_any_words_in_any_layout_are_read_back_with_their_lines(tmp_path_factory, data, width, num_rows):
    rows = data.draw(st.lists(st.lists(WORDS, min_size=width, max_size=width), min_size=num_rows, max_size=num_rows))
    gap = data.draw(st.sampled_from([" ", "   ", "\t", " \t"]))
    end = data.draw(st.sampled_from(["\n", "\r\n"]))
    lines, numbers = [], []
    for row in rows:
        lines += data.draw(st.lists(BLANK, max_size=2))
        lines.append(gap.join(row))
        numbers.append(len(lines))
    path = tmp_path_factory.mktemp("words") / "t.txt"
    path.write_bytes(end.join(lines).encode())
    table = read(path)
    assert table.fields.to_numpy().tolist() == rows
    assert [table.line(k) for k in range(num_rows)] == numbers
