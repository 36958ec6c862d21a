"""What the measurement of searches rests on: the sections of the documentation, and the figures made of what was found."""

from pathlib import Path

import pytest

from bench.collection import Section, documented_python
from bench.figures import interval, recall, reciprocal

PAGE = """<html><body><nav>elsewhere</nav><div role="main"><section id="top"><h1>{title}<a class="headerlink">¶</a></h1>
<nav class="contents"><ul><li>{heading}</li></ul></nav>{words}
<section id="inner"><span id="old"></span><h2>{heading}<a class="headerlink">¶</a></h2>
<p>Use <em>copies</em>.</p><pre>a = b
c</pre></section></section></div></body></html>"""


def documentation(folder: Path) -> Path:
    for part, title, words in (("faq", "Programming FAQ", ""), ("tutorial", "Lists", "<p>All about lists.</p>")):
        (folder / part).mkdir()
        (folder / part / "page.html").write_text(PAGE.format(title=title, heading="How do I copy?", words=words), "utf-8")
    (folder / "faq" / "index.html").write_text("<title>FAQ — Python 3.11.2 documentation</title>")
    return folder


def test_a_question_of_the_faq_is_asked_and_is_in_none_of_the_texts_but_where_others_have_it(tmp_path: Path) -> None:
    of = documented_python(documentation(tmp_path))
    assert of.version == "3.11.2"
    assert of.questions == {"How do I copy?": {"faq/page#inner"}}
    [asked] = [section for section in of.sections if section.question]
    assert asked.text == "Use copies.\n\n```\na = b\nc\n```"


def test_other_sections_begin_with_the_headings_above_them_and_have_nothing_of_those_below(tmp_path: Path) -> None:
    of = documented_python(documentation(tmp_path))
    assert [section for section in of.sections if section.id.startswith("tutorial")] == [
        Section("tutorial/page#top", "Lists", "# Lists\n\nAll about lists.", False, frozenset({"top"})),
        Section(
            "tutorial/page#inner",
            "How do I copy?",
            "# Lists\n\n## How do I copy?\n\nUse copies.\n\n```\na = b\nc\n```",
            False,
            frozenset({"inner", "old"}),
        ),
    ]


def test_an_entry_of_the_index_has_the_words_of_the_lines_above_it_and_all_sections_that_its_links_point_at(tmp_path: Path) -> None:
    folder = documentation(tmp_path)
    lines = """<table class="indextable"><tr><td><ul><li>copy<ul>
      <li><a href="tutorial/page.html#old">of a list</a>, <a href="faq/page.html#inner">[1]</a></li></ul></li>
      <li><a href="tutorial/page.html#top">!=</a>, <a href="library/page.html#top">[1]</a></li></ul></td></tr></table>"""
    (folder / "genindex-C.html").write_text(lines)
    assert documented_python(folder).entries == {
        "copy of a list": {"tutorial/page#inner", "faq/page#inner"},
        "!=": {"tutorial/page#top"},
    }


def test_a_folder_without_documentation_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        documented_python(tmp_path)


def test_recall_is_the_share_of_the_answers_among_the_first_ten_and_counts_a_document_once() -> None:
    answers = frozenset({"a", "b"})
    assert recall(["a", "x", "a"], answers) == 0.5
    assert recall(["x", "b", "a"], answers) == 1
    assert recall([*"0123456789", "a"], answers) == 0


def test_the_reciprocal_rank_is_that_of_the_first_answer() -> None:
    answers = frozenset({"a", "b"})
    assert reciprocal(["x", "b", "a"], answers) == 0.5
    assert reciprocal([*"0123456789", "a"], answers) == 0


def test_the_interval_lies_around_the_mean_and_narrows_with_more_questions() -> None:
    few, many = interval([0.0, 1.0] * 20), interval([0.0, 1.0] * 2000)
    assert few[0] < many[0] < 0.5 < many[1] < few[1]
    assert interval([0.25] * 30) == (0.25, 0.25)
