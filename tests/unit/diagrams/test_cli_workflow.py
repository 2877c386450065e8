"""The drawings of workflows are what really runs: held to the reactions and the engine, and current in the docs."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from diagrams.docs import draw, renew, renewed
from diagrams.draw import every_outcome
from diagrams.model import OUTCOMES, play
from orchestrator.engine import FORWARD, State, decide
from orderflow import contracts as c
from orderflow.contracts import Workflow, name_of
from orderflow.routing import COORDINATOR, TABLE
from orderflow.saga import STEPS
from runtime import RuntimeProblem
from services.inventory import reactions as inventory
from services.payment import reactions as payment
from services.shipping import reactions as shipping

REACT = {"inventory": inventory.react, "payment": payment.react, "shipping": shipping.react}
STEP = {step.service: step for step in STEPS}
ITEM = c.Item(sku="A", quantity=1)
MONEY = c.Money(amount=1, currency="EUR")
PLACE = c.Address(name="A", line1="1", city="B", postal_code="1", country="DE")
SNAPSHOT = c.OrderSnapshot(items=(ITEM,), total=MONEY, payment_method="pm", address=PLACE)
FIELDS = {
    "order": SNAPSHOT, "items": (ITEM,), "amount": MONEY, "payment_method": "pm", "address": PLACE,
    "payment_id": "p", "shipment_id": "s",
}  # fmt: skip
ALL = [(workflow, outcome) for workflow in TABLE for outcome in OUTCOMES]


def sample(message: type[c.Message]) -> c.Message:
    return message(**{name: value for name, value in FIELDS.items() if name in message.model_fields})


@pytest.mark.parametrize(("workflow", "outcome"), ALL)
def test_services_do_what_is_drawn(workflow: Workflow, outcome: str) -> None:
    """Each message that a service acts upon becomes, by its own reaction, the command whose outcome is drawn next; one
    that it only notes becomes nothing."""
    told = play(workflow, outcome)
    for i, tell in enumerate(told):
        for name in set(tell.receivers) & REACT.keys():
            command = REACT[name](sample(tell.message))
            assert (command is not None) == (name in tell.acts)
            step = STEP[name]
            answers = {step.command: {step.success, step.refusal}, step.undo: {step.undone}}[type(command)]  # type: ignore[index]
            assert any(t.sender == name and t.message in answers for t in told[i + 1 :])


@pytest.mark.parametrize(("workflow", "outcome"), [(w, o) for w, o in ALL if w in FORWARD])
def test_the_orchestrator_decides_what_is_drawn(workflow: Workflow, outcome: str) -> None:
    """Fact by fact, the engine's decision is the next message that the drawing has the coordinator send."""
    told = play(workflow, outcome)
    sent = iter(t.message for t in told if t.sender == COORDINATOR[workflow])
    facts: set[str] = set()
    last = None
    for tell in told:
        if COORDINATOR[workflow] not in tell.receivers:
            continue
        if tell.message is not c.OrderPlaced:
            facts.add(name_of(tell.message))
        decision = decide(workflow, facts)
        if decision.send is not None and decision.send is not last:
            assert next(sent) is decision.send
        last = decision.send
    assert next(sent, None) is None
    assert decide(workflow, facts).state in (State.CONFIRMED, State.CANCELLED)


@pytest.mark.parametrize(("workflow", "outcome"), ALL)
def test_every_play_ends(workflow: Workflow, outcome: str) -> None:
    """With the arbiter's decision, each message sent once."""
    told = play(workflow, outcome)
    assert told[-1].name == ("OrderConfirmed" if outcome == "success" else "OrderCancelled")
    assert len({(t.sender, t.name) for t in told}) == len(told)


@pytest.mark.parametrize("workflow", TABLE)
def test_drawings_are_always_the_same(workflow: Workflow) -> None:
    """And whole: every message is in each, the SVG is XML, Mermaid's blocks are closed."""
    outcomes = every_outcome()
    drawn = {form: draw(workflow, outcomes, form) for form in ("text", "mermaid", "svg")}
    assert drawn == {form: draw(workflow, outcomes, form) for form in drawn}
    for form, picture in drawn.items():
        for outcome in outcomes:
            for tell in play(workflow, outcome):
                assert tell.name in picture, form
    ET.fromstring(drawn["svg"])
    words = [line.split()[0] for line in drawn["mermaid"].splitlines()]
    assert words.count("alt") == words.count("end") == 3
    assert ";" not in drawn["mermaid"], "a semicolon ends a statement there"
    assert max(len(line) for line in drawn["text"].splitlines()[1:]) <= 100


def test_docs_are_made_anew_between_their_markers(tmp_path: Path) -> None:
    """What is around them stays; a second run changes nothing."""
    page = tmp_path / "page.md"
    page.write_text("# A\n<!-- workflow:hybrid success text -->\nold\n<!-- /workflow -->\nrest\n")
    assert renew([page], check=True) == [page]
    assert "old" in page.read_text()
    assert renew([page], check=False) == [page]
    made = page.read_text()
    assert made.startswith("# A\n<!-- workflow:hybrid success text -->\n```text\nhybrid: ")
    assert made.endswith("```\n<!-- /workflow -->\nrest\n")
    assert renew([page], check=False) == []


def test_an_svg_tells_how_it_was_made(tmp_path: Path) -> None:
    """So it can be checked like a page."""
    picture = tmp_path / "a.svg"
    picture.write_text(draw(Workflow.CHOREOGRAPHY, ["success", "declined"], "svg") + "\n")
    assert renew([picture], check=True) == []
    picture.write_text(picture.read_text().replace("OrderPlaced", "OrderDropped"))
    assert renew([picture], check=True) == [picture]


@pytest.mark.parametrize(
    "content",
    [
        "<!-- workflow:chaos -->\n<!-- /workflow -->",
        "<!-- workflow:hybrid perhaps -->\n<!-- /workflow -->",
        "<!-- workflow: -->\n<!-- /workflow -->",
        "<!-- workflow:hybrid -->\nno end",
    ],
)
def test_a_marker_that_is_wrong_is_named(content: str) -> None:
    with pytest.raises(RuntimeProblem, match=r"page\.md"):
        renewed("page.md", content)


def test_check_fails_where_a_drawing_is_not_current(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- workflow:choreography -->\n<!-- /workflow -->\n")
    run = CliRunner()
    assert run.invoke(app, ["workflow", "docs", "--check", str(page)]).exit_code == 1
    assert run.invoke(app, ["workflow", "docs", str(page)]).exit_code == 0
    assert run.invoke(app, ["workflow", "docs", "--check", str(page)]).exit_code == 0


def test_show_needs_no_system() -> None:
    """One workflow or all, in every format."""
    run = CliRunner()
    assert "OrderPaid" in run.invoke(app, ["workflow", "show"]).output
    assert run.invoke(app, ["workflow", "show", "hybrid", "-f", "mermaid"]).output.startswith("sequenceDiagram\n")
    result = run.invoke(app, ["workflow", "show", "-f", "svg"])
    assert isinstance(result.exception, RuntimeProblem)


def test_the_projects_own_drawings_are_current() -> None:
    """README and docs."""
    pages = [Path("README.md"), *Path("docs").rglob("*.md")]
    pictures = [p for p in Path("docs").rglob("*.svg") if "<!-- workflow:" in p.read_text()]
    assert renew([p for p in pages if p.exists()] + pictures, check=True) == []
