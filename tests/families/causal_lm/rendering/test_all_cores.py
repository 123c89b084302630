"""Chats tokenised by several processes are what one makes of them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from raylora.data.examples import ChatExample, TextExample
from raylora.errors import UserError
from raylora.families.causal_lm.rendering import all_cores
from raylora.families.causal_lm.rendering.all_cores import AllCores
from raylora.families.causal_lm.tokenizer import ChatTokens
from tests.families.causal_lm.rendering.test_usable import CALL, TOOLS
from tests.families.causal_lm.tiny_lm import tiny_tokenizer

CHATS = [
    *(ChatExample(f"{at}", (("user", f"what is {at}?"), ("assistant", f"it is {at}."))) for at in range(300)),
    ChatExample("tools", CALL),
    TextExample("text", "some words to go on with", learnt_from=5),
]


@pytest.fixture(scope="module")
def pool() -> Iterator[AllCores]:
    """Two processes, as they are started where there is much to do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(all_cores, "MANY", 100)
        made = AllCores(ChatTokens(tiny_tokenizer(TOOLS), "here"), cores=2)
        made.encode(CHATS[:100], 100)
        yield made
        made.close()


def processes(pool: AllCores) -> list[int]:
    return list(pool._pool._processes) if pool._pool is not None else []


def test_several_processes_make_the_tensors_of_one(pool: AllCores) -> None:
    alone = ChatTokens(tiny_tokenizer(TOOLS), "here").encode(CHATS, 100)
    together = pool.encode(CHATS, 100)
    assert len(processes(pool)) == 2
    for one, other in zip(alone, together, strict=True):
        assert one.keys() == other.keys()
        assert all(one[name].dtype == other[name].dtype and one[name].equal(other[name]) for name in one)


def test_all_that_cannot_be_encoded_is_told_at_once(pool: AllCores) -> None:
    silent = [ChatExample(f"silent {at}", (("user", "a"),), where=f"chats.jsonl:{at}") for at in (1, 2)]
    with pytest.raises(UserError) as caught:
        pool.encode([silent[0], *CHATS, silent[1]], 100)
    assert [problem.where for problem in caught.value.problems] == ["chats.jsonl:1", "chats.jsonl:2"]


def test_a_process_that_ends_costs_the_help_of_the_others_and_nothing_else(pool: AllCores) -> None:
    wanted = pool.encode(CHATS, 100)
    os.kill(processes(pool)[0], signal.SIGKILL)
    found = pool.encode(CHATS, 100)
    assert not processes(pool)
    assert all(one[name].equal(other[name]) for one, other in zip(wanted, found, strict=True) for name in one)


def test_few_chats_start_no_processes() -> None:
    few = AllCores(ChatTokens(tiny_tokenizer(TOOLS), "here"), cores=2)
    few.encode(CHATS[:50], 100)
    assert not processes(few)
