"""A chunk's life: its states, every move between them, and the rows that a move writes.

Submit, dispatcher, worker and `retry` decide when a move is made; this room knows how. Nothing
else writes `chunks`, `results`, `tallies` or `class_counts`.

    state     the states, and the table of moves in docs/design.md
    fence     which run of which chunk a statement may change
    later     images of a chunk that wait for different times, and the attempts they have had
    faults    which faults of this program runs meet at the moment
    results   the only writer of `results` and `tallies`
    insert, dispatch, run, reap, end, retry
              the moves, by who makes them: submit, dispatcher, worker, dispatcher, dispatcher, user
"""
