"""The routes by which the page adds documents: jobs, files streamed to disk, progress. What happens is uploads.py's."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import FastAPI, Request
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from app.chat.document_words import DocumentWords, document_words_for
from app.chat.upload_area import ArrivingFile
from app.chat.uploads import Job, UploadedFile, Uploads
from app.chat.viewer import NO_STORE, answered, refused
from app.workspace import DEFAULT_COLLECTION
from retrieval.errors import ReadingError

FILE_TYPE = "application/octet-stream"
"""What a file must be sent as: no form of another site can, and no browser sends it elsewhere without asking first."""


def add_upload_routes(api: FastAPI, uploads: Uploads) -> None:
    """The upload's routes."""

    async def told(request: Request, act: Callable[[], Job]) -> Response:
        words = _words(request)
        return await answered(uploads.pool, lambda: JSONResponse(act().shown(words), headers=NO_STORE))

    @api.get("/uploads")
    async def offer() -> Response:
        def make() -> Response:
            found: dict[str, Any] = {"collections": uploads.collections(), "default": DEFAULT_COLLECTION}
            found |= {"file_mb": uploads.file_mb, "files": uploads.limits.files}
            return JSONResponse(found, headers=NO_STORE)

        return await answered(uploads.pool, make)

    @api.post("/uploads/jobs")
    async def begin(request: Request, collection: str) -> Response:
        return await told(request, lambda: uploads.begin(collection))

    @api.get("/uploads/jobs/{job_id}")
    async def progress(request: Request, job_id: str) -> Response:
        return await told(request, lambda: uploads.job(job_id))

    @api.post("/uploads/jobs/{job_id}/start")
    async def start(request: Request, job_id: str) -> Response:
        def act() -> Job:
            job = uploads.job(job_id)
            uploads.start(job)
            return job

        return await told(request, act)

    @api.post("/uploads/jobs/{job_id}/cancel")
    async def cancel(request: Request, job_id: str) -> Response:
        def act() -> Job:
            job = uploads.job(job_id)
            uploads.cancel(job)
            return job

        return await told(request, act)

    @api.post("/uploads/jobs/{job_id}/files")
    async def receive(request: Request, job_id: str, name: str) -> Response:
        if request.headers.get("content-type", "").split(";")[0].strip().lower() != FILE_TYPE:
            return refused(415, f"a file is sent as {FILE_TYPE}", "usage")
        here: list[tuple[Job, UploadedFile, ArrivingFile | None]] = []

        def announce() -> Response:
            job = uploads.job(job_id)
            here.append((job, *uploads.announce(job, name)))
            return JSONResponse({})

        answer = await answered(uploads.pool, announce)
        if not here:
            return answer
        job, file, arriving = here[0]
        if arriving is not None:
            await _receive(request, uploads, job, file, arriving)
        if file.state == "refused":
            await _leave(request, uploads)
        number = next(index for index, one in enumerate(job.files) if one is file)
        shown = job.shown(_words(request))["files"][number]
        return JSONResponse(shown | {"number": number}, headers=NO_STORE)


async def _receive(request: Request, uploads: Uploads, job: Job, file: UploadedFile, arriving: ArrivingFile) -> None:
    """Write the body to disk piece by piece; a file that breaks off or breaks a limit is deleted and refused."""
    loop = asyncio.get_running_loop()
    try:
        async for piece in _pieces(request, uploads.limits.stalled_seconds):
            if job.stop.is_set():
                raise ClientDisconnect
            await loop.run_in_executor(uploads.pool, arriving.write, piece)
        await loop.run_in_executor(uploads.pool, uploads.arrived, job, file, arriving)
    except ReadingError as error:
        file.refuse(error)
    except (ClientDisconnect, TimeoutError, RuntimeError, OSError):  # RuntimeError: the pool is closed, the page ends
        file.refuse(ReadingError(file.name, "incomplete", "did not arrive whole; add it again."))
    except asyncio.CancelledError:
        file.refuse(ReadingError(file.name, "incomplete", "did not arrive whole; add it again."))
        raise
    finally:
        if file.state == "refused":
            arriving.discard()


async def _leave(request: Request, uploads: Uploads) -> None:
    """Read the rest of a refused file and drop it: a browser hears no answer before its last byte is taken. The guard
    cuts off what is larger than any file may be."""
    with contextlib.suppress(ClientDisconnect, TimeoutError, RuntimeError):
        async for _ in _pieces(request, uploads.limits.stalled_seconds):
            continue


async def _pieces(request: Request, patience: float) -> AsyncIterator[bytes]:
    """The body as it comes. Raises TimeoutError where nothing comes for `patience` seconds, ClientDisconnect."""
    stream = request.stream()
    while True:
        try:
            yield await asyncio.wait_for(anext(stream), patience)
        except StopAsyncIteration:
            return


def _words(request: Request) -> DocumentWords:
    return document_words_for(request.headers.get("accept-language", ""))
