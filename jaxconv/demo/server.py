"""The demo as a web application: one page, and one function behind it."""

import asyncio
import base64
import concurrent.futures
import re
from collections.abc import Callable, Collection
from importlib import resources
from typing import Any

import jinja2
import numpy as np
from jaxtyping import UInt8
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jaxconv import predict
from jaxconv.data import digits, images
from jaxconv.demo.look import Look, compile_look
from jaxconv.report import pictures
from jaxconv.runs.trained import Trained

MAX_BYTES = 16 << 20
"""The largest upload."""
TOP = 10
"""The most classes that the page shows."""
MOST_MAPS = 32
"""The most feature maps of a stage that the page shows."""

_SIDE = 400
"""Pixels of the longer side of the canvas, unless the net takes larger images."""

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def create_app(net: Trained, run: str, hosts: Collection[str] | None = None) -> ASGIApp:
    """Create the application: "/" is the page, and POST /look takes an image file and answers with JSON.

    It works on one image at a time, away from the event loop. It has answered once when this function returns, so
    everything is compiled.

    Args:
        net: a trained net.
        run: the name of its run.
        hosts: the names, in lower case, under which a browser may call it. None: any.

    Raises:
        UserError: the net does not take images, or has parameters that are not finite.
    """
    answer = _make_answer(net)
    answer(pictures.to_png(np.zeros(net.signature.image_shape, np.uint8)))
    worker = concurrent.futures.ThreadPoolExecutor(1)

    async def look(request: Request) -> Response:
        try:
            if (file := await _read(request)) is None:
                return _refusal(413, f"The file has more than {MAX_BYTES >> 20} MiB: make it smaller.")
            return JSONResponse(await asyncio.get_running_loop().run_in_executor(worker, answer, file))
        except images.UnreadableImage as error:
            return _refusal(422, f"The file {error}.")
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it

    routes = [
        _file("/", _page(net, run), "text/html"),
        _file(
            "/page.css",
            (resources.files("jaxconv.report") / "palette.css").read_text() + _read_text("page.css"),
            "text/css",
        ),
        _file("/page.js", _read_text("page.js"), "text/javascript"),
        Route("/look", look, methods=["POST"]),
    ]
    return _guarded(Starlette(routes=routes), hosts)


def _make_answer(net: Trained) -> Callable[[bytes], dict[str, Any]]:
    """Make the function from the bytes of an image file to what the page shows."""
    read, look = predict.reader(net, "The demo"), compile_look(net)

    def answer(file: bytes) -> dict[str, Any]:
        image = read(file)
        return to_json(look(image), image, net.signature.class_names)

    return answer


def to_json(look: Look, image: UInt8[np.ndarray, "h w c"], class_names: tuple[str, ...]) -> dict[str, Any]:
    """Turn what a net makes of an image into what the page shows: numbers, and pictures as data URIs."""
    best = np.argsort(-look.probabilities, kind="stable")[:TOP]
    return {
        "classes": [{"name": class_names[i], "probability": float(look.probabilities[i])} for i in best],
        "seen": _uri(image),
        "saliency": _uri(pictures.heat(look.saliency)),
        "grad_cam": None if look.grad_cam is None else _uri(pictures.overlay(image, look.grad_cam)),
        "stages": [_stage(maps) for maps in look.feature_maps],
    }


def _stage(maps: np.ndarray) -> dict[str, Any]:
    """Draw the feature maps of a stage in grey, one below the other, with one scale for all."""
    height, width, channels = maps.shape
    grey = pictures.to_range(maps, float(maps.min()), float(np.percentile(maps, pictures.CLIP)))
    tiles = np.moveaxis(grey[..., :MOST_MAPS], -1, 0)[..., None]
    return {
        "height": height,
        "width": width,
        "channels": channels,
        "maps": _uri(pictures.grid(tiles, columns=1, gap=0)),
    }


def _uri(picture: UInt8[np.ndarray, "h w c"]) -> str:
    return f"data:image/png;base64,{base64.b64encode(pictures.to_png(picture)).decode()}"


def _page(net: Trained, run: str) -> str:
    """Fill the page in with what does not change while it is open."""
    height, width, channels = net.signature.image_shape
    scale = max(_SIDE / max(height, width), 1)
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        _read_text("page.html")
    )
    return template.render(
        run=run,
        net=net,
        height=height,
        width=width,
        colour=channels == 3,
        canvas_height=round(scale * height),
        canvas_width=round(scale * width),
        digits=net.config.data.name in digits.NAMES,
        # Ink is light where the training images are mostly dark. Coloured ink needs white paper.
        dark=channels == 1 and net.signature.mean[0] < 128,
        max_bytes=MAX_BYTES,
    )


def _file(path: str, text: str, media_type: str) -> Route:
    async def serve(_: Request) -> Response:
        return Response(text, media_type=media_type)

    return Route(path, serve)


def _read_text(name: str) -> str:
    return (resources.files("jaxconv.demo") / name).read_text()


async def _read(request: Request) -> bytes | None:
    """Read the body of a request; None if it is too large. A client need not say beforehand how large it is."""
    body = bytearray()
    if int(request.headers.get("content-length", 0)) > MAX_BYTES:
        return None
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BYTES:
            return None
    return bytes(body)


def _guarded(app: ASGIApp, hosts: Collection[str] | None) -> ASGIApp:
    """Refuse requests that pages of other sites made, and send the security headers with every response."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        headers, respond = Headers(scope=scope), app
        host = headers.get("host", "")
        # A page of another site can have its own name point to this machine: DNS rebinding.
        if hosts is not None and re.sub(r":\d+$", "", host.lower()) not in hosts:
            respond = _refusal(400, "The demo is not called by this name: open the address that it printed.")
        elif scope["method"] == "POST" and _is_of_another_site(headers, host):
            respond = _refusal(403, "The request comes from a page of another site.")
        await respond(scope, receive, send_with_headers)

    return guarded


def _is_of_another_site(headers: Headers, host: str) -> bool:
    """Programs other than browsers send neither of these headers."""
    origin = headers.get("origin", f"http://{host}")
    return origin.partition("://")[2] != host or headers.get("sec-fetch-site", "none") not in ("none", "same-origin")


def _refusal(status: int, sentence: str) -> Response:
    return JSONResponse({"error": sentence}, status)
