"""The commands about what is served: workers, models. `producer.cli.main` has them."""

# ruff: noqa: PLC0415  (a command imports what it needs when it runs, see `main`)
# ruff: noqa: T201  (results go to standard output)

from __future__ import annotations

from producer.cli.environment import open_database, read_settings
from producer.cli.options import JsonOption
from producer.cli.output import show, tell


def workers(as_json: JsonOption = False) -> None:
    """List the workers that live: queue, device, images/s, and since when."""
    from contract.database.engine import reading
    from producer.jobs.served import workers as live
    from producer.jobs.served import workers_as_json

    settings = read_settings()
    with open_database(settings) as engine, reading(engine) as connection:
        found = live(connection, settings.lease_s)
    if as_json:
        import json

        print(json.dumps(workers_as_json(found)))
    elif found:
        from producer.cli.render.served import render_workers

        show(render_workers(found))
    else:
        tell("No worker lives; start one with `resnextq worker`.")


def models(as_json: JsonOption = False) -> None:
    """List the models that jobs ask for and workers serve, each with its live workers."""
    from contract.database.engine import reading
    from producer.jobs.served import models as asked_for
    from producer.jobs.served import models_as_json

    settings = read_settings()
    with open_database(settings) as engine, reading(engine) as connection:
        found = asked_for(connection, settings.lease_s)
    if as_json:
        import json

        print(json.dumps(models_as_json(found)))
    elif found:
        from producer.cli.render.served import render_models

        show(render_models(found))
    else:
        tell("No job has asked for a model yet; `resnextq submit` makes one.")
