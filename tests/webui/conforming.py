"""A client that holds every answer of the API, and what was asked for it, against the API's own document."""

import copy
from typing import Any

import jsonschema
from flask.testing import FlaskClient
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012
from werkzeug.exceptions import HTTPException

from jobguard_webui.api.document import PLACE, PREFIX, describe

PROBES = ("/livez", "/readyz")
_URI = "urn:document"


class Mismatch(AssertionError):
    """The document does not say what the server does."""


class Document:
    """What the document says, read as strictly as can be: a field that it does not name may not be there."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.told = copy.deepcopy(told)
        for schema in self.told["components"]["schemas"].values():
            if "properties" in schema:
                schema.setdefault("additionalProperties", False)
        resource = Resource(contents=self.told, specification=DRAFT202012)
        self.registry: Registry[Any] = Registry().with_resource(_URI, resource)

    def check(self, path: str | None, asked: Any, answer: Any, sent: Any = None) -> None:
        """`path`: as the document spells it; None where nothing is routed. `sent`: the body."""
        if path is None or asked.method not in ("GET", "POST", "PUT", "DELETE"):
            self.check_problem(answer)
            return
        method = asked.method.lower()
        at = f"#/paths/{path.replace('/', '~1')}/{method}"
        told = self.told["paths"].get(path, {}).get(method)
        _must(told is not None, f"{asked.method} {path} is not in it")
        named = {each["name"] for each in told.get("parameters", ()) if each["in"] == "query"}
        refused = answer.status_code == 400
        _must(refused or set(asked.args) <= named, f"{path} takes {set(asked.args) - named}, too")
        said = told["responses"].get(str(answer.status_code))
        _must(said is not None, f"{asked.method} {path} answers {answer.status_code}, too: {answer.text}")
        where = f"{at}/responses/{answer.status_code}"
        if "$ref" in said:
            where = said["$ref"]
            said = self.told["components"]["responses"][where.rpartition("/")[2]]
        if answer.status_code >= 400 and path not in PROBES:
            self.check_problem(answer)
        for header, facts in said.get("headers", {}).items():
            _must(header in answer.headers or not facts.get("required"), f"{header} is missing")
        for kind in said.get("content", {}):
            _must(answer.mimetype == kind, f"{path} answers {answer.mimetype}")
            value = answer.json if answer.is_json else answer.text
            self.valid(value, f"{where}/content/{kind.replace('/', '~1')}/schema")
        if answer.status_code < 300 and sent is not None:
            self.valid(sent, f"{at}/requestBody/content/application~1json/schema")

    def check_problem(self, answer: Any) -> None:
        if answer.status_code >= 400:
            _must(answer.mimetype == "application/problem+json", f"an error is {answer.mimetype}")
            self.valid(answer.json, "#/components/schemas/Problem")
            _must(answer.json["status"] == answer.status_code, "the body names another status")

    def valid(self, value: Any, pointer: str) -> None:
        validator = jsonschema.Draft202012Validator(
            {"$ref": f"{_URI}{pointer}"},
            registry=self.registry,
            format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER,
        )
        if errors := [f"{each.json_path}: {each.message}" for each in validator.iter_errors(value)]:
            raise Mismatch("; ".join(errors))


class Conforming(FlaskClient):
    """As any client, but that an answer which the document does not promise is a failure."""

    document: Document | None = None

    def open(self, *args: Any, **how: Any) -> Any:
        answer = super().open(*args, **how)
        asked = answer.request
        if asked.path.startswith(("/api/", *PROBES)):
            if self.document is None:
                self.document = Document(describe(self.application))
            self.document.check(self._route(asked), asked, answer, how.get("json"))
        return answer

    def _route(self, asked: Any) -> str | None:
        try:
            rule, _ = self.application.url_map.bind("").match(asked.path, asked.method, return_rule=True)
        except HTTPException:
            return None
        return PLACE.sub(r"{\1}", rule.rule.removeprefix(PREFIX))


def _must(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Mismatch(otherwise)
