"""The check of every executed statement finds the faults that it is for."""

from __future__ import annotations

from sqlalchemy import bindparam, select, update

from contract.database.tables import chunk_uris, chunks, jobs
from tests.statements import faults_of


def test_a_subquery_in_returning_that_compares_a_column_with_itself_is_found() -> None:
    refs = select(chunk_uris.c.refs).where(chunk_uris.c.chunk == chunks.c.chunk).scalar_subquery()
    assert any("chunk" in fault for fault in faults_of(update(chunks).returning(refs)))


def test_a_column_compared_with_itself_is_found_on_both_databases() -> None:
    statement = select(jobs.c.id).where(jobs.c.number == jobs.c.number)
    assert len(faults_of(statement)) == 2


def test_a_join_and_a_parameter_are_no_faults() -> None:
    joined = select(chunks.c.chunk).join(chunk_uris, chunk_uris.c.chunk == chunks.c.chunk)
    assert faults_of(joined) == []
    assert faults_of(select(jobs.c.id).where(jobs.c.number == bindparam("number"))) == []
