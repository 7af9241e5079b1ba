"""From sources to rows: files, lists and folders of URIs come in, and one job in SQL goes out.

The command line calls `submission.submit`. It checks the URIs, cuts them into chunks, and commits
either all of them or none.
"""
