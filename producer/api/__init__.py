"""The HTTP API: keys, jobs, results, and events as jobs change. `resnextq serve` runs it.

`app` joins the parts. `access` checks keys, `problems` reports errors, and `jobs`, `results` and
`events` have the endpoints. `watch` reads jobs once for all clients that wait for them.
"""
