"""The ledger's outbox: a row for each effect that happened, and nothing that would hide a second one."""

from dataclasses import dataclass

from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, insert, select

STEPS = ("first", "second")

metadata = MetaData()
effects = Table(
    "effects",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("occurrence", String, nullable=False, index=True),
    Column("step", String, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("token", Integer, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Effect:
    occurrence: str
    step: str
    attempt: int
    token: int


def write(tx: Connection, effect: Effect) -> None:
    row = {
        "occurrence": effect.occurrence,
        "step": effect.step,
        "attempt": effect.attempt,
        "token": effect.token,
    }
    tx.execute(insert(effects).values(row))


def effects_of(tx: Connection, occurrence: str) -> set[str]:
    return set(tx.execute(select(effects.c.step).where(effects.c.occurrence == occurrence)).scalars())


def all_effects(tx: Connection) -> list[Effect]:
    query = select(effects.c.occurrence, effects.c.step, effects.c.attempt, effects.c.token)
    return [Effect(*row) for row in tx.execute(query)]
