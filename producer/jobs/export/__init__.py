"""From SQL to files: what `resnextq results` prints or writes, in the order of submission.

choice    which images: options of the user, checked
window    SQL → rows, a window of positions at once, as plain tuples
rows      what a row holds, labels and titles, and a row as a record
jsonl, table, parquet
          rows → bytes, one file a format; formats has one face for all
sinks     where the bytes go: standard output, a file, an object
folder    many parts by position, which an interrupted export resumes
lists     the submitted list once more, however it is written
input     its columns, beside the answers
follow    images as they settle, until the job is finished
export    all of it together: called by the command
"""
