"""Joins, lists, names and names of files are added to the records of a table."""

from __future__ import annotations

import gzip

import pytest

from store.errors import CorpusError

PAIRS = "image,id,study,caption\n0.png,a,1,first\n1.png,b,2,second\n2.png,c,2,third\n"


def column(rows, name):
    return [row[name] for row in rows]


def test_columns_of_another_table_are_joined_by_a_common_one(index):
    files = {"pairs.csv": PAIRS, "other.csv.gz": gzip.compress(b"study,split,caption\n2,val,no\n1,train,no\n")}
    _, rows, _ = index(files, join=[{"file": "other.csv.gz", "on": "study"}])
    assert column(rows, "split") == ["train", "val", "val"]
    assert column(rows, "caption") == ["first", "second", "third"]


def test_keys_may_have_other_names_and_be_made_of_several(index):
    files = {
        "pairs.csv": PAIRS,
        "other.jsonl": '{"s": "s1", "part": "a", "split": "x"}\n{"s": "s2", "part": "c", "split": "y"}',
    }
    account, rows, _ = index(files, join=[{"file": "other.jsonl", "on": {"s": "s{study}", "part": "id"}}])
    assert column(rows, "split") == ["x", None, "y"]
    found = account.passed["no record of a joined table"]
    assert (found.count, found.first.partition("pairs.csv")[2]) == (1, ": record 1: other.jsonl: s2, b")


def test_several_files_may_be_one_table(index):
    files = {"pairs.csv": PAIRS, "x_sets.csv": "id,split\na,1\n", "y_sets.csv": "id,split\nb,2\nc,3\n"}
    _, rows, _ = index(files, join=[{"file": "*_sets.csv", "on": "id"}])
    assert column(rows, "split") == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("other", "on", "message"),
    [
        ("study,split\n1,a\n1,b\n", "study", r"o\.csv: join: several records have study 1;"),
        ("study,split\n1,a\n", "id", r"o\.csv: join: there is no column 'id'; there are study, split"),
        ('study,split\n1,"a\n', "study", r"o\.csv:2: the quote .* is never closed"),
    ],
)
def test_a_table_that_cannot_be_joined_is_an_error(index, other, on, message):
    with pytest.raises(CorpusError, match=message):
        index({"pairs.csv": PAIRS, "o.csv": other}, join=[{"file": "o.csv", "on": on}])


def test_a_table_to_join_that_is_not_there_is_an_error(index):
    for name, message in (("none.csv", r"none\.csv: no such corpus file"), ("none.txt", "does not say what it is")):
        with pytest.raises(CorpusError, match=message):
            index({"pairs.csv": PAIRS}, join=[{"file": name, "on": "id"}])


def test_a_field_that_neither_table_has_is_an_error(index):
    with pytest.raises(CorpusError, match="no record has 'sex'"):
        index(
            {"pairs.csv": PAIRS, "o.csv": "id,split\na,1\n"},
            join=[{"file": "o.csv", "on": "id"}],
            fields={"modality": "sex"},
        )


def test_values_get_names_and_those_without_one_are_counted(index):
    account, rows, _ = index(
        {"pairs.csv": PAIRS}, names={"study": {"1": "ct", "3": "mri"}}, fields={"modality": "study"}
    )
    assert column(rows, "modality") == ["ct", None, None]
    found = account.passed["a value that names does not list"]
    assert (found.count, found.first.partition("pairs.csv")[2]) == (2, ": record 1: study: 2")
    with pytest.raises(CorpusError, match="lists or names: no record has 'studi'"):
        index({"pairs.csv": PAIRS}, names={"studi": ["a"]})


def test_a_list_names_values_by_their_position(index):
    _, rows, _ = index({"pairs.csv": PAIRS}, names={"study": ["none", "one", "two"]}, fields={"source": "{study}"})
    assert column(rows, "source") == ["one", "two", "two"]


def test_the_files_name_and_folder_are_columns(index, folder):
    fields = {"split": "__file__", "source": "__folder__", "image": "../{image}"}
    names = {"__file__": {"train-*": "train", "*": "val"}}
    allow = [str(folder)]
    files = {"set/train-00000.csv.gz": gzip.compress(PAIRS.encode())}
    _, rows, _ = index(files, fields=fields, names=names, allow=allow)
    assert (set(column(rows, "split")), set(column(rows, "source"))) == ({"train"}, {"set"})
    _, rows, _ = index({"set/valid.csv": PAIRS}, fields=fields, names=names, allow=allow)
    assert set(column(rows, "split")) == {"val"}


@pytest.mark.parametrize(
    ("form", "text"),
    [("python", "\"['x', 'y']\""), ("json", '"[""x"", ""y""]"'), (";", "x; y"), ("python", "\"('x', 'y')\"")],
)
def test_a_list_that_is_written_as_text_gives_a_row_for_each(index, form, text):
    _, rows, _ = index({"a.csv": f"image,caption\n0.png,{text}\n"}, lists={"caption": form})
    assert column(rows, "caption") == ["x", "y"]


@pytest.mark.parametrize("text", ["['x'", "__import__('os').getcwd()", "[" * 3000, "'x'"])
def test_a_text_that_is_no_list_ends_nothing_but_its_row(index, text):
    content = f"image,caption\n0.png,\"{text}\"\n1.png,\"['a', 'b']\"\n"
    account, rows, _ = index({"a.csv": content}, lists={"caption": "python"})
    assert column(rows, "caption") == [None, "a", "b"]
    assert account.passed["a text that is no list as python writes it"].count == 1


def test_a_text_in_a_file_of_its_own_is_a_caption(index):
    files = {"a.csv": "id,image\n1,0.png\n2,1.png\n", "texts/1.txt": "\ufefffirst"}
    account, rows, _ = index(files, fields={"text_file": "texts/{id}.txt", "caption": "txt?"})
    assert column(rows, "caption") == ["first", None]
    assert account.passed["no text file"].count == 1


def test_a_list_of_lists_gets_names_place_by_place(index):
    content = '{"image": "0.png", "caption": "x", "labels": [[1, 0], [0, 1]]}\n'
    content += '{"image": "1.png", "caption": "y", "labels": [{"a": 1}, {"b": 2}]}\n'
    _, rows, _ = index({"a.jsonl": content}, names={"labels": ["p", "q"]}, fields={"modality": "labels"})
    assert column(rows, "modality") == ["p", None]


@pytest.mark.parametrize("path", ["{studi}", "studi", "studi.id"])
def test_a_column_to_join_by_that_no_record_has_is_an_error_and_not_a_count(index, path):
    files = {"pairs.csv": PAIRS, "o.csv": "id,split\n1,a\n"}
    with pytest.raises(CorpusError, match=r"pairs\.csv: join, lists or names: no record has 'studi"):
        index(files, join=[{"file": "o.csv", "on": {"id": path}}])
    _, rows, _ = index(files, join=[{"file": "o.csv", "on": {"id": "{studi?}{study}"}}])
    assert column(rows, "split") == ["a", None, None]


def test_where_no_record_finds_its_other_one_the_account_says_so_and_no_field_is_called_unknown(index):
    files = {"pairs.csv": PAIRS, "o.csv": "id,split\n1.0,a\n2.0,b\n", "p.csv": "id,split\n1,c\n"}
    join = {"on": {"id": "study"}}
    account, rows, _ = index(files, join=[{"file": "o.csv", **join}], fields={"split": "split"})
    assert column(rows, "split") == [None] * 3
    found = account.passed["no record of a joined table"]
    assert (found.count, found.first.partition("pairs.csv")[2]) == (3, ": record 0: o.csv: 1")
    _, rows, _ = index(files, join=[{"file": "o.csv", **join}, {"file": "p.csv", **join}])
    assert column(rows, "split") == ["c", None, None]
