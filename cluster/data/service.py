"""The service on the head that takes in and gives out what lies on the shared folder.

    python -m raylora.cluster.data.service [PORT]

Started by `raylora-data.service` as the user of Ray. It takes the cluster's token, as Ray's dashboard does, and nothing
without it. A request holds one piece of a file at most and there is room for so many at a time: its memory has a bound.
Who is too slow with a piece loses his turn, and sends it again.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from aiohttp import web

from raylora import __version__
from raylora.cluster.data.incoming import Incoming
from raylora.cluster.data.protocol import DIGEST, LARGEST_LIST, PIECE, PORT, PREFIX, USER, place_of
from raylora.cluster.data.shelf import RefusedError, Shelf
from raylora.cluster.data.upload import Upload
from raylora.errors import UserError
from raylora.files import NO_ROOM
from raylora.tree import safe

_AT_ONCE: Final = 8  # requests that the disk works for
_BODIES: Final = 24  # requests whose body is taken in; each may hold a piece
_PATIENCE: Final = 120.0  # seconds for a body


class Service:
    """The service over one shared folder.

    Args:
        root: the shared folder.
        token: what requests must carry.
    """

    def __init__(self, root: Path, token: str) -> None:
        self._shelf = Shelf(root)
        self._incoming = Incoming(self._shelf)
        self._token = token.strip()
        self._turns, self._bodies = asyncio.Semaphore(_AT_ONCE), asyncio.Semaphore(_BODIES)

    def app(self) -> web.Application:
        """The service as aiohttp runs it."""
        app = web.Application(middlewares=[self._guard], client_max_size=LARGEST_LIST)
        app.add_routes(
            [
                web.get(f"{PREFIX}/version", self._version),
                web.get(f"{PREFIX}/list", self._list),
                web.get(f"{PREFIX}/tree", self._tree),
                web.get(f"{PREFIX}/file", self._file),
                web.get(f"{PREFIX}/checksum", self._checksum),
                web.post(f"{PREFIX}/kinds", self._kinds),
                web.post(f"{PREFIX}/uploads", self._begin),
                web.put(f"{PREFIX}/uploads/{{id:[0-9a-f]{{32}}}}", self._put),
                web.post(f"{PREFIX}/uploads/{{id:[0-9a-f]{{32}}}}/take", self._take),
                web.post(f"{PREFIX}/uploads/{{id:[0-9a-f]{{32}}}}/commit", self._commit),
                web.post(f"{PREFIX}/remove", self._remove),
            ]
        )
        return app

    def recover(self) -> None:
        """Bring to its end what a service that was killed has left."""
        self._incoming.recover()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
        """Nothing without the token; and errors in words."""
        given = request.headers.get("Authorization", "").encode(errors="surrogateescape")
        if not self._token or not hmac.compare_digest(given, f"Bearer {self._token}".encode()):
            refusal = _refusal(401, "the token is not this cluster's")
            refusal.force_close()  # what was to follow is not read
            return refusal
        try:
            answer: web.StreamResponse = await handler(request)
            return answer
        except RefusedError as refused:
            return _refusal(refused.status, str(refused), refused.hint, refused.at)
        except UserError as error:
            problem = error.problems[0]
            return _refusal(507, f"{problem.where}: {problem.message}", problem.hint)
        except TimeoutError:
            return _refusal(408, f"it did not arrive within {_PATIENCE:.0f} s")
        except (ValueError, KeyError) as error:
            return _refusal(400, str(error) if isinstance(error, ValueError) else f"{error} is missing")
        except OSError as error:
            room = error.errno in NO_ROOM
            reason = NO_ROOM[error.errno or 0] if room else f"the shared folder: {error.strerror or error}"
            return _refusal(507 if room else 503, reason, "free some space on the shared folder" if room else "")

    async def _in_turn(self, act: Callable[..., Any], *arguments: Any) -> Any:
        async with self._turns:
            return await asyncio.to_thread(act, *arguments)

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"raylora": __version__, "folder": str(self._shelf.root)})

    async def _list(self, request: web.Request) -> web.Response:
        place = _place(request.query["place"], may_be_root=True)

        def listed() -> list[dict[str, Any]]:
            entries = self._shelf.listed(place)
            for entry in entries:
                full = f"{place}/{entry['name']}" if place else entry["name"]
                record = self._incoming.owners.of(full) if entry["kind"] != "odd" else None
                entry["brought"] = record and {key: record[key] for key in ("user", "brought", "files", "bytes")}
            return entries

        return web.json_response({"entries": await self._in_turn(listed)})

    async def _tree(self, request: web.Request) -> web.Response:
        return web.json_response(await self._in_turn(self._shelf.tree, place_of(request.query["place"])))

    async def _kinds(self, request: web.Request) -> web.Response:
        places = [place_of(place) for place in (await _json(request))["places"]][:1000]
        return web.json_response({place: await self._in_turn(self._shelf.kind, place) for place in places})

    async def _file(self, request: web.Request) -> web.Response:
        query = request.query
        place, offset = _file_in(query["place"], query.get("path", "")), int(query["offset"])
        if not 0 <= offset < 2**63:
            raise ValueError(f"{offset} is no place in a file")
        data = await self._in_turn(self._shelf.piece, place, query["version"], offset)
        return web.Response(body=data, headers={DIGEST: hashlib.sha256(data).hexdigest()})

    async def _checksum(self, request: web.Request) -> web.Response:
        place = _file_in(request.query["place"], request.query.get("path", ""))
        return web.json_response({"sha256": await self._in_turn(self._shelf.checksum, place, request.query["version"])})

    async def _begin(self, request: web.Request) -> web.Response:
        values = await _json(request) | {"user": _user(request)}
        return web.json_response(await self._in_turn(lambda: self._incoming.begin(Upload.parse(values))))

    async def _put(self, request: web.Request) -> web.Response:
        if request.content_length is None or request.content_length > PIECE:
            raise RefusedError(413, f"a piece has {PIECE:,} bytes at most, and says how many")
        path, offset = safe(request.query["path"]), int(request.query["offset"])
        async with self._bodies:
            async with asyncio.timeout(_PATIENCE):
                data = await request.read()
            if hashlib.sha256(data).hexdigest() != request.headers.get(DIGEST):
                raise RefusedError(422, "the piece was changed on its way")
            at = await self._in_turn(self._incoming.put, request.match_info["id"], path, offset, data)
        return web.json_response({"at": at})

    async def _take(self, request: web.Request) -> web.Response:
        path = safe(request.query["path"])
        return web.json_response({"taken": await self._in_turn(self._incoming.take, request.match_info["id"], path)})

    async def _commit(self, request: web.Request) -> web.Response:
        place = place_of(request.query["place"])
        await self._in_turn(self._incoming.commit, request.match_info["id"], place)
        return web.json_response({})

    async def _remove(self, request: web.Request) -> web.Response:
        place = place_of((await _json(request))["place"])
        await self._in_turn(self._incoming.remove, place, _user(request))
        return web.json_response({})


def _refusal(status: int, message: str, hint: str = "", at: int | None = None) -> web.Response:
    return web.json_response({"error": message, "hint": hint, "at": at}, status=status)


def _place(text: str, may_be_root: bool = False) -> str:
    return "" if may_be_root and not text.strip("/") else place_of(text)


def _file_in(place: str, path: str) -> str:
    """The place of a file in a folder; of a file that stands for itself there is no path."""
    return f"{place_of(place)}/{safe(path)}" if path else place_of(place)


def _user(request: web.Request) -> str:
    name = unquote(request.headers.get(USER, "")).strip()
    if not 0 < len(name) <= 100 or not name.isprintable():
        raise ValueError("who asks must have a name")
    return name


async def _json(request: web.Request) -> dict[str, Any]:
    try:
        async with asyncio.timeout(_PATIENCE):
            body = await request.read()
        values = await asyncio.to_thread(json.loads, body)
    except (ValueError, RecursionError) as error:
        raise ValueError("it is no JSON") from error
    if not isinstance(values, dict):
        raise ValueError("it is no JSON object")
    return values


def main() -> None:
    """Serve the folder and take the token that the environment of the head names, until the process is ended."""
    port = int(sys.argv[1]) if len(sys.argv) > 1 else PORT
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text()
    service = Service(Path(os.environ["RAYLORA_SHARED_FOLDER"]), token)
    service.recover()
    web.run_app(service.app(), port=port, access_log=None, print=None, keepalive_timeout=75)


if __name__ == "__main__":
    main()
