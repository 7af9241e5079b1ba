"""From SQL to files: what `resnextq results` prints or writes, in the order of submission.

choice    which images: the user's options, checked
window    SQL → rows, a window of positions at once, as plain tuples
rows      the columns of a row, labels and titles, and a row as a record
jsonl, table, parquet
          rows → bytes, one file per format; formats has the interface for all
sinks     where the bytes go: standard output, a file, an object
folder    many parts by position, which an interrupted export resumes
input     the submitted list read again, its columns beside the answers
follow    images as they finish, until the job is finished
export    puts all of it together; the command calls it
"""
