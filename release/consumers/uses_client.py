"""A program that uses the client. It runs in a clean environment; `mypy --strict` checks it."""

from __future__ import annotations

from resnextq import Client, Job, JobStatus, ServerUnavailable


def classify(client: Client, uris: list[str]) -> dict[str, str | None]:
    job: Job = client.submit(uris, name="pets", tags={"team": "search"})
    status: JobStatus = job.wait(timeout=60, progress=False)
    found = {one.uri: one.top5[0].label if one.top5 else None for one in job.results()}
    assert len(found) <= status.total
    return found


def main() -> None:
    client = Client("http://127.0.0.1:1", key="k", timeout_s=1.0)
    try:
        classify(client, ["https://a.example/1.jpg"])
    except ServerUnavailable as error:
        print(error)


if __name__ == "__main__":
    main()
