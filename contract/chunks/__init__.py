"""A chunk's life: its states, every move between them, and the rows that a move writes.

Submit, dispatcher, worker and `retry` decide when to make a move; this package knows how. Nothing
else writes `chunks`, `results`, `tallies` or `class_counts`.

    state     the states, and the table of moves in docs/chunk-life.md
    fence     which run of which chunk a statement may change
    later     images of a chunk that wait for different times, and their attempts
    faults    errors in this program that runs of chunks meet at the moment
    results   the only writer of `results`, `tallies` and `class_counts`
    insert, dispatch, run, reap, end, retry
              the moves of submit, dispatcher, worker, dispatcher, dispatcher, user
    remove    deletes all rows of a job, in parts
"""
