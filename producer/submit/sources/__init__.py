"""From SOURCE arguments to one stream of images, in order. Memory does not grow with it.

`read.read_runs` looks at every source, then reads them in sequence. `opening` opens files, standard
input and objects of a store, and decompresses gzip and zstd. `kind` decides by the first bytes how
a list is written; `text`, `table`, `json_lines`, `json_array` and `parquet` read it. `walk` finds
the images of folders and the matches of a pattern, `buckets` those of object stores. `entry`
defines the results: plain URIs in runs, other URIs one by one, and lines without a URI.
`producer.submit.check` decides which are accepted.
"""
