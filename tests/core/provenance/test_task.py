"""What a task names, and what merely occurs in it; dates in their spellings."""

import pytest

from mcp_guard.core.model import Task
from mcp_guard.core.provenance.dates import Day, as_date, find_dates
from mcp_guard.core.provenance.matching import is_distinctive, plain
from mcp_guard.core.provenance.task import TaskText

TASK = TaskText.of(
    Task(
        text="Please send the 'weekly' report to Anna and bob@corp.example. Spotify wrote about file 13 (June 13): see "
        "#general, order no. 42, the kick-off of the Blue Team, notes_2.txt and CA13 3012 4002 3121 5421 872"
    )
)


@pytest.mark.parametrize("value", [
    "weekly", "Anna", "bob@corp.example", "general", "42", "Blue Team", "notes_2.txt", "CA133012400231215421872",
    "2027-06-13", "June 13, 2027", "order no. 42",
])  # fmt: skip
def test_task_names_what_stands_out_in_it(value: str) -> None:
    assert TASK.names(plain(value))
    assert TASK.mentions(plain(value))


@pytest.mark.parametrize("value", ["report", "13", "send", "june", "the", "kick-off", "please"])
def test_task_only_mentions_plain_words_and_short_numbers(value: str) -> None:
    assert not TASK.names(value)
    assert TASK.mentions(value)


@pytest.mark.parametrize("value", ["corp.example", "ann", "2026-07-13", "1", "weekly report"])
def test_task_does_not_mention_parts_of_other_values(value: str) -> None:
    assert not TASK.mentions(value)


def test_plain_words_name_a_record_and_no_destination() -> None:
    assert not TASK.names("wrote about file")
    assert TASK.names_title("wrote about file")
    assert TASK.names_title("anna")
    assert not TASK.names_title("wrote")


@pytest.mark.parametrize("spelt", ["ANNA", "Anna\u200b", "Ａnna"])
def test_name_in_another_spelling_may_be_another_name(spelt: str) -> None:
    assert TASK.names("anna", spelt="Anna")
    assert not TASK.names(plain(spelt), spelt=spelt)
    assert TASK.names("bob@corp.example", spelt="BOB@corp.example")


def test_page_does_not_vouch_for_its_host() -> None:
    task = TaskText.of(Task(text="Read www.corp.example/anna and https://our.example."))
    assert task.names("our.example", spelt="our.example")
    assert task.names("www.corp.example/anna", spelt="www.corp.example/anna")
    assert not task.names("www.corp.example", spelt="www.corp.example")


def test_numbers_within_dates_times_and_names_are_no_amounts() -> None:
    text = "bill-december-2023.txt of March 2022, due on May 4th, 2024 or 2024-05-19 at 12:30: 12.00 and 1,200 of #7"
    assert TaskText.of(Task(text=text)).numbers == {12, 1200}


def test_name_at_the_start_of_a_sentence_counts_if_a_trusted_place_knows_it() -> None:
    assert not TASK.names("spotify")
    assert TASK.names("spotify", is_known=True)
    assert not TASK.names("june", is_known=True)


@pytest.mark.parametrize(("value", "expected"), [
    ("a@b.example", True), ("123456", True), ("12345", False), ("a1b2c", True), ("a-b", False), ("check-up", False),
    ("team-building-notes", True), ("don't", False), ("new york city", True), ("for me", False), ("word", False),
])  # fmt: skip
def test_distinctive_values_are_long_rare_or_of_a_telling_type(value: str, expected: bool) -> None:
    assert is_distinctive(value) is expected


@pytest.mark.parametrize(("text", "days"), [
    ("from january 11th to january 15th 2025", [Day(1, 11), Day(1, 15, 2025)]),
    ("from the 13th to the 17th of may 2024", [Day(5, 17, 2024), Day(5, 13, 2024)]),
    ("on 2024-05-19 at 12:00, 3 sept. 2024", [Day(5, 19, 2024), Day(9, 3, 2024)]),
    ("maybe in may, chapter 2, 2024-13-40, 12/05/2024", []),
])  # fmt: skip
def test_dates_are_found_in_words_and_in_iso(text: str, days: list[Day]) -> None:
    assert find_dates(text) == days


def test_only_a_value_that_is_a_date_as_a_whole_is_one() -> None:
    assert as_date("2024-05-19t12:00:00z") == as_date("19 may 2024") == Day(5, 19, 2024)
    assert as_date("on 2024-05-19") is None
