"""Texts that are no friends: YAML, labels, names and keys that would crash, blow up, deceive a terminal, a spreadsheet or a page."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
import time
from pathlib import Path

import fuzz_labels
import fuzz_yaml
import pytest
import run_helpers

from usb_active import cli
from usb_active.config.usb_keys import show
from usb_active.errors import UsageError, name_some, nearest, plain, printable
from usb_active.report.tables import code, escape, table
from usb_active.storage.path_texts import name_problem, path_problem
from usb_active.storage.paths import is_url
from usb_active.storage.spreadsheet import cell, escaped, text_cell, unescaped
from usb_active.storage.yaml_input import MAX_BYTES, apply_overrides, find_yaml, parse_yaml, read_yaml

BOMB = fuzz_yaml._bomb("a")


# --- YAML -------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("2024-13-01", "'2024-13-01' is read as a date and is none; put it in quotes if it is a text"),
        ("!!int foo", "'foo' is read as an integer and is none"),
        ("!!int ''", "'' is read as an integer and is none"),
        ("!!float x", "'x' is read as a number and is none"),
        ("!!timestamp x", "'x' is read as a date and is none"),
        ("!!bool x", "'x' is read as true or false and is none"),
        ("!!binary a", "failed to decode base64 data"),
        ("9" * 5000, "a number of 5000 characters (9999999999999999999…)"),
        ("1" + "0" * 400, "a number of 401 characters"),
        ("1:" + "0:" * 100_000 + "0", "a number of 200003 characters"),
        ("9223372036854775808", "the integer 9223372036854775808 is beyond 64 bits"),
        ("0x" + "f" * 20, "beyond 64 bits"),
        ("12:30", "YAML reads 12:30 as a number to the base of 60"),
        ("[" * 3000, "more than 50 levels"),
        ("&a [*a]", "the alias 'a' stands inside what it stands for"),
        ("&a {<<: *a}", "the alias 'a' stands inside what it stands for"),
        ("[" + "1," * 40_000 + "]", "more than 30000 keys and values"),
        ("!!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("!" + "t" * 500 + " 1", "could not determine a constructor for the tag '!ttt"),
        ("*" + "t" * 500, "found undefined alias"),
    ],
)
def test_values_that_cannot_be_read_are_one_line_at_once(value, said):
    started = time.process_time()
    with pytest.raises(UsageError) as caught:
        parse_yaml(f"x: {value}", "c.yaml")
    message = str(caught.value)
    assert message.startswith("c.yaml, line 1, column ") and said in message and "\n" not in message and not fuzz_yaml.faults_of(message)
    with pytest.raises(UsageError, match="^--set a"):
        apply_overrides({}, [f"a={value}"])
    assert time.process_time() - started < 4


@pytest.mark.parametrize("text", [BOMB, fuzz_yaml._merges(), "- " * 3000, "? " * 3000], ids=["aliases", "merges", "lists", "keys"])
def test_documents_that_grow_without_bounds_are_refused_at_once(text):
    started = time.process_time()
    with pytest.raises(UsageError, match="this is no configuration"):
        parse_yaml(text, "c.yaml")
    assert time.process_time() - started < 2


def test_what_is_allowed_still_is():
    assert parse_yaml("a: &x {p: 1, q: [1, 2]}\nb: [*x, *x]\nc: {<<: *x, p: 3}", "t")["c"] == {"p": 3, "q": [1, 2]}
    assert parse_yaml("a: 9223372036854775807\nb: -9223372036854775808\nc: 1e-3\nd: 2024-12-31\ne: '12:30'", "t")["e"] == "12:30"
    assert len(parse_yaml("names: [" + ", ".join(f"n{i:05d}" for i in range(21_841)) + "]", "t")["names"]) == 21_841


def test_large_and_odd_files_are_refused(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("a: b\n" + "#" * MAX_BYTES)
    with pytest.raises(UsageError, match="larger than 1,000,000 bytes"):
        read_yaml(path)
    path.write_bytes(b"a: \xff")
    with pytest.raises(UsageError, match="cannot be read: invalid start byte at byte 3; it must be UTF-8"):
        read_yaml(path)
    for name in ("x" * 5000, "a\0b", str(tmp_path), "/dev/zero"):
        with pytest.raises(UsageError) as caught:
            find_yaml(name)
        assert "no packaged configuration has this name" in str(caught.value) and len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", ["yes", "no", "on", "null", "~", "3", "2024-01-01", "1.5"])
def test_a_class_that_is_no_text_is_to_be_put_in_quotes(tmp_path, capsys, name):
    data = run_helpers.settings(tmp_path)
    data["dataset"] = {"name": "image_folder", "class_names": "HERE"}
    path = tmp_path / "c.yaml"
    run_helpers.write_yaml(path, data)
    path.write_text(path.read_text().replace("HERE", f"[{name}, other]"))
    assert cli.main(["check", str(path)]) == 2
    assert "put it in quotes, as in '" in capsys.readouterr().err


# --- messages ---------------------------------------------------------------------------------------------------------------
def test_values_in_messages_are_short_and_without_control_characters():
    assert plain("a\x1b[31m\n\u202eb\u2028é字") == "a\\x1b[31m\\n\\u202eb\\u2028é字"
    assert printable("x" * 81) == "x" * 79 + "…" and printable("x" * 80) == "x" * 80
    assert printable(Path("a\tb")) == "a\\tb" and printable("\x00" * 10**6).endswith("…")
    assert show("\u202ea") == r"'\u202ea'" and len(show(10**5000)) < 80 and len(show([10**5000])) < 80 and len(show("q" * 10**6)) == 60
    assert name_some(["a\nb", "q" * 200]) == "a\\nb, " + "q" * 79 + "…"
    assert nearest("q" * 10_000, ["a"]) == "; known: a" and nearest("x\x1bx", ["x\x1by"]) == "; did you mean 'x\\x1by'?"


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "q" * 3000],
        ["check", "quickstart", "--set", "q" * 3000],
        ["check", "quickstart", "--set", "q" * 3000 + "=1"],
        ["check", "quickstart", "--set", "algorithm=" + "q" * 3000],
        ["check", "quickstart", "--set", "active.acquisition=" + "q" * 3000],
        ["check", "quickstart", "--set", "active.acquisition={name: margin, " + "q" * 3000 + ": 1}"],
        ["check", "quickstart", "--set", 'optim="\\e[31m"'],
        ["check", "quickstart", "--set", 'dataset="\\u202Ex"'],
        ["check", "quickstart", "--set", 'data_dir="a\\nusb-active: fine"'],
        ["check", "quickstart", "--set", "data_dir=" + "q" * 5000],
        ["check", "quickstart", "--set", "save_dir=" + "q" * 300],
        ["check", "quickstart", "--set", 'active.prior={name: file, path: "a\\0b"}'],
        ["check", "quickstart", "--set", 'plugins=["' + "q" * 5000 + '.py"]'],
        ["labels", "q\x1b[31m"],
    ],
)
def test_commands_echo_no_more_than_they_may(arguments, capsys):
    assert cli.main(arguments) == 2
    err = capsys.readouterr().err
    lines = err.splitlines()
    assert lines and all(line.startswith("usb-active: error: ") for line in lines) and len(err) < 2000
    assert not [fault for fault in fuzz_yaml.faults_of(err) if arguments[1] != "q" * 3000 or "80 characters" not in fault]


# --- names and paths --------------------------------------------------------------------------------------------------------
def test_save_name_is_a_name(tmp_path, capsys):
    for name in ("", ".", "..", "a/b", "../x", "/abs", "a\\b", "a\nb", "\x1b[0m", " a", "a ", "q" * 300):
        assert name_problem(name), name
    for name in ("a", "run 1", "a:b?", ".hidden", "Ünï", "q" * 255, "=1+1"):
        assert not name_problem(name), name
    yaml = run_helpers.write_yaml(tmp_path / "c.yaml", run_helpers.settings(tmp_path, "../outside"))
    assert cli.main(["run", str(yaml)]) == 2
    assert "save_name: is a name, not a path (../outside); the folder goes into save_dir" in capsys.readouterr().err
    assert not (tmp_path.parent / "outside").exists()


def test_pretrain_path_is_no_url(tmp_path, capsys):
    for url in ("http://a/b.pth", "https:/a/b.pth", "ftp://x", "s3://b/k", "HTTPS://X"):
        assert is_url(url)
        data = run_helpers.settings(tmp_path, use_pretrain=True, pretrain_path=url)
        assert cli.main(["check", str(run_helpers.write_yaml(tmp_path / "c.yaml", data))]) == 2
        assert f"pretrain_path: nothing is downloaded ('{url}'); fetch the file" in capsys.readouterr().err
    assert not any(map(is_url, ("a/b.pth", "/a:b/c", "C:/weights", "./http/x", "c:\\x")))
    assert path_problem("a\0b") and path_problem("x" * 300) and path_problem("/".join(["x"] * 3000)) and not path_problem("~/ok.pth")


# --- spreadsheets -----------------------------------------------------------------------------------------------------------
CELLS = ("=1+1", "@SUM(A1).png", "+1", "-5", "\t=1", "'=1", "''=1", "  =1", "'", "a=1", "", "\r", "＝1", "-", "''", "' a")


@pytest.mark.parametrize("text", CELLS)
def test_cells_are_no_formulas_and_come_back(text):
    cell = escaped(text)
    assert unescaped(cell) == text
    assert cell[:1] not in set("=+-@\t\r＝") and not (cell != text and cell[0] != "'")


def test_predictions_and_labels_are_escaped_and_numbers_are_not(tmp_path):
    from usb_active.commands.labels import write_csv
    from usb_active.records import LABELED, LabelRow
    from usb_active.storage.run_dir import RunDir

    with RunDir.open(tmp_path / "run", {}) as run:
        run.append_rows([LabelRow(0, 1, "@SUM(A1).png", "=1+1", LABELED, "-method", "")])
    assert (tmp_path / "run" / "labels.csv").read_text().splitlines()[1] == "0,1,@SUM(A1).png,=1+1,labeled,-method,", "the journal stays"
    out = io.StringIO()
    write_csv(tmp_path / "run", out)
    assert list(csv.reader(io.StringIO(out.getvalue())))[1] == ["0", "1", "'@SUM(A1).png", "'=1+1", "labeled", "'-method", ""]


# --- Markdown ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", r"a\|b"),
        ("![x](http://example.com/x.png)", r"!\[x\](http\://example.com/x.png)"),
        ("<img src=x onerror=y>", "&lt;img src=x onerror=y>"),
        ("`rm`", r"\`rm\`"),
        ("_a_ b_c __d__", r"\_a\_ b_c \_\_d\_\_"),
        ("**b** ~~s~~", r"\*\*b\*\* \~\~s\~\~"),
        ("&lt; a & b", "&amp;lt; a & b"),
        ("# h", r"\# h"),
        ("1. x", r"1\. x"),
        ("50.00 (1)", "50.00 (1)"),
        ("-1", "-1"),
        ("www.example.com", r"www\.example.com"),
        ("a\nb\x1b\u202e", r"a b\\x1b\\u202e"),
    ],
)
def test_markdown_shows_texts_as_they_are(text, shown):
    assert escape(text) == shown


def test_keys_of_settings_are_code_whatever_they_hold():
    assert code("a`b|c") == r"``a`b\|c``"
    assert table(["setting"], [[code("lr")]]).splitlines()[-1] == "| `lr` |"


# --- the standard output ----------------------------------------------------------------------------------------------------
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["list"], ["--help"], ["--version"], ["list", "oracle"]])
def test_an_output_that_takes_nothing_is_one_line(arguments, unbuffered):
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "usb_active", *arguments],
            stdout=full, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )  # fmt: skip
    if unbuffered and arguments[0].startswith("--"):
        # argparse itself passes over what it cannot print.
        assert ended.stderr == ""
        return
    assert (ended.returncode, ended.stderr) == (2, "usb-active: error: cannot write the standard output: No space left on device\n")


def test_a_reader_that_goes_away_is_no_error():
    process = subprocess.Popen([sys.executable, "-m", "usb_active", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == ("", 0)


# --- fuzz: small here, large by the modules themselves ------------------------------------------------------------------------
def test_mutated_yamls(tmp_path):
    counts = fuzz_yaml.run(250, 7, tmp_path)
    assert counts["refused"] > 150 and counts["taken"] > 5 and counts["tracebacks"] == 0
    assert fuzz_yaml.run_commands(2, 8, tmp_path)["refused"] == 2


def test_mutated_label_files(tmp_path):
    counts = fuzz_labels.run(120, 7, tmp_path)
    assert counts["refused"] > 50 and counts["taken"] > 50 and counts["misread"] == counts["tracebacks"] == 0


@pytest.mark.parametrize("text", ["\t=x", "=1\t+1", "\r@x", "a\tb", "'\t'=x", "=1\n=2"])
def test_what_is_read_back_is_the_cell(text):
    assert unescaped(text_cell(text)) == cell(text) != text
