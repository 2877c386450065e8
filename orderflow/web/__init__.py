"""The HTTP side of every service: strict requests, problem+json answers, keys, health, metrics, OpenAPI.

A service's `api.py` writes views and declares them; `create_app` does the rest:

    class RestockRequest(RequestModel):
        quantity: Annotated[int, Field(gt=0, le=MAX_QUANTITY)]

    class StockAnswer(BaseModel):
        sku: str
        available: int
        reserved: int

    def blueprint(service: Service) -> Blueprint:
        api = Blueprint("inventory", __name__)

        @api.post("/stock/<sku:sku>/restock")
        @operation("Adds pieces", body=RestockRequest, answers={200: StockAnswer}, problems=(404,), access="operator",
                   idempotent="key")
        def restock(sku: str) -> Answer:
            asked = body(RestockRequest)

            def add(unit: UnitOfWork) -> Answer:
                ...
                return StockAnswer(...)        # or: StockAnswer(...), 202, {"Location": ...}

            return once(service.outbox, asked, add)

        return api

- A view returns a model, a mapping, or a Flask answer, with status and headers if they differ from the defaults.
- A view raises `orderflow.errors.Problem` to refuse; `Transient` becomes 503 with Retry-After; any other error is
  logged and becomes a 500 without details.
- A POST declares why it may be repeated after its answer was lost: `idempotent="itself"`, or "key" with `once` or
  `in_steps`, which honour `Idempotency-Key`.
- Path converters: `<id:order_id>` accepts a canonical UUID, `<sku:sku>` a SKU; anything else is 404.
- `body` and `query` refuse fields that the model doesn't know, and name each by its JSON pointer.
- Every view needs an API key (`ORDERFLOW_AUTH=key`) unless its access is "operator" or "open".
"""

from orderflow.web.app import create_app
from orderflow.web.auth import guard
from orderflow.web.fields import LINE, Time
from orderflow.web.idempotency import in_steps, once
from orderflow.web.operations import Answer, operation
from orderflow.web.parsing import MAX_BODY, OperatorRequest, RequestModel, body, query
from orderflow.web.problems import not_found

__all__ = [
    "LINE", "MAX_BODY", "Answer", "OperatorRequest", "RequestModel", "Time", "body", "create_app", "guard", "in_steps",
    "not_found", "once", "operation", "query",
]  # fmt: skip
