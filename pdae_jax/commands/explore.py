"""A page of this machine on which z is moved by hand: sliders, a map, pictures from nothing."""

import dataclasses
import io
import os
import signal
import socket
import webbrowser
from typing import Any

import numpy as np
from etils import epy

from pdae_jax.commands import project
from pdae_jax.commands.context import Context
from pdae_jax.commands.options import Labelled, Precision, Seed, option
from pdae_jax.data.source import Source
from pdae_jax.formats.errors import require
from pdae_jax.pages import scatter
from pdae_jax.protocol import PROTOCOLS
from pdae_jax.runtime import one_line

with epy.lazy_imports():  # --help needs neither JAX nor scikit-learn
    from pdae_jax import latent
    from pdae_jax.explorer import server
    from pdae_jax.explorer import session as session_lib
    from pdae_jax.tasks import projection
    from pdae_jax.workdir import shipped, workdir

PORT = 8765  # where it is free
THUMBNAIL = 64  # pixels, at most


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Precision, Labelled, Seed):
    protocol: str = option(
        "fast", f"how all sampling goes: {', '.join(PROTOCOLS)}", choices=[*PROTOCOLS]
    )
    n: int = option(
        1000, "pictures on the map at most, taken evenly from all", at_least=3, at_most=5000
    )
    port: int = option(
        0, f"port of 127.0.0.1; 0: {PORT}, or another that is free", at_least=0, at_most=65535
    )
    browser: bool = option(True, "whether a browser is opened")


def run(path: str | os.PathLike[str], options: Options) -> bool:
    """Serves the page on 127.0.0.1 until Ctrl-C. docs/explorer.md says what it can do.

    The map is of the run's pictures, or of given ones. Without a WORKDIR it is the model that
    ships. Needs `pip install 'pdae_jax[explore]'`.
    """
    uvicorn = require("uvicorn", "explore")
    require("starlette", "explore")
    with listening(options.port) as listener:
        address = f"http://{server.HOST}:{listener.getsockname()[1]}"
        application = serving(path, options).application()
        print(f"The explorer is at {address} - Ctrl-C ends it", flush=True)
        if options.browser:
            webbrowser.open(address)
        config = uvicorn.Config(
            application, log_level="warning", lifespan="off", timeout_graceful_shutdown=1
        )
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # uvicorn has its own, and raises it again
        uvicorn.Server(config).run(sockets=[listener])
    return True


def listening(port: int) -> socket.socket:
    """A socket on this machine alone; ValueError where the port that is asked for is taken."""
    why = None
    for number in (port,) if port else (PORT, 0):
        found = socket.socket()
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((server.HOST, number))
            found.listen()
            return found
        except OSError as error:
            found.close()
            why = error.strerror
    raise ValueError(f"port {port} of {server.HOST}: {why}; give another --port, or leave it out")


def serving(path: str | os.PathLike[str], options: Options) -> "server.Server":
    """The explorer of a model, ready to be served."""
    home = workdir.Workdir(shipped.located(path))
    context = Context(home, options, home.output("explore"))
    atlas, statistics, mapped, thumbnails = None, None, None, b""
    try:
        taken, source = known(context)
    except (ValueError, OSError) as error:
        if context.given:
            raise
        one_line.say(f"no map: {error}")
        if "statistics" in context.model.params:
            statistics = context.model.params["statistics"]
    else:
        statistics, _ = project.statistics_of(context, taken.z)
        z = np.asarray(latent.normalise(statistics, taken.z))
        atlas = session_lib.Atlas(source, taken.places, z)
        mapped, thumbnails = map_of(context, source, taken, z)
    how = {name: options.changed().get(name) for name in ("precision", "protocol")}
    how = {name: value for name, value in how.items() if value}
    name = shipped.name_of(home.path)
    session = session_lib.Session(context.model, name, statistics, atlas, how)
    return server.Server(session, about(context, session, mapped), thumbnails)


def known(context: Context[Options]) -> "tuple[projection.Taken, Source]":
    """Pictures for the map, with their codes: of those that are given, or of all of the run's."""
    source = context.data().open("all", context.model.value_range)
    n = context.options.n
    return projection.take(context.model, context.data(), source, n, THUMBNAIL), source


def map_of(
    context: Context[Options], source: Source, taken: "projection.Taken", z: np.ndarray
) -> tuple[dict[str, Any], bytes]:
    """The map as the page draws it, and the thumbnails as one PNG."""
    colourings, words = project.described(source, taken.places)
    image, columns = scatter.sheet(taken.thumbnails)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    _, height, width, _ = taken.thumbnails.shape
    found = {
        "planes": [
            {"name": one.name, "points": one.points.tolist(), "x": one.x_label, "y": one.y_label}
            for one in project.planes_of(z, context.options.seed)[0]
        ],
        "colourings": [
            {
                "name": one.name,
                "kinds": [{"colour": kind.colour, "name": kind.name} for kind in kinds],
                "which": which.tolist(),
            }
            for one in colourings or [project.one_colour(len(z))]
            for kinds, which in [scatter.kinds_of(one)]
        ],
        "words": words,
        "sheet": {
            "columns": columns,
            "rows": -(-len(z) // columns),
            "height": height,
            "width": width,
        },
    }
    return found, stream.getvalue()


def about(
    context: Context[Options], session: "session_lib.Session", mapped: dict[str, Any] | None
) -> dict[str, Any]:
    """What the page says of the model, and which of its parts there are."""
    height, width, channels = shape = context.model.arch.image_shape
    words = f"{height} x {width} px, {channels} channel{'s' * (channels > 1)}; "
    words += f"z of {context.model.arch.z_size} numbers"
    if session.atlas is not None:
        words += f"; {len(session.atlas.z):,} of {len(session.atlas.source):,} pictures known"
    return {
        "title": session.name,
        "words": words,
        "shape": shape,
        "attributes": session.attributes,
        "shares": session.shares,
        "generate": {"latent", "statistics"} <= context.model.params.keys(),
        "map": mapped,
    }
