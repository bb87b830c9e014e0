"""The explorer's page and what it asks for, on this machine alone.

Only requests that name this machine as their host are answered, and only those that the page itself
sends change anything: another page in the same browser can neither read nor write here.
"""

import base64
import json
import tempfile
import threading
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from pdae_jax import images
from pdae_jax.explorer.session import Edit, Move, Picture, Session
from pdae_jax.formats.errors import first_line, require
from pdae_jax.images import visible
from pdae_jax.pages.colours import style_sheet
from pdae_jax.tasks.encoding import png

HOST = "127.0.0.1"
LARGEST = 256 * 2**20  # bytes of a picture that is sent here
OWN_HEADER = "x-explorer"  # another page cannot send it without being allowed to
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' "
    "'unsafe-inline'; img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
FILES = {
    "/": ("explorer.html", "text/html"),
    "/explorer.css": ("explorer.css", "text/css"),
    "/explorer.js": ("explorer.js", "text/javascript"),
}


class Server:
    """The web application of one session. about: what the page shows of the model and the map.

    thumbnails: the map's pictures as one PNG.
    """

    def __init__(self, session: Session, about: Mapping[str, Any], thumbnails: bytes):
        self.session, self.about, self.thumbnails = session, about, thumbnails
        self._lock = threading.Lock()  # the model does one thing at a time

    def application(self) -> Any:
        """As an ASGI server takes it."""
        require("starlette", "explore")
        from starlette.applications import Starlette
        from starlette.concurrency import run_in_threadpool
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware
        from starlette.requests import Request
        from starlette.responses import JSONResponse, Response
        from starlette.routing import Route

        def said(words: str, status: int) -> Response:
            return JSONResponse({"error": words}, status, HEADERS)

        async def file(request: Request) -> Response:
            name, kind = FILES[request.url.path]
            text = resources.files("pdae_jax.explorer").joinpath(name).read_text(encoding="utf-8")
            return Response(text, media_type=kind, headers=HEADERS)

        async def style(request: Request) -> Response:
            return Response(style_sheet(), media_type="text/css", headers=HEADERS)

        async def sheet(request: Request) -> Response:
            return Response(self.thumbnails, media_type="image/png", headers=HEADERS)

        async def ask(request: Request) -> Response:
            """Every other request: JSON, or a file to open, in; JSON, or a file, out."""
            name = request.path_params["name"]
            if name not in ASKED or OWN_HEADER not in request.headers:
                return said("not a request of the explorer's page", 403)
            try:
                if int(request.headers.get("content-length", 0)) > LARGEST:
                    raise ValueError(f"the file is larger than {LARGEST >> 20} MiB")
                body = await request.body()
                if name == "upload":
                    given = {"name": request.query_params.get("name", "picture"), "data": body}
                else:
                    given = json.loads(body or b"{}")
                found = await run_in_threadpool(self._locked, ASKED[name], given)
            except Exception as error:  # the page says it in one line, whatever it is
                known = isinstance(error, ValueError | OSError | ImportError)
                kind = "" if known else f"{type(error).__name__}: "
                return said(kind + first_line(error), 400 if known else 500)
            if isinstance(found, bytes):
                return Response(found, media_type="application/zip", headers=HEADERS)
            return JSONResponse(found, headers=HEADERS)

        return Starlette(
            routes=[
                *(Route(path, file) for path in FILES),
                Route("/style.css", style),
                Route("/thumbnails.png", sheet),
                Route("/api/{name}", ask, methods=["POST"]),
            ],
            middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])],
        )

    def _locked(self, does: Callable[..., Any], given: Mapping[str, Any]) -> Any:
        with self._lock:
            return does(self, given)

    # What the page asks for

    def _about(self, given: Mapping[str, Any]) -> Any:
        return self.about

    def _open(self, given: Mapping[str, Any]) -> Any:
        return self._opened(self.session.open_point(int(given["point"])))

    def _upload(self, given: Mapping[str, Any]) -> Any:
        name = Path(given["name"]).name or "picture"
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            try:
                path.write_bytes(given["data"])
                found = images.load(path, self.session.model)
            except (ValueError, OSError) as error:
                raise ValueError(str(error).replace(f"{folder}/", "")) from error
        if len(found) != 1:
            raise ValueError(f"{name} holds {len(found)} pictures: give one at a time")
        return self._opened(self.session.open_image(name, found[0]))

    def _opened(self, number: int) -> Any:
        picture = self.session.picture(number)
        alone, z = self.session.edited(picture, Edit(noise=False))
        original = None if picture.image is None else _uri(picture.image)
        return {
            "picture": number,
            "name": picture.name,
            "original": original,
            "alone": _uri(alone),
            "classes": self.session.probabilities(z),
        }

    def _exact(self, given: Mapping[str, Any]) -> Any:
        """The reconstruction from z and x_T, which is inferred where it was not yet."""
        picture = self._picture(given)
        if picture.image is None:
            return {"exact": None}
        return {"exact": _uri(self.session.edited(picture)[0])}

    def _neighbours(self, given: Mapping[str, Any]) -> Any:
        if self.session.atlas is None or self.session.statistics is None:
            return {"points": []}
        return {"points": self.session.neighbours(self._picture(given))}

    def _edit(self, given: Mapping[str, Any]) -> Any:
        picture, edit = self._picture(given), self._edit_of(given)
        image, z = self.session.edited(picture, edit, preview=bool(given.get("preview")))
        return {
            "image": _uri(image),
            "classes": self.session.probabilities(z),
            "lines": self.session.lines(picture, edit),
        }

    def _group(self, given: Mapping[str, Any]) -> Any:
        return {"group": self.session.add_group(given["first"], given["second"])}

    def _generate(self, given: Mapping[str, Any]) -> Any:
        numbers = self.session.generate(int(given["n"]), int(given["seed"]))
        return {"pictures": [self._opened(number) for number in numbers]}

    def _few_shot(self, given: Mapping[str, Any]) -> Any:
        seed = int(given["seed"])
        numbers = self.session.few_shot(given["points"], int(given["n"]), seed)
        return {"pictures": [self._opened(number) for number in numbers]}

    def _save(self, given: Mapping[str, Any]) -> Any:
        return self.session.archive(self._picture(given), self._edit_of(given))

    def _picture(self, given: Mapping[str, Any]) -> Picture:
        return self.session.picture(int(given["picture"]))

    def _edit_of(self, given: Mapping[str, Any]) -> Edit:
        other = given.get("other")
        moves = [Move(one["kind"], one["which"], float(one["amount"])) for one in given["moves"]]
        if not np.isfinite([move.amount for move in moves]).all():
            raise ValueError("a move must be a finite number of standard deviations")
        return Edit(
            tuple(moves),
            bool(given.get("hold")),
            bool(given.get("noise")),
            None if other is None else self.session.picture(int(other)),
            float(given.get("weight", 0)),
        )


ASKED: Mapping[str, Callable[[Server, Mapping[str, Any]], Any]] = {
    "about": Server._about,
    "open": Server._open,
    "upload": Server._upload,
    "exact": Server._exact,
    "neighbours": Server._neighbours,
    "edit": Server._edit,
    "group": Server._group,
    "generate": Server._generate,
    "few_shot": Server._few_shot,
    "save": Server._save,
}


def _uri(image: np.ndarray) -> str:
    """A picture [H, W, C] as the page can show it."""
    return f"data:image/png;base64,{base64.b64encode(png(visible(image))).decode()}"
