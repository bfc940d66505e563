"""The API as OpenAPI 3.1, made from the routes and the signatures behind them.

Place in the house   api -> document -> operation, problems
Never                says of a route what its view does not: there is nothing here to keep up to date
"""

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec
from flask import Blueprint, Flask, current_app, request
from werkzeug.http import HTTP_STATUS_CODES
from werkzeug.routing import Rule

from jobguard.problems import Problem, kind_of_family
from jobguard_webui.api.operation import OPERATION, Operation, operation
from jobguard_webui.health import livez, readyz

bp = Blueprint("document", __name__)

PREFIX = "/api/v1"
PROBES = {livez: (200,), readyz: (200, 503)}
Schema = dict[str, Any]

_REF = "#/components/schemas/{name}"
_ALWAYS = (400, 401, 429, 500, 502, 503, 504)
_SHARED = (*_ALWAYS, 404, 413, 428)
PLACE = re.compile(r"<(?:\w+:)?(\w+)>")
_PAGE = re.compile(r"Page_(\w+?)_")  # how msgspec calls a Page[Run]
_REVISION = {"type": "string", "pattern": '^"[0-9]+"$', "examples": ['"4711"']}
_HEADERS = {
    401: {"WWW-Authenticate": {"schema": {"type": "string"}}},
    429: {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}},
}
_FRESHNESS = {
    "description": "Confirmed by the store's leader, or what one node remembers.",
    "schema": {"enum": ["linearizable", "stale"]},
    "required": True,
}


@bp.get("/openapi.json")
@operation()
def show() -> dict[str, Any]:
    """This document."""
    return describe(current_app, request.script_root)


def describe(app: Flask, root: str = "") -> dict[str, Any]:
    """The document of an app that is mounted at `root`."""
    rules = (rule for rule in app.url_map.iter_rules() if rule.rule.startswith(PREFIX))
    told = [
        (rule, getattr(app.view_functions[rule.endpoint], OPERATION))
        for rule in sorted(rules, key=lambda rule: rule.rule)
    ]
    schemas = Schemas(each for _, each in told)
    paths: dict[str, dict[str, Any]] = {}
    for rule, each in told:
        path = paths.setdefault(PLACE.sub(r"{\1}", rule.rule.removeprefix(PREFIX)), {})
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            path[method.lower()] = _operation(rule, method, each, schemas)
    probes = {f"/{view.__name__}": _probe(view, root, answers) for view, answers in PROBES.items()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "jobguard",
            "version": version("jobguard"),
            "description": "Who runs what, what is planned, and the few things to do about it by hand.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": root + PREFIX}],
        "security": [{"token": []}],
        "paths": paths | probes,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "responses": {_name(status): _refused(status) for status in _SHARED},
            "schemas": schemas.components,
        },
    }


class Schemas:
    """The schemas of all that is sent and answered, by the name of its type."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        told = list(operations)
        self._bodies = {each.types[each.body] for each in told if each.body}
        answers = [each.types["return"] for each in told]
        kinds = [Problem, *dict.fromkeys([*answers, *self._bodies])]
        known = {info.cls: info for info in _structs(msgspec.inspect.multi_type_info(kinds))}
        refs, components = msgspec.json.schema_components([*kinds, *known], ref_template=_REF)
        self._refs = dict(zip([*kinds, *known], refs, strict=True))
        for kind, info in known.items():
            name = self._refs[kind]["$ref"].rpartition("/")[2]
            self._tell(components[name], info)
        named = {_called(name): _renamed(each) for name, each in components.items()}
        self.components = dict(sorted(named.items()))

    def of(self, kind: Any) -> Schema:
        return _renamed(self._refs[kind])

    def _tell(self, schema: Schema, info: Any) -> None:
        """What msgspec does not: which times are times, and that an answer leaves no field out."""
        if description := schema.get("description"):
            schema["description"] = inspect.cleandoc(description)
        for each in info.fields:
            _as_times(schema["properties"][each.encode_name], each.type)
        config = getattr(get_origin(info.cls) or info.cls, "__struct_config__", None)
        if info.cls not in self._bodies and not (config and config.omit_defaults):
            named = [each.encode_name for each in info.fields if each.required or _has_default(each)]
            schema["required"] = named
            for name in named:
                schema["properties"][name].pop("default", None)


def _has_default(field: Any) -> bool:
    """One that may be unset has none, and is left out of the answer then."""
    return not (field.default is msgspec.NODEFAULT and field.default_factory is msgspec.NODEFAULT)


def _structs(infos: Iterable[Any]) -> Iterator[Any]:
    """Every struct and dataclass in these types, each once."""
    waiting, seen = list(infos), set()
    while waiting:
        info = waiting.pop()
        match info:
            case msgspec.inspect.StructType() | msgspec.inspect.DataclassType() if info.cls not in seen:
                seen.add(info.cls)
                yield info
                waiting += [each.type for each in info.fields]
            case msgspec.inspect.UnionType():
                waiting += info.types
            case msgspec.inspect.ListType():
                waiting.append(info.item_type)


def _as_times(schema: Schema, info: Any) -> None:
    match info:
        case msgspec.inspect.DateTimeType():
            schema["format"] = "date-time"
        case msgspec.inspect.ListType():
            _as_times(schema.get("items", {}), info.item_type)
        case msgspec.inspect.UnionType():
            for part, each in zip(schema.get("anyOf", ()), info.types, strict=False):
                _as_times(part, each)


def _called(name: str) -> str:
    return _PAGE.sub(r"\1Page", name)


def _renamed(schema: Schema) -> Schema:
    return msgspec.json.decode(_called(msgspec.json.encode(schema).decode()), type=Schema)


def _probe(view: Callable[..., Any], root: str, answers: tuple[int, ...]) -> dict[str, Any]:
    """In plain text, beside the API, and open to everyone."""
    content = {"text/plain": {"schema": {"type": "string"}}}
    get = {
        "operationId": view.__name__,
        "tags": ["health"],
        "summary": inspect.cleandoc(view.__doc__ or ""),
        "security": [],
        "responses": {
            str(status): {"description": f"{HTTP_STATUS_CODES[status]}.", "content": content}
            for status in answers
        },
    }
    return {"servers": [{"url": root or "/"}], "get": get}


# --- an operation -------------------------------------------------------------------------------


def _operation(rule: Rule, method: str, told: Operation, schemas: Schemas) -> dict[str, Any]:
    summary, _, description = inspect.cleandoc(told.view.__doc__ or "").partition("\n\n")
    found: dict[str, Any] = {
        "operationId": rule.endpoint.removeprefix("api.").replace(".", "_"),
        "tags": [told.view.__module__.rpartition(".")[2]],
        "summary": " ".join(summary.split()),
        "parameters": [*_parameters(rule, method, told)],
        "responses": {str(status): each for status, each in _responses(rule, method, told, schemas)},
    }
    if description:
        found["description"] = " ".join(description.split())
    if told.body:
        kind = told.types[told.body]
        found["requestBody"] = {
            "required": any(field.required for field in msgspec.structs.fields(kind)),
            "content": {"application/json": {"schema": schemas.of(kind)}},
        }
    return found


def _parameters(rule: Rule, method: str, told: Operation) -> Iterator[dict[str, Any]]:
    for name in sorted(rule.arguments):
        yield _parameter(name, "path", told.types[name], required=True)
    for name, each in told.query(dict.fromkeys(rule.arguments)).items():
        found = _parameter(name, "query", told.types[name], required=each.default is each.empty)
        if each.default not in (each.empty, None):
            found["schema"]["default"] = each.default
        yield found
    if told.seen:
        _, marked = told.seen
        yield {
            "name": "If-Match",
            "in": "header",
            "required": not marked.or_new,
            "schema": _REVISION,
            "description": f"The revision of the {marked.noun} that you saw.",
        }
        if marked.or_new:
            said = f"In the place of If-Match, where there is no {marked.noun} yet."
            yield {"name": "If-None-Match", "in": "header", "schema": {"const": "*"}, "description": said}
    if _conditional(method, told):
        said = "The ETag of the answer before: what has not changed is not sent again."
        yield {"name": "If-None-Match", "in": "header", "schema": {"type": "string"}, "description": said}


def _parameter(name: str, where: str, kind: Any, *, required: bool) -> dict[str, Any]:
    schema = msgspec.json.schema(_unless_none(kind))
    found = {"name": name, "in": where, "required": required, "schema": schema}
    if description := schema.pop("description", ""):
        found["description"] = description
    return found


def _unless_none(kind: Any) -> Any:
    if get_origin(kind) in (Union, UnionType):
        (kind,) = (each for each in get_args(kind) if each is not type(None))
    return kind


def _conditional(method: str, told: Operation) -> bool:
    return method == "GET" and not told.etag


def _responses(
    rule: Rule, method: str, told: Operation, schemas: Schemas
) -> Iterator[tuple[int, dict[str, Any]]]:
    headers: dict[str, Any] = {"Jobguard-Read": _FRESHNESS}
    if told.etag:
        headers["ETag"] = {"schema": _REVISION, "required": True, "description": "For If-Match."}
    if _conditional(method, told):
        headers["ETag"] = {"schema": {"type": "string"}, "required": True}
        yield 304, {"description": "It has not changed."}
    if told.location:
        headers["Location"] = {"schema": {"type": "string"}, "required": True}
    content = {"application/json": {"schema": schemas.of(told.types["return"])}}
    yield (
        told.status,
        {"description": f"{HTTP_STATUS_CODES[told.status]}.", "headers": headers, "content": content},
    )
    follows = [*_ALWAYS]
    follows += [404] if rule.arguments else []
    follows += [413] if told.body else []
    follows += [428] if told.seen else []
    for status in follows:
        yield status, {"$ref": f"#/components/responses/{_name(status)}"}
    for family in told.refuses:
        yield kind_of_family(family).status, _refusal(family, schemas)


def _refusal(family: Any, schemas: Schemas) -> dict[str, Any]:
    """One of its own, with what is there now if the error has that."""
    schema = schemas.of(Problem)
    if now := get_type_hints(family.__init__).get("now"):
        current = {"properties": {"current": schemas.of(now)}, "required": ["current"]}
        schema = {"allOf": [schema, current]}
    return {
        "description": f"{kind_of_family(family).title}.",
        "content": {"application/problem+json": {"schema": schema}},
    }


def _refused(status: int) -> dict[str, Any]:
    content = {"application/problem+json": {"schema": {"$ref": _REF.format(name="Problem")}}}
    found = {"description": f"{HTTP_STATUS_CODES[status]}.", "content": content}
    return found | ({"headers": _HEADERS[status]} if status in _HEADERS else {})


def _name(status: int) -> str:
    return HTTP_STATUS_CODES[status].title().replace(" ", "")
