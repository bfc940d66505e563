"""A view of the API with its signature for a contract: what may be asked, what is sent, what comes back.

Place in the house   api's nouns -> operation -> answer; document tells the same contracts to others
Takes                views whose parameters and results are annotated
Gives                views that get what their signature names, read and checked, and nothing else
Never                lets a parameter pass that no signature names: the document says all that can be asked

A parameter with a name of the path is the path's, one marked IfMatch is the revision that the caller saw, a
Struct is the body, and every other one is the query's.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, get_type_hints

import msgspec
from flask import Response, request
from werkzeug.exceptions import BadRequest, PreconditionRequired

from jobguard.errors import JobguardError
from jobguard_webui.api.answer import answer

OPERATION = "jobguard_operation"
REVISION_DIGITS = 19  # of 2^63


@dataclass(frozen=True, slots=True)
class IfMatch:
    """Marks the parameter that is the revision in If-Match; `noun` is whose.

    `or_new`: it may be `If-None-Match: *` instead, for what is not there; that is revision 0.
    """

    noun: str
    or_new: bool = False


Id = Annotated[str, msgspec.Meta(description="An id that a list gave out.")]
Limit = Annotated[int, msgspec.Meta(ge=1, le=500, description="How many items at most.")]
Cursor = Annotated[str, msgspec.Meta(description="The `next_cursor` of the page before.")]
JobName = Annotated[str, msgspec.Meta(description="Only of this job.")]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
Why = Annotated[str, msgspec.Meta(min_length=1, description="Kept in the audit log.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What a view takes and gives."""

    view: Callable[..., Any]
    types: Mapping[str, Any]  # of its parameters, and of what it returns
    status: int = 200
    etag: bool = False
    location: Callable[[Any], str] | None = None
    refuses: tuple[type[JobguardError], ...] = ()

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self.view).parameters

    @property
    def body(self) -> str | None:
        """The parameter that is the body."""
        return next((name for name in self.parameters if is_struct(self.types[name])), None)

    @property
    def seen(self) -> tuple[str, IfMatch] | None:
        """The parameter that is the revision in If-Match."""
        marked = ((name, mark(self.types[name])) for name in self.parameters)
        return next(((name, found) for name, found in marked if found), None)

    def query(self, path: Mapping[str, Any]) -> dict[str, inspect.Parameter]:
        """The other parameters, where those of the `path` are known."""
        taken = {*path, self.body, *(self.seen or ())[:1]}
        return {name: each for name, each in self.parameters.items() if name not in taken}

    def __call__(self, **path: Any) -> Response:
        given = {**path, **self._asked(path)}
        if self.seen:
            name, marked = self.seen
            given[name] = seen_revision(marked)
        if self.body:
            given[self.body] = sent(self.types[self.body])
        value = self.view(**given)
        response = answer(value, status=self.status, etag=str(value.revision) if self.etag else None)
        if self.location:
            response.headers["Location"] = self.location(value)
        return response

    def _asked(self, path: Mapping[str, Any]) -> dict[str, Any]:
        """What stands in the query; left empty is not asked."""
        query = self.query(path)
        if foreign := sorted(request.args.keys() - query.keys()):
            known = f"known are {', '.join(query)}" if query else "there is none here"
            raise BadRequest(f"{', '.join(foreign)}: no such parameter; {known}")
        given = {name: text for name, text in request.args.items() if text}
        for name, parameter in query.items():
            if name not in given and parameter.default is parameter.empty:
                raise BadRequest(f"the parameter {name} is missing")
        return {name: self._read(name, text) for name, text in given.items()}

    def _read(self, name: str, text: str) -> Any:
        try:
            return msgspec.convert(text, self.types[name], strict=False)
        except msgspec.ValidationError as error:
            raise BadRequest(f"{name} = {text!r} cannot be used: {error}") from None


def operation(
    *,
    status: int = 200,
    etag: bool = False,
    location: Callable[[Any], str] | None = None,
    refuses: tuple[type[JobguardError], ...] = (),
) -> Callable[[Callable[..., Any]], Callable[..., Response]]:
    """Answer with what the view returns. `etag`: with its revision; `location`: where it is from now on;
    `refuses`: what it raises beside the errors that follow from its signature."""

    def make(view: Callable[..., Any]) -> Callable[..., Response]:
        told = Operation(
            view=view,
            types=get_type_hints(view, include_extras=True),
            status=status,
            etag=etag,
            location=location,
            refuses=refuses,
        )

        @functools.wraps(view)
        def run(**path: Any) -> Response:
            return told(**path)

        setattr(run, OPERATION, told)
        return run

    return make


def is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def mark(kind: Any) -> IfMatch | None:
    return next((each for each in getattr(kind, "__metadata__", ()) if isinstance(each, IfMatch)), None)


def seen_revision(marked: IfMatch) -> int:
    """The revision in If-Match. One that is no revision of ours matches nothing, so it reads as -1."""
    offered = request.if_match
    if marked.or_new and not offered and request.if_none_match.star_tag:
        return 0
    if not offered or offered.star_tag:
        new = ", or If-None-Match: * for a new one" if marked.or_new else ""
        raise PreconditionRequired(
            f'send If-Match: "<revision>" with the revision of the {marked.noun} you saw{new}'
        )
    revisions = [int(each) for each in offered.as_set() if each.isdecimal() and len(each) <= REVISION_DIGITS]
    return revisions[0] if len(revisions) == 1 else -1


def sent(kind: Any) -> Any:
    """The body of the request."""
    try:
        return msgspec.json.decode(request.get_data() or b"{}", type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRequest(f"the body is no {kind.__name__}: {error}") from None
