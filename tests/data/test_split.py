"""The split is decided by content alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylora.data.split import default_held_out, judged_by, split, without_duplicates
from raylora.errors import UserError


@dataclasses.dataclass(frozen=True)
class Thing:
    id: str
    of: str = ""

    @property
    def group(self) -> str:
        return self.of or self.id


ids = st.lists(st.text("0123456789abcdef", min_size=1, max_size=8), min_size=2, max_size=60, unique=True)


def things(names: Sequence[str]) -> list[Thing]:
    return [Thing(name) for name in names]


@settings(deadline=None)
@given(ids, st.randoms(use_true_random=False), st.data())
def test_only_content_decides(names: list[str], random: object, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(names) - 1))
    train, held_out = split(things(names), count)
    shuffled = data.draw(st.permutations(names))
    assert split(things(shuffled), count)[1] == held_out
    assert {one.id for one in train} | {one.id for one in held_out} == set(names)
    assert len(held_out) == count and not set(train) & set(held_out)
    assert list(train) == [one for one in things(names) if one in train]


@settings(deadline=None)
@given(ids, st.text("0123456789abcdef", min_size=9, max_size=9), st.data())
def test_one_more_example_moves_nobody_else(names: list[str], new: str, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(names) - 1))
    _, before = split(things(names), count)
    _, after = split([*things(names), Thing(new)], count)
    if Thing(new) in after:
        assert tuple(one for one in after if one != Thing(new)) == before[:-1]
    else:
        assert after == before


@settings(deadline=None)
@given(ids, st.data())
def test_fewer_held_out_are_the_first_of_more(names: list[str], data: st.DataObject) -> None:
    more = data.draw(st.integers(1, len(names) - 1))
    fewer = data.draw(st.integers(1, more))
    assert split(things(names), fewer)[1] == split(things(names), more)[1][:fewer]


def test_defaults() -> None:
    counts = (2, 3, 10, 16, 64, 100, 300, 640, 5000)
    assert [default_held_out(count) for count in counts] == [1, 1, 5, 8, 8, 10, 30, 64, 64]
    assert len(split(things([str(n) for n in range(64)]), None)[1]) == 8


def test_copies_are_left_out() -> None:
    unique, notes = without_duplicates(things(["a", "b", "a", "c", "b"]))
    assert [one.id for one in unique] == ["a", "b", "c"]
    assert notes == ["2 examples are copies of others and are left out"]
    assert without_duplicates(unique) == (unique, [])
    train, held_out = split(things(["a", "b", "a"]), 1)
    assert len(train) == len(held_out) == 1


@pytest.mark.parametrize(("names", "held_out"), [([], None), (["a", "a"], None), (["a", "b"], 2), ([], 0)])
def test_too_few(names: list[str], held_out: int | None) -> None:
    with pytest.raises(UserError) as caught:
        split(things(names), held_out)
    assert caught.value.problems[0].hint


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 50)), min_size=1, max_size=40, unique=True), st.data())
def test_captions_of_one_picture_stay_together(pairs: list[tuple[int, int]], data: st.DataObject) -> None:
    examples = [Thing(f"{picture}-{caption}", str(picture)) for picture, caption in pairs]
    pictures = {one.of for one in examples}
    if len(pictures) < 2:
        return
    count = data.draw(st.integers(1, len(pictures) - 1))
    train, held_out = split(examples, count)
    assert not {one.of for one in train} & {one.of for one in held_out}
    assert len({one.of for one in held_out}) == count and {*train, *held_out} == set(examples)
    assert split(data.draw(st.permutations(examples)), count)[1] == held_out


def test_nothing_held_out() -> None:
    examples = things([str(number) for number in range(20)])
    train, judges = split(examples, 0)
    assert list(train) == examples
    assert len(judges) == default_held_out(20) and set(judges) <= set(train)
    assert judges == split(examples, None)[1]
    assert split(things(["a"]), 0) == ((Thing("a"),), (Thing("a"),))


def test_examples_that_are_given_to_judge_by() -> None:
    """They are never learnt, whoever else has them; which ones are taken depends on their content alone."""
    given = things(["d", "e", "f", "d"])
    train, held_out, notes = judged_by(things(["a", "d", "b", "a"]), given, None)
    assert [one.id for one in train] == ["a", "b"] and {one.id for one in held_out} == {"d", "e", "f"}
    assert notes == ["not learnt, as they are among the examples to judge by: 1"]
    _, two, _ = judged_by(things(["a"]), given[::-1], 2)
    assert [one.id for one in two] == [one.id for one in held_out[:2]]
    many = things([str(number) for number in range(100)])
    assert len(judged_by(things(["a"]), many, None)[1]) == 64 and len(judged_by(things(["a"]), many, 100)[1]) == 100


@pytest.mark.parametrize(
    ("train", "given", "held_out", "key"),
    [
        (["a"], ["a", "b"], None, "train_data_dir"),
        (["a"], ["b"], 2, "validation_examples"),
        (["a"], [], None, "validation_examples"),
    ],
)
def test_nothing_left_on_one_side(train: list[str], given: list[str], held_out: int | None, key: str) -> None:
    with pytest.raises(UserError) as caught:
        judged_by(things(train), things(given), held_out)
    assert caught.value.problems[0].key == key and caught.value.problems[0].hint
