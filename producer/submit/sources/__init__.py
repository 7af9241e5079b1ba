"""From SOURCE arguments to one stream of images, in order; memory does not grow with it.

`read.read_runs` looks at every source, then reads one after the other. A file of the disk, standard
input and an object of a store are opened by `opening`, which unpacks gzip and zstd; `kind` decides
by the first bytes how a list is written, and `text`, `table`, `json_lines`, `json_array` and
`parquet` read it. `walk` finds the images of folders and what a pattern names, `buckets` those of
object stores. What comes out is in `entry`: plain URIs in runs, others one by one, and lines that
hold no URI. `producer.submit.check` decides about them.
"""
