"""The OpenAPI documents: their routes, examples, and the findings of schemathesis."""

from __future__ import annotations

import functools
import json
import re
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from referencing import Registry
from referencing.jsonschema import DRAFT202012
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import Failure
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from local.tasks import openapi_documents
from saldo.serve.http.problems import TYPE_PREFIX
from tests.support.live import DEADLINE_S, Live, fresh, problem_type
from tests.support.route_tables import apps

if TYPE_CHECKING:
    from collections.abc import Iterator

    from saldo.serve.server import FunctionApp

EXAMPLES_MAX = 12
METHODS = ("get", "post", "put", "delete")
APPS = {app.name: app for app in apps()}
SIDES = {"record_transaction": "record", "get_balance": "query"}


@functools.cache
def document_of(function: str) -> dict[str, Any]:
    return openapi_documents.document(SIDES[function])


def operations(function: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield method, path and operation, with the parameters of the path included."""
    for path, item in document_of(function)["paths"].items():
        for method in METHODS:
            if method in item:
                shared = item.get("parameters", [])
                operation = item[method]
                yield (
                    method.upper(),
                    path,
                    operation | {"parameters": shared + operation.get("parameters", [])},
                )


def resolved(function: str, each: dict[str, Any]) -> dict[str, Any]:
    found: Any = each
    if "$ref" in each:
        found = document_of(function)
        for part in each["$ref"].removeprefix("#/").split("/"):
            found = found[part]
    whole: dict[str, Any] = found
    return whole


EACH_APP = pytest.mark.parametrize("app", APPS.values(), ids=APPS)


@EACH_APP
def test_document_is_served_and_valid(live: Live, app: FunctionApp[Any, Any]) -> None:
    with live.client(app.name, None) as client:
        answer = client.get("/openapi.json")
        under_root = client.get(f"{app.router.root_path}/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == under_root.json() == document_of(app.name)
    # Raises when it is not of OpenAPI 3.1.
    schemathesis.openapi.from_dict(answer.json()).validate()


@EACH_APP
def test_routes_and_query_parameters_match_the_function(app: FunctionApp[Any, Any]) -> None:
    described = {}
    for method, path, operation in operations(app.name):
        parameters = [resolved(app.name, each) for each in operation["parameters"]]
        names = {p["name"] for p in parameters if p["in"] == "query"}
        described[method, re.sub(r"\{[^}]+\}", "{}", path)] = names
    assert described == {(r.method, r.path): set(r.query) for r in app.router.routes}


@EACH_APP
def test_problem_types_match_the_function(app: FunctionApp[Any, Any]) -> None:
    described = {each["type"] for each in document_of(app.name)["x-problems"]}
    assert described >= {TYPE_PREFIX + rule.name for rule in app.router.rules.values()}


@EACH_APP
def test_statuses_of_the_functions_errors_are_described(app: FunctionApp[Any, Any]) -> None:
    described = {
        status for _, _, operation in operations(app.name) for status in operation["responses"]
    }
    assert {str(rule.status) for rule in app.router.rules.values()} <= described


@EACH_APP
def test_document_is_the_one_made_from_the_code(app: FunctionApp[Any, Any]) -> None:
    """`make reference` makes it."""
    side = SIDES[app.name]
    assert openapi_documents.file_of(side).read_text() == openapi_documents.text(side)


@EACH_APP
@pytest.mark.parametrize("slash", ["", "/"])
def test_docs_page_loads_its_own_files_only(
    live: Live, app: FunctionApp[Any, Any], slash: str
) -> None:
    root_path = app.router.root_path
    with live.client(app.name, None) as client:
        page = client.get(f"{root_path}/docs{slash}")
        policy = page.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; connect-src 'self'; ")
        assert "unsafe" not in policy
        loaded = dict(re.findall(r' (src|spec-url)="([^"]+)"', page.text))
        document = client.get(loaded["spec-url"])
        viewer = client.get(loaded["src"])
        again = client.get(loaded["src"], headers={"If-None-Match": viewer.headers["etag"]})
    assert all(path.startswith(f"{root_path}/") for path in loaded.values())
    assert document.json() == document_of(app.name)
    assert viewer.headers["content-type"].startswith("text/javascript")
    assert (viewer.status_code, again.status_code) == (200, 304)
    assert len(viewer.text) > 1_000_000


# --- examples ---------------------------------------------------------------------------------


def examples() -> Iterator[tuple[str, str, str, str, str, dict[str, Any]]]:
    for function in APPS:
        for method, path, operation in operations(function):
            contents = operation.get("requestBody", {}).get("content", {})
            if not contents:
                yield function, method, path, "", "none", operation
            for kind, content in contents.items():
                for name in content["examples"]:
                    yield function, method, path, kind, name, operation


@pytest.mark.parametrize(
    ("function", "method", "path", "kind", "name", "operation"),
    [pytest.param(*each, id="-".join(each[:2]) + f"-{each[2]}-{each[4]}") for each in examples()],
)
def test_examples_get_the_described_responses(  # noqa: PLR0913 - the parts of an example
    live: Live,
    function: str,
    method: str,
    path: str,
    kind: str,
    name: str,
    operation: dict[str, Any],
) -> None:
    [recorded] = live.recorded("wesley", 5000)
    path = path.replace("{transactionId}", recorded["id"]).replace("{accountId}", "wesley")
    query = {}
    for each in operation["parameters"]:
        parameter = resolved(function, each)
        if parameter["in"] == "query" and parameter.get("required"):
            query[parameter["name"]] = parameter["example"]
    headers, content = {}, None
    if kind:
        value = operation["requestBody"]["content"][kind]["examples"][name]["value"]
        content = value if isinstance(value, str) else json.dumps(value)
        headers["content-type"] = kind
    if name == "binary":
        headers |= {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/x"}
        headers["ce-type"] = "saldo.balance.requested"
    with live.client(function, live.issuer.token()) as client:
        request = client.build_request(method, path, params=query, content=content, headers=headers)
        answer = client.send(request, stream=True)
        try:
            if path.endswith("stream"):
                assert answer.headers["content-type"].startswith("text/event-stream")
                return
            answer.read()
        finally:
            answer.close()
    expected = min(operation["responses"])
    assert str(answer.status_code) == expected, answer.text
    response = resolved(function, operation["responses"][expected])
    for header, described in response.get("headers", {}).items():
        if resolved(function, described).get("required"):
            assert header in answer.headers
    if "content" in response:
        told = answer.headers["content-type"]
        check(function, response["content"][told]["schema"], answer.json())


def check(function: str, schema: dict[str, Any], body: object) -> None:
    """Check ``body`` against ``schema`` of the function's document."""
    resource = DRAFT202012.create_resource(document_of(function))
    registry: Registry[Any] = Registry().with_resource("urn:document", resource)
    text = json.dumps(schema).replace('"#/', '"urn:document#/')
    validator = jsonschema.Draft202012Validator(
        json.loads(text),
        registry=registry,
        format_checker=jsonschema.FormatChecker(),
    )
    validator.validate(body)


@EACH_APP
def test_every_described_number_has_an_exact_text_beside_it(app: FunctionApp[Any, Any]) -> None:
    """Wherever `value` is a number; that responses are as described, the other tests show."""
    money = {"$ref": "#/components/schemas/Money"}
    described = [
        each
        for each in objects_of(document_of(app.name)["components"]["schemas"])
        if each.get("properties", {}).get("value") == money
    ]
    assert described
    assert [each for each in described if "valueText" not in each["required"]] == []


def objects_of(content: object) -> Iterator[dict[str, Any]]:
    """Yield every object within ``content``."""
    if isinstance(content, dict):
        yield content
        content = list(content.values())
    if isinstance(content, list):
        for each in content:
            yield from objects_of(each)


@EACH_APP
def test_example_responses_match_their_schemas(app: FunctionApp[Any, Any]) -> None:
    count = 0
    for _, _, operation in operations(app.name):
        for each in operation["responses"].values():
            for content in resolved(app.name, each).get("content", {}).values():
                if "example" in content:
                    check(app.name, content["schema"], content["example"])
                    count += 1
    assert count >= 1
    problem = document_of(app.name)["components"]["schemas"]["Problem"]
    check(app.name, problem, problem["example"])


def test_real_problems_match_the_problem_schema(live: Live) -> None:
    """So that the checks below are not blind: they take any problem that fits this schema."""
    account_id = fresh()
    answer = live.record.post("/transactions", json=[{"accountId": account_id}])
    assert problem_type(answer) == "invalid-request"
    check("record_transaction", {"$ref": "#/components/schemas/Problem"}, answer.json())
    with pytest.raises(jsonschema.ValidationError):
        check("record_transaction", {"$ref": "#/components/schemas/Problem"}, {"type": "x"})


# --- schemathesis -----------------------------------------------------------------------------

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]


def run_schemathesis(
    live: Live, app: FunctionApp[Any, Any], method: str, path: str, mode: GenerationMode
) -> None:
    """Run a bounded number of examples of one operation against the live function."""
    schema = schemathesis.openapi.from_dict(document_of(app.name))
    operation = schema[path][method]
    [known] = live.recorded("wesley", 5)
    url = live.served[app.name].url
    authorization = {"Authorization": f"Bearer {live.issuer.token()}"}

    @settings(
        max_examples=EXAMPLES_MAX,
        deadline=None,
        database=None,
        verbosity=Verbosity.quiet,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def examine(case: schemathesis.Case[Any]) -> None:
        if case.path_parameters.get("transactionId") and len(str(case.headers)) % 2:
            # Half of what is asked is about something that is there.
            case.path_parameters["transactionId"] = known["id"]
        if "Prefer" in case.headers:
            case.headers["Prefer"] = "wait=0"
        checks = list(CHECKS)
        if path == "/balances/stream":
            case.method = "HEAD"  # a stream lasts 50 s
            checks = [not_a_server_error, status_code_conformance]
        response = case.call(base_url=url, headers=authorization, timeout=DEADLINE_S)
        if response.status_code == 503:
            # Said outright in the document: the projection may lag behind what a test wrote.
            assert response.headers["retry-after"]
            checks.remove(not_a_server_error)
        case.validate_response(response, checks=checks)

    examine()


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize(
    ("function", "method", "path"),
    [(function, method, path) for function in APPS for method, path, _ in operations(function)],
)
def test_schemathesis_finds_nothing(
    live: Live, function: str, method: str, path: str, mode: GenerationMode
) -> None:
    run_schemathesis(live, APPS[function], method, path, mode)


def test_schemathesis_finds_an_undescribed_status(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same run with an answer taken out of the document fails: the check sees."""
    document = json.loads(json.dumps(document_of("get_balance")))
    del document["paths"]["/transactions"]["get"]["responses"]["404"]
    del document["paths"]["/transactions"]["get"]["responses"]["400"]
    monkeypatch.setattr("tests.http.contract.test_openapi.document_of", lambda _: document)
    with pytest.raises((Failure, BaseExceptionGroup, AssertionError)):
        run_schemathesis(live, APPS["get_balance"], "GET", "/transactions", GenerationMode.POSITIVE)
