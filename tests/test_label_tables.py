"""Tables of labels as people have them: what is read, what is refused; splits by group."""

import datetime
import re
import sys
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import ROOT

from pdae_jax.data import splits
from pdae_jax.data.label_table import (
    categories,
    labels_of,
    match,
    path_column,
    read_table,
)
from pdae_jax.formats.errors import DataError

NAN = np.nan


@pytest.fixture
def table(tmp_path):
    """Writes a text, or bytes, and reads it."""

    def write(text, name="labels.csv"):
        data = text if isinstance(text, bytes) else text.encode()
        (tmp_path / name).write_bytes(data)
        return read_table(tmp_path / name)

    return write


def attributes(table, skip=("file",)):
    """The values of each attribute of all lines."""
    labels = labels_of(table, np.arange(len(table)), skip)
    assert labels.values.dtype == np.float32
    return {name: labels.values[:, k].tolist() for k, name in enumerate(labels.attributes)}


def check_same(found, expected):
    assert found.keys() == expected.keys() and list(found) == list(expected)
    for name, values in expected.items():
        assert np.array_equal(found[name], np.float32(values), equal_nan=True), name


def column(table, *cells, separator=","):
    """A table with one column `x` of these cells."""
    return table(
        "\n".join([f"file{separator}x", *(f"{k}.png{separator}{c}" for k, c in enumerate(cells))])
    )


def refusal(call, *arguments):
    """The one line with which a call is refused."""
    with pytest.raises(DataError) as error:
        call(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


# Files


AGES = {"age": [30.5, NAN], "Male": [0, 1]}


@pytest.mark.parametrize(
    "name, text",
    [
        ("t.csv", "file,age,Male\na.png,30.5,-1\nb.png,,1\n"),
        ("t.csv", "file;age;Male\na.png;30,5;-1\nb.png;;1\n"),
        ("t.csv", "file;age;Male\na.png;30.5;-1\nb.png;;1"),
        ("t.csv", "file;age;Male;\na.png;30,5;-1;\nb.png;;1;\n;;;\n"),
        ("t.csv", "sep=;\nfile;age;Male\na.png;30,5;-1\nb.png;;1\n"),
        ("t.tsv", "file\tage\tMale\na.png\t30.5\t-1\nb.png\t\t1\n"),
        ("t.txt", "file\tage\tMale\na.png\t30,5\t-1\nb.png\tNA\t1\n"),
        ("t.csv", "file, age, Male\r\na.png, 30.5, -1\r\n\r\nb.png, , 1\r\n"),
        ("t.csv", "file,age,Male\ra.png,30.5,-1\rb.png,,1\r"),
        ("t.csv", '"file","age","Male"\n"a.png","30.5","-1"\n"b.png","","1"\n'),
        ("t.csv", "\ufefffile,age,Male\na.png,30.5,-1\nb.png,,1\n"),
        ("t.csv", "file,age,Male\na.png,30.5,-1\nb.png,,1\n".encode("utf-16")),
        ("t.txt", "2\nage Male \na.png 30.5 -1\nb.png  nan  1\n"),
        ("t.txt", "2\nfile age Male\na.png 30.5 -1\nb.png  nan  1\n"),
    ],
)
def test_a_text_is_read_as_people_write_it(table, name, text):
    found = table(text, name)
    check_same(attributes(found, (found.names[0],)), AGES)
    assert found.said == () and match(found, ["a.png", "b.png"]).rows.tolist() == [0, 1]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_cell_in_quotes_holds_separators_and_lines(table, separator):
    text = f'file{separator}"a, b; c"{separator}n\nx.png{separator}"1;2,\n3"{separator}1\n'
    found = table(text + f"y.png{separator}z{separator}2\n")
    assert found.names == ("file", "a, b; c", "n")
    assert found.cells("a, b; c") == ["1;2,\n3", "z"] and found.lines.tolist() == [2, 4]


def test_a_separator_within_a_header_does_not_mislead(table):
    check_same(attributes(table("file;age, years;x\na.png;3;1\n")), {"age, years": [3], "x": [1]})
    check_same(attributes(table("file,w;h\na.png,3\n")), {"w;h": [3]})
    check_same(attributes(table("file;age, years\na.png;12,5\n")), {"age, years": [12.5]})


def test_umlauts_of_windows_are_read_and_said(table):
    found = table("file;Größe\nä.png;1,5\n".encode("cp1252"))
    assert found.names == ("file", "Größe") and "Windows-1252" in found.said[0]
    assert "Windows-1252" in match(found, ["a\u0308.png"]).words  # as macOS writes ä


def write_parquet(target, **columns):
    pq.write_table(pa.table(columns), target)
    return read_table(target)


def test_parquet_keeps_its_types(tmp_path):
    found = write_parquet(
        tmp_path / "t.parquet",
        path=["a/1.png", "a/2.png", "b/1.png", "b/2.png"],
        age=[1.5, None, NAN, 4],
        count=[1, None, 3, 3],
        Male=[-1, 1, 1, -1],
        well=[True, False, True, True],
        fed=[True, None, False, False],
        half=pa.array([0.5, 1, 2, 2], pa.float16()),
        price=pa.array([1, 2, 2, None], pa.decimal128(5, 2)),
        kind=pa.array(["x", "y", "x", None]).dictionary_encode(),
        text=pa.array(["1", "2", "NA", "2"], pa.large_string()),
        day=[datetime.date(2026, 1, 1 + i % 2) for i in range(4)],
        z=[[1.0, 2.0]] * 4,
    )
    expected = {
        "age": [1.5, NAN, NAN, 4],
        "count": [1, NAN, 3, 3],
        "Male": [0, 1, 1, 0],
        "well": [1, 0, 1, 1],
        "fed": [1, NAN, 0, 0],
        "half": [0.5, 1, 2, 2],
        "price": [1, 2, 2, NAN],
        "kind=x": [1, 0, 1, NAN],
        "kind=y": [0, 1, 0, NAN],
        "text": [1, 2, NAN, 2],
        "day=2026-01-01": [1, 0, 1, 0],
        "day=2026-01-02": [0, 1, 0, 1],
    }
    check_same(attributes(found, ["path"]), expected)
    assert found.said == ("'z' left out (of type list<element: double>)",)
    assert found.where(1).endswith("t.parquet, row 2")


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_the_index_of_pandas_is_a_key_or_left_out(tmp_path, name):
    """As its to_csv and to_parquet write it: without a name, first or last."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"age": [3, 4, 4]}, index=["a.png", "b.png", "c.png"])

    def read(frame):
        (frame.to_parquet if name.endswith("parquet") else frame.to_csv)(tmp_path / name)
        return read_table(tmp_path / name)

    matched = match(read(frame), ["b.png", "c.png", "a.png"])
    assert matched.column == "" and matched.rows.tolist() == [1, 2, 0]
    check_same(attributes(read(frame), [""]), {"age": [3, 4, 4]})
    numbered = frame.reset_index(names="slide")
    numbered = numbered.set_index(numbered.index.to_numpy())
    assert match(read(numbered), ["a.png", "b.png", "c.png"]).column == "slide"
    labels = labels_of(read(numbered), [0], ["slide"])
    assert labels.attributes == ("age",)
    if name.endswith("csv"):
        assert labels.words == "left out: the first column (it numbers the lines)"


def test_columns_without_a_name_become_no_attributes(table):
    found = table(",Unnamed: 0,slide,age\n7,0,a.png,3\n3,1,b.png,4\n")
    labels = labels_of(found, [0], ["slide"])
    reasons = (("", "it has no name"), ("Unnamed: 0", "it numbers the lines"))
    assert labels.attributes == ("age",) and labels.left_out == reasons


def test_large_whole_numbers_of_parquet_stay_as_they_are(tmp_path):
    ids = [2**60 + 1, 2**60 + 2]
    found = write_parquet(tmp_path / "t.parquet", file=["a", "b", "c"], id=[*ids, None])
    assert found.texts("id").tolist() == [*map(str, ids), ""]


def write_xlsx(path, *sheets):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.remove(book.active)
    for k, rows in enumerate(sheets):
        sheet = book.create_sheet(f"Sheet {k}")
        for row in rows:
            sheet.append(row)
    book.save(path)
    return openpyxl, book


def test_the_first_sheet_of_xlsx_is_read(tmp_path):
    rows = [
        ["file", "age", "n", "well", "kind", 2020],
        ["a.png", 1.5, 1, True, "x", "yes"],
        ["b.png", None, 2, None, "y", "no"],
        [None, None, None, None, None, None],
        ["c.png", 3, "NA", False, "y", "NA"],
    ]
    write_xlsx(tmp_path / "t.xlsx", rows, [["other"]])
    found = read_table(tmp_path / "t.xlsx")
    expected = {
        "age": [1.5, NAN, 3],
        "n": [1, 2, NAN],
        "well": [1, NAN, 0],
        "kind=x": [1, 0, 0],
        "kind=y": [0, 1, 1],
        "2020": [1, 0, NAN],
    }
    check_same(attributes(found), expected)
    assert found.said == ("sheet 'Sheet 0', the first of 2",) and found.lines.tolist() == [2, 3, 5]


def test_merged_cells_and_formulas_of_xlsx_are_refused(tmp_path):
    path = tmp_path / "t.xlsx"
    openpyxl, book = write_xlsx(path, [["file", "age"], ["a.png", 3], ["b.png", "=B2+1"]])
    assert "the cell B3 is a formula without a value" in refusal(read_table, path)
    book.worksheets[0]["B3"] = None
    book.worksheets[0].merge_cells("B2:B3")
    book.save(path)
    assert "B2:B3 of sheet 'Sheet 0' are merged: unmerge them" in refusal(read_table, path)


def test_xlsx_without_its_package_names_it(tmp_path, monkeypatch):
    (tmp_path / "t.xlsx").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    assert "pip install 'pdae_jax[xlsx]'" in refusal(read_table, tmp_path / "t.xlsx")


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("t.csv", "", "no attributes in .*t.csv: it is empty"),
        ("t.csv", "file,age\n", "a header alone"),
        ("t.txt", "0\nage\n", "a header alone"),
        ("t.csv", "file\na.png\n", "one column alone, 'file'"),
        ("t.csv", "file,\na.png,\n", "one column alone, 'file'"),
        ("t.txt", "a.png 1\nb.png 2\n", "one column alone, 'a.png 1'"),
        ("t.csv", "file,age\na.png,1,2\n", "line 2: 3 cells, and the header has 2"),
        ("t.csv", "file;age\n\na.png;1\nb.png\n", "line 4: 1 cells, and the header has 2"),
        ("t.txt", "2\nage\na.png 1\nb.png 1 2\n", "line 4: 3 cells"),
        ("t.csv", 'file,age\na.png,1\nb.png,"2\nc.png,3\n', "line 3: unexpected end of data"),
        ("t.csv", 'file,age\na.png,"1"2\n', "line 2: .*must end with one"),
        ("t.csv", "file,age,age\na.png,1,2\n", "two columns named 'age': rename or remove one"),
        ("t.csv", "file,age,\na.png,1,2\n", "line 2: 3 cells"),
        ("t.csv", "file,,age\na.png,1,2\n", "column 2 has no name, and '1' in it"),
        ("t.csv", "file,a=b\na.png,1\n", "'a=b' has = in its name"),
        ("t.csv", "a.png,1\nb.png,2\n", "no header: its first line holds 'a.png'"),
        ("t.csv", b"\x89PNG\0\0\x81", "it is no text"),
        ("t.csv", "file,age\na.png,1\n".encode("utf-16-le"), "UTF-16 without its mark"),
        ("t.xls", "x", "ends with .xls: a table is .csv"),
        ("t.parquet", "x", "cannot read the attributes in .*t.parquet"),
        ("t.xlsx", "x", "no XLSX"),
    ],
)
def test_what_is_no_table_is_refused_in_one_line(tmp_path, name, text, message):
    if name.endswith("xlsx"):
        pytest.importorskip("openpyxl")
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    assert re.search(message, refusal(read_table, tmp_path / name))


def test_a_file_that_is_not_there_or_a_folder(tmp_path):
    assert "no such file" in refusal(read_table, tmp_path / "none.csv")
    (tmp_path / "t.csv").mkdir()
    assert "it is a folder" in refusal(read_table, tmp_path / "t.csv")


def test_a_count_that_is_wrong_is_said(table):
    found = table("3\nMale\na.png 1\nb.png -1\n", "t.txt")
    assert found.said == ("its first line counts 3 and there are 2",)
    assert found.said[0] in match(found, ["a.png", "b.png"]).words


# Cells


@pytest.mark.parametrize(
    "cells, values",
    [
        ("1 2.5 -3 1e-3 +4 .5", [1, 2.5, -3, 1e-3, 4, 0.5]),
        ("\N{MINUS SIGN}1.5 2", [-1.5, 2]),
        ("-1 1 NA", [0, 1, NAN]),
        ("-1 1 0", [-1, 1, 0]),
        ("7 7 7", [7, 7, 7]),
        ("yes no NA", [1, 0, NAN]),
        ("Y n y", [1, 0, 1]),
        ("TRUE false", [1, 0]),
        ("T F", [1, 0]),
        ("yes yes", [1, 1]),
        ("+ - + ?", [1, 0, 1, NAN]),
        ("1 NA N/A na nan NaN null None - . ? #N/A", [1] + [NAN] * 11),
    ],
)
def test_cells_become_numbers(table, cells, values):
    check_same(attributes(column(table, *cells.split())), {"x": values})


@pytest.mark.parametrize("separator", [";", "\t"])
def test_decimal_commas(table, separator):
    cells = ["1,5", "-2", ",25", "1,234", "0,5e1", ""]
    found = column(table, *cells, separator=separator)
    check_same(attributes(found), {"x": [1.5, -2, 0.25, 1.234, 5, NAN]})


@pytest.mark.parametrize(
    "cells, expected",
    [
        ("b a b a", {"x=a": [0, 1, 0, 1], "x=b": [1, 0, 1, 0]}),
        ("F M M F", {"x=F": [1, 0, 0, 1], "x=M": [0, 1, 1, 0]}),
        ("T N T N", {"x=N": [0, 1, 0, 1], "x=T": [1, 0, 1, 0]}),  # tumour and normal
        ("w10 w9 w9", {"x=w9": [0, 1, 1], "x=w10": [1, 0, 0]}),
        ("a b ? a", {"x=a": [1, 0, NAN, 1], "x=b": [0, 1, NAN, 0]}),
        (
            "1 3a 3b 1 3a 3b",
            {f"x={v}": [v == w for w in "1 3a 3b".split() * 2] for v in ("1", "3a", "3b")},
        ),
        ("a=b c a=b", {"x=a=b": [1, 0, 1], "x=c": [0, 1, 0]}),
    ],
)
def test_words_become_categories(table, cells, expected):
    found = attributes(column(table, *cells.split()))
    check_same(found, expected)
    assert categories(("age", *found, "y=1")) == {"x": list(range(1, 1 + len(found)))}


@pytest.mark.parametrize(
    "cells, reason",
    [
        (["a", "b", "c"], "all its 3 values are different"),
        (["a", "a", ""], "one value alone, 'a'"),
        (["F", "F"], "one value alone, 'F'"),
        (["", "NA"], "no cell has a value"),
        ([f"w{k % 51}" for k in range(102)], "51 different values, and at most 50"),
        (["5", *(f"text {k}" for k in range(9))], "all its 10 values are different"),
        ([str(2**40 + k) for k in range(3)], "longer than float32 holds"),
    ],
)
def test_what_is_no_label_is_left_out_and_said(table, cells, reason):
    labels = labels_of(column(table, *cells), [0, -1], ["file"])
    assert labels.attributes == () and labels.values.shape == (2, 0)
    assert labels.left_out[0][0] == "x" and reason in labels.left_out[0][1]
    assert reason in labels.words


@pytest.mark.parametrize(
    "separator, cells, message",
    [
        (",", "30 31 32 12a", "line 5: '12a' under 'x' is not a number"),
        (",", "1 2 " * 10 + "two", "line 22: 'two' under 'x' is not a number"),
        (",", "1 1.5 1 1.5 a a", "line 6: 'a' under 'x' is not a number"),
        (",", "1 1 0 0 yes yes", "line 6: 'yes' under 'x' is not a number"),
        (",", "1 2 inf", "line 4: 'inf' under 'x' is not a number"),
        (",", "1 2 1_0", "line 4: '1_0' under 'x' is not a number"),
        (",", "1 1e99", "line 3: 1e.99 under 'x' is too large"),
        (",", '"1,5" "2,5"', "line 2: '1,5' under 'x' is not a number here: write a decimal point"),
        (",", '1 2 3 "1,234"', "line 5: '1,234' under 'x' is not a number here"),
        (";", "1,5 2.5", "line 2: '1,5' under 'x' and '2.5' in another line: write decimal points"),
        (";", "1 1,234,567", "line 3: '1,234,567' under 'x' is not a number here"),
        (";", "1,234,567 1,234,568", "line 2: '1,234,567' under 'x' is not a number here"),
        ("\t", "2,345 1,234", "line 2: '2,345' under 'x' may be a decimal number, or thousands"),
    ],
)
def test_a_mistake_among_numbers_is_refused_with_its_line(table, separator, cells, message):
    found = column(table, *cells.split(" "), separator=separator)
    assert re.search(message, refusal(attributes, found))


def test_points_that_may_stand_between_thousands_are_refused(table):
    text = "file;n;x\na.png;1.234;{}\nb.png;2.500;2\n"
    check_same(attributes(table(text.format("1.5"))), {"n": [1.234, 2.5], "x": [1.5, 2]})
    message = "line 2: '1.234' under 'n' may be a decimal number, or thousands, as other columns"
    assert message in refusal(attributes, table(text.format("1,5")))


def test_infinity_in_parquet_is_refused(tmp_path):
    found = write_parquet(tmp_path / "t.parquet", file=["a", "b"], x=[1, np.inf])
    assert "row 2: inf under 'x' is too large" in refusal(attributes, found)


def test_names_of_several_lines_become_one_line(table):
    found = table('file,"age\n(years)",x\na.png,3,"b\nc"\nb.png,4,b c\nc.png,4,d\nd.png,4,d\n')
    expected = {"age (years)": [3, 4, 4, 4], "x=b c": [1, 1, 0, 0], "x=d": [0, 0, 1, 1]}
    check_same(attributes(found), expected)


def test_doubtful_categories_are_noted(table):
    labels = labels_of(column(table, "Cat", "cat", "None", "cat"), [0], ["file"])
    assert labels.notes == (
        "x has categories that differ in case alone: Cat and cat",
        "x is taken as not known in 1 of its cells, 'None'",
    )


def test_attributes_are_the_same_whichever_pictures_are_asked_for(table):
    found = column(table, "a", "b", "b", "c")
    labels = labels_of(found, np.array([1, -1, 2]), ["FILE"])
    assert labels.attributes == ("x=a", "x=b", "x=c")
    assert np.array_equal(labels.values, [[0, 1, 0], [NAN] * 3, [0, 1, 0]], equal_nan=True)


def test_other_columns_that_name_the_pictures_become_no_attributes(table):
    found = table("path,id,name\na.png,3,x\nb.png,1,y\n")
    labels = labels_of(found, [0], ["path"])
    assert labels.attributes == () and [name for name, _ in labels.left_out] == ["id", "name"]


# Finding pictures


PICTURES = ["P1/a.png", "P1/b.png", "P2/c.png"]


@pytest.mark.parametrize(
    "keys, by",
    [
        (["P1/a.png", "P1/b.png", "P2/c.png"], "path"),
        (["./P1/a.png", "./P1/b.png", "./P2/c.png"], "path"),
        (["/data/x/P1/a.png", "/data/x/P1/b.png", "/data/x/P2/c.png"], "path"),
        (["D:\\x\\P1\\a.png", "D:\\x\\P1\\b.png", "D:\\x\\P2\\c.png"], "path"),
        (["P1\\a.png", "P1\\b.png", "P2\\c.png"], "path"),
        (["a.png", "b.png", "c.png"], "name"),
        (["raw/a.png", "raw/b.png", "raw/c.png"], "name"),
        (["a", "b", "c"], "stem"),
        (["P1/a", "P1/b", "P2/c"], "stem"),
        (["a.tif", "b.tif", "c.TIF"], "stem"),
        (["D:\\raw\\a.ome.tiff", "D:\\raw\\b.ome.tiff", "D:\\raw\\c.ome.tiff"], "stem"),
    ],
)
@pytest.mark.parametrize("header", ["file", "Image Path", "slide"])
def test_pictures_are_found_by_path_name_or_stem(table, keys, by, header):
    lines = [f"{key},{k}" for k, key in enumerate(keys)]
    found = table("\n".join([f"{header},x", *lines[::-1]]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        matched = match(found, PICTURES)
    assert matched.rows.tolist() == [2, 1, 0] and matched[1] == by and matched.column == header
    assert matched.words == f"{found.name}: 3 of 3 pictures found by {by}"


def test_the_share_is_counted_and_what_is_not_found_is_said(table):
    found = table("file,x\na.png,1\nz.png,2\ny.png,2\na.png,1\n")
    with pytest.warns(UserWarning, match="no line for 2 of 3 pictures: their attributes are taken"):
        matched = match(found, PICTURES)
    assert matched.rows.tolist() == [0, -1, -1]
    assert matched.words == (
        f"{found.name}: 1 of 3 pictures found by name, 1 picture has several lines, all the same, "
        "2 lines name no picture"
    )


def test_the_longest_common_path_decides(table):
    paths = ["new/a/1.png", "new/b/1.png"]
    found = table("path,x\n/old/a/1.png,1\n/old/b/1.png,2\n")
    assert match(found, paths).rows.tolist() == [0, 1]
    found = table("path,x\na/1.png,1\nb/1.png,2\nc/1.png,3\n")  # of more than is here
    with pytest.warns(UserWarning, match="1 of 2"):
        assert match(found, ["a/1.png", "d/1.png"]).rows.tolist() == [0, -1]
    found = table("path,x\n1.png,1\nb/1.png,2\n")
    assert match(found, ["b/1.png", "1.png"]).rows.tolist() == [1, 0]


def test_a_name_of_two_pictures_is_refused(table):
    message = "line 2: '1.png' is ambiguous, as it may be 'a/1.png' or 'b/1.png': write the paths"
    assert message in refusal(match, table("file,x\n1.png,1\n"), ["a/1.png", "b/1.png"])
    message = "line 2: '1' is ambiguous, as it may be 'a/1.png' or 'a/1.jpg'"
    assert message in refusal(match, table("file,x\n1,1\n"), ["a/1.png", "a/1.jpg"])
    paths = ["1.png", "b/1.png"]
    assert "may be './1.png' or 'b/1.png'" in refusal(match, table("file,x\n1.png,1\n"), paths)
    with pytest.warns(UserWarning, match="1 of 2"):
        assert match(table("file,x\n./1.png,1\n"), paths).rows.tolist() == [0, -1]


def test_two_lines_of_a_picture_that_differ_are_refused(table):
    text = refusal(match, table("file,x,y\na.png,1,2\nb.png,1,1\nP1/a.png,1,3\n"), PICTURES)
    assert "'a.png' in line 2 and 'P1/a.png' in line 4, with '2' and '3' under 'y'" in text


def test_the_column_that_finds_most_pictures_counts(table):
    found = table("id,name,file\n7,Ann,a.png\n8,Bob,b.png\n9,Eve,c.png\n")
    assert match(found, PICTURES).column == "file"
    assert match(found, ["x/7.png", "x/8.png", "9.png"]).column == "id"
    assert "(column 'id')" in match(found, ["7.png", "8.png", "9.png"]).words
    text = refusal(match, table("id,slide\n7,a\n8,b\n9,c\n"), PICTURES)
    assert "the column 'slide' would find 3 of them: if it names the pictures, call it" in text


def test_a_table_of_other_pictures_shows_both_sides(table):
    text = refusal(match, table("file,x\nz.png,1\n"), PICTURES)
    assert "names none of the 3 pictures: it has 'z.png' under 'file', the pictures" in text
    assert "'P1/a.png'" in text


def test_other_names_are_tried_first_and_may_be_shared(table):
    aliases = [("000001.jpg", "None-0000000"), ("000002.jpg", "None-0000001"), ("000002.jpg",)]
    keys = ["None-0000000", "None-0000001", "None-0000002"]
    found = table("image_id,x\n000001.jpg,5\nNone-0000001,6\n000002.jpg,7\n")
    assert match(found, keys, aliases).rows.tolist() == [0, 2, 2]
    found = table("image_id,x\nNone-0000002,5\nNone-0000001,6\nNone-0000000,7\n")
    assert match(found, keys, [()] * 3).rows.tolist() == [2, 1, 0]


def test_pictures_of_one_path_have_one_row(table):
    found = table("path,x\nscan.nii.gz,1\nother,2\n")
    assert match(found, ["scan.nii.gz"] * 3).rows.tolist() == [0, 0, 0]


def test_many_pictures_are_found_at_once(table):
    names = [f"p{k // 100}/{k % 100}.png" for k in range(20_000)]
    found = table("\n".join(["file,x", *(f"C:\\data\\{n},{k}" for k, n in enumerate(names[::-1]))]))
    matched = match(found, names)
    assert np.array_equal(matched.rows, np.arange(20_000)[::-1])
    assert "20,000 of 20,000 pictures found by path" in matched.words


# Groups and splits


def test_whole_groups_are_held_out_whatever_the_order():
    rng = np.random.default_rng(0)
    group = np.repeat([f"P{k}" for k in range(50)], rng.integers(1, 30, 50))
    shuffled = rng.permutation(len(group))
    parts = {s: splits.held_out_groups(group, s, 0.2, 7) for s in splits.SPLITS}
    assert sorted([*parts["train"], *parts["test"]]) == parts["all"].tolist()
    assert not set(group[parts["train"]]) & set(group[parts["test"]])
    assert abs(len(parts["test"]) / len(group) - 0.2) < 0.02
    again = group[shuffled][splits.held_out_groups(group[shuffled], "test", 0.2, 7)]
    assert set(again) == set(group[parts["test"]])
    other = splits.held_out_groups(group, "test", 0.2, 8)
    assert set(group[other]) != set(again)


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.5, 0.999])
@pytest.mark.parametrize("sizes", [(1, 1), (90, 10), (50, 50, 1), (30, 30, 30)])
def test_each_side_has_a_group(fraction, sizes):
    group = np.repeat([f"P{k}" for k in range(len(sizes))], sizes)
    sides = [set(group[splits.held_out_groups(group, s, fraction, 0)]) for s in ("train", "test")]
    assert all(sides) and not sides[0] & sides[1]


def test_groups_that_cannot_be_split_are_refused():
    held_out = splits.held_out_groups
    one = np.array(["P1", "P1"])
    assert "needs two groups, and all 2 pictures are of 'P1'" in refusal(
        held_out, one, "train", 0.1, 0
    )
    assert held_out(one, "all", 0.1, 0).tolist() == held_out(one, "train", 0, 0).tolist() == [0, 1]
    assert "raise it" in refusal(held_out, one, "test", 0, 0)
    assert "must be at least 0" in refusal(held_out, one, "test", 1, 0)
    assert "no split 'val'" in refusal(held_out, one, "val", 0.1, 0)
    some = np.array(["P1", "", "P2"])
    assert "1 of 3 pictures have no group, such as picture 1" in refusal(
        held_out, some, "all", 0, 0
    )


def test_a_split_by_group_is_said():
    group = np.array(["a", "a", "b", "c"])
    assert splits.words_of_groups(group, np.array([3])) == (
        "split by group: 3 pictures of 2 groups to train, 1 picture of 1 group held out, no group "
        "on both sides"
    )
    assert "1 of them on both sides" in splits.words_of_groups(group, np.array([0]))


def test_a_share_of_pictures_is_held_out_as_ever():
    assert splits.held_out(10, "test", 0.2, 0).tolist() == [4, 6]
    assert splits.held_out(10, "train", 0.2, 0).tolist() == [0, 1, 2, 3, 5, 7, 8, 9]


def test_a_column_of_splits_is_read_as_people_write_it():
    words = ["Train", "training", "FIT", "test", "Held-out", "held_out", "val", "dev", "validation"]
    found = splits.split_column(words)
    assert {part: rows.tolist() for part, rows in found.items()} == {
        "train": [0, 1, 2],
        "test": [3, 4, 5],
        "valid": [6, 7, 8],
    }
    assert list(splits.split_column(["train", "train"])) == ["train"]


@pytest.mark.parametrize(
    "cell, message",
    [
        ("", "m.csv, line 7: no split under 'split': write one of train, test, valid"),
        ("3", "line 7: '3' under 'split' is a fold or a code, and no split: .*test for one fold"),
        ("fold_2", "line 7: 'fold_2' under 'split' is a fold"),
        ("tset", "line 7: 'tset' under 'split' is no split: write one of train, test, valid"),
    ],
)
def test_what_is_no_split_is_refused_with_its_line(cell, message):
    text = refusal(splits.split_column, ["train", cell], [2, 7], "m.csv")
    assert re.search(message, text)


def test_a_group_on_both_sides_of_a_given_split_is_refused():
    group = np.array(["a", "a", "b", "b", "", ""])
    splits.check_disjoint(group, np.array(["train", "train", "test", "test", "train", "test"]))
    text = refusal(splits.check_disjoint, group, np.array(["train", "test"] * 3))
    assert "group 'a' lies on both sides of the split, 1 in test and 1 in train, and so" in text


# The document


def test_the_documents_example_is_what_it_says(table):
    """docs/tables.md: its example, its list of attributes and what it says of categories."""
    document = (ROOT / "docs" / "tables.md").read_text()
    example = re.search(r"```csv\n(.*?)```", document, re.DOTALL)
    assert example
    found = table(example[1], "manifest.csv")
    assert path_column(found) == "path"
    labels = labels_of(found, np.arange(len(found)), ("path", "split", "patient"))
    listed = re.search(r"the attributes of the example are (.*?)\.\n", document)
    assert listed and re.findall("`(.*?)`", listed[1]) == list(labels.attributes)
    assert labels.left_out == (("comment", "all its 5 values are different"),)
    rows = {name: labels.values[:, k].tolist() for k, name in enumerate(labels.attributes)}
    expected = {
        "age": [61.5, 61.5, 48, 48, NAN, NAN],
        "diseased": [1, 1, 0, 0, 0, NAN],
        "stain=HE": [1, 0, 1, 0, 1, 0],
        "stain=PAS": [0, 1, 0, 1, 0, 1],
        "tissue=colon": [1, 1, 1, 0, 0, 0],
        "tissue=liver": [0, 0, 0, 1, 1, 1],
    }
    check_same(rows, expected)
    split = splits.split_names(found.texts("split"), found.lines, found.name)
    splits.check_disjoint(found.texts("patient"), split)
    assert split.tolist() == ["train"] * 4 + ["test"] * 2
    paths = ["P02/b.png", "P01/a.png"]
    assert match(found, paths).rows.tolist() == [3, 0]


def test_a_manifest_without_paths_is_refused(table):
    text = refusal(path_column, table("slide,x\na,1\n"))
    assert "has no column 'path'" in text and "'slide', 'x'" in text
