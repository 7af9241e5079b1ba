"""The client of resnext-queue's HTTP API: submit images, follow the job, read the answers.

from resnextq import Client

client = Client("http://127.0.0.1:8080", key="rnq_…")
job = client.submit(["https://example.org/cat.jpg"], name="pets")
job.wait()
for result in job.results():
print(result.uri, result.top5[0].label if result.top5 else result.error)
"""

from resnextq.client import Client
from resnextq.errors import (
    Conflict,
    Error,
    Forbidden,
    NotFound,
    Refused,
    ServerUnavailable,
    TimedOut,
    TooManyRequests,
)
from resnextq.job import Job
from resnextq.shapes import (
    ClassCount,
    ErrorCount,
    Failure,
    Guess,
    JobStatus,
    Result,
    Retried,
    Thumbnail,
)

__version__ = "0.1.0"
__all__ = [
    "ClassCount",
    "Client",
    "Conflict",
    "Error",
    "ErrorCount",
    "Failure",
    "Forbidden",
    "Guess",
    "Job",
    "JobStatus",
    "NotFound",
    "Refused",
    "Result",
    "Retried",
    "ServerUnavailable",
    "Thumbnail",
    "TimedOut",
    "TooManyRequests",
]
