"""Sequences in the ledger: steps are uses of a counter (`core.sequences`), added by the transactions that settle them.

What is counted as started is added with the intent, so that it is given back if the call was not sent; what succeeded
with the outcome; what was denied with the refusal, or with the vote that denies the request.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import partial

from mcp_guard.core import sequences
from mcp_guard.core.model import Call, Micros, SequenceRule, StepOutcome
from mcp_guard.core.rates import RecordedUse
from mcp_guard.ledger.writer import Transaction
from mcp_guard.ports import Conflict
from mcp_guard.storage.contract import Reads, Store


def read_sequences(store: Store, rules: Sequence[SequenceRule], call: Call, at: Micros) -> dict[str, bool]:
    """Whether the step of each sequence was taken before this call, at this time."""
    return {
        rule.name: sequences.is_taken(
            rule, [_has_step(store, rule, key, at) for key in sequences.asked_keys(rule, call)]
        )
        for rule in rules
    }


def reads_of(rules: Sequence[SequenceRule], call: Call, at: Micros) -> list[Reads]:
    """What `read_sequences` reads, side by side."""
    return [partial(_has_step, rule=rule, key=key, at=at) for rule in rules for key in sequences.asked_keys(rule, call)]


def _has_step(store: Store, rule: SequenceRule, key: str, at: Micros) -> bool:
    return store.sum_uses(sequences.counter_of(rule), key, sequences.since(rule, at)) > 0


def changed_sequence(
    tx: Transaction, rules: Sequence[SequenceRule], call: Call, counts: Mapping[str, int | Decimal], at: Micros
) -> Conflict | None:
    """Whether a step was taken, or taken back, since the decision; `at` is its time."""
    for name, is_taken in read_sequences(tx.store, rules, call, at).items():
        if is_taken is not counts.get(name):
            return Conflict(f"sequence `{name}` changed during the decision; repeat the call", rates_only=True)
    return None


def add_steps(tx: Transaction, rules: Sequence[SequenceRule], call: Call, outcome: StepOutcome) -> list[RecordedUse]:
    """Record the steps that the call takes with this outcome."""
    by_counter = {sequences.counter_of(rule): rule for rule in rules}
    added = []
    for counter, key in sequences.steps_of(rules, call, outcome):
        if by_counter[counter].window is not None:
            tx.store.forget_uses(counter, key, sequences.since(by_counter[counter], tx.now))
        added.append(tx.store.add_use(counter, key, tx.now, 1))
    return added
