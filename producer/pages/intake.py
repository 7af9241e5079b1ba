"""Pasted text, dropped or chosen files → the images of a job, with the API's functions.

A file's first bytes decide what it is. Pictures are stored where workers can read them
(`RESNEXT_UPLOADS`). Anything else is read as a list.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator, Sequence
from typing import Final

from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile

from contract.errors import SourceError, UnavailableError
from producer.api.images import HOW_TO_TURN_ON
from producer.api.incoming import FIRST_BYTES, MOST_NAME_CHARS, ending_of
from producer.api.keys import Key
from producer.api.orders import intake_of, order_of
from producer.api.problems import Refused
from producer.api.service import Service
from producer.api.shapes import ListOptions
from producer.api.uploads import Picture, Uploads
from producer.pages.forms import lines_of, text_of
from producer.submit.sources.columns import Wanted
from producer.submit.sources.entry import Entry, Image
from producer.submit.sources.read import Reading, read_given
from producer.submit.submission import submit_entries

PASTED: Final = "the pasted text"
"""Its name in messages."""
# Form fields that are passed on as options of a list.
OPTIONS: Final = ("name", "priority", "column", "id_column", "on_invalid", "unique")


def begin_job(service: Service, key: Key, form: FormData) -> str:
    """Submits the images of a form. Returns the job's id.

    Raises:
        Refused: a value is invalid, or there are pictures but no place to keep them.
        ResnextQueueError: as in `submit_entries`.
    """
    options = _options(form)
    order = order_of(service.settings, options, key, None)
    files = [one for one in form.getlist("files") if isinstance(one, UploadFile) and one.size]
    images = _images(
        service, text_of(form, "list"), files, Wanted(options.column, options.id_column)
    )
    return submit_entries(service.engine, images, order, intake=intake_of(options)).job


def _options(form: FormData) -> ListOptions:
    """The options in a form.

    Raises:
        Refused: a value is invalid.
    """
    given = {name: value for name in OPTIONS if (value := text_of(form, name))}
    try:
        return ListOptions.model_validate(given | {"tag": lines_of(form, "tags")})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise Refused(422, f"{'.'.join(map(str, first['loc']))}: {first['msg']}.") from error


def _images(
    service: Service, pasted: str, files: Sequence[UploadFile], wanted: Wanted
) -> Iterator[Image]:
    """The images in a form.

    Raises:
        Refused: there are pictures but no place to keep them, or one is too large.
        SourceError: the form is empty, or a file is not a list.
    """
    if not pasted and not files:
        raise SourceError("There is nothing to classify: paste addresses, or drop a file.")
    pictures = [file for file in files if _ending(file)]
    yield from _kept(service, pictures)
    if pasted:
        yield from read_given(io.BytesIO(pasted.encode()), PASTED, Reading(Wanted()))
    for file in files:
        if file not in pictures:
            name = file.filename or "the file"
            yield from read_given(file.file, name, Reading(wanted))


def _kept(service: Service, pictures: Sequence[UploadFile]) -> Iterator[Entry]:
    if not pictures:
        return
    if service.uploads is None:
        raise Refused(422, HOW_TO_TURN_ON, code="uploads_off")
    try:
        uris, names = _keep(service.uploads, pictures, service.settings.max_image_bytes)
    except OSError as error:
        raise UnavailableError(
            f"Pictures cannot be kept in {service.uploads.where}: {error.strerror}."
        ) from error
    for n, (uri, name) in enumerate(zip(uris, names, strict=True)):
        yield Entry(uri, name, f"picture {n + 1}", 0)


def _keep(
    uploads: Uploads, pictures: Sequence[UploadFile], most_bytes: int
) -> tuple[list[str], list[str | None]]:
    """Stores the pictures. Returns their URIs and names."""
    kept: list[Picture] = []
    with uploads.incoming() as folder:
        for n, file in enumerate(pictures):
            name = (file.filename or "")[:MOST_NAME_CHARS] or None
            if (file.size or 0) > most_bytes:
                raise Refused(
                    413,
                    f"Picture {n + 1} ({name!r}) has more than {most_bytes:,} bytes, which "
                    "workers would refuse. Send a smaller one, or set RESNEXT_MAX_IMAGE_BYTES.",
                )
            path = folder / str(n)
            with path.open("xb") as target:
                shutil.copyfileobj(file.file, target)
            kept.append(Picture(path=path, ending=_ending(file) or "", ref=name))
        return uploads.keep(kept), [one.ref for one in kept]


def _ending(file: UploadFile) -> str | None:
    """The extension for a picture's format, by its first bytes. None: not a picture."""
    file.file.seek(0)
    first = file.file.read(FIRST_BYTES)
    file.file.seek(0)
    return ending_of(first)
