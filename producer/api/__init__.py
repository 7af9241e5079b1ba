"""The HTTP API: keys, jobs, results and their changes as they happen; `resnextq serve` runs it.

`app` joins the parts. `access` lets in who has a key, `problems` says what went wrong, `jobs`,
`results` and `events` have the endpoints, and `watch` looks at jobs once for all who wait for them.
"""
