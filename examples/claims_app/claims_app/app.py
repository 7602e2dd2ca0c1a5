"""Pages and API of the claims desk.

Run it with ``uvicorn claims_app.app:app``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs

import psycopg
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.templating import Jinja2Templates
from pydantic import BaseModel, Field

from claims_app import database

TEMPLATES = Jinja2Templates(directory=Path(__file__).parent / "templates")
app = FastAPI(title="Claims desk")


class Text(BaseModel):
    """A note's or an appeal's text."""

    text: str = Field(min_length=1, max_length=2000)


async def form(request: Request) -> dict[str, str]:
    """The fields of a posted form; the last value of each."""
    fields = parse_qs((await request.body()).decode(), keep_blank_values=True)
    return {name: values[-1].strip() for name, values in fields.items()}


Form = Annotated[dict[str, str], Depends(form)]


@app.get("/", response_class=HTMLResponse)
def start(request: Request, member_id: str | None = None) -> Response:
    """Look a member up."""
    if member_id is None:
        return _page(request, "start.html", {})
    with database.connected() as connection:
        known = database.member(connection, member_id.strip())
    if known is None:
        context = {"member_id": member_id, "error": "There is no such member."}
        return _page(request, "start.html", context, status=404)
    return RedirectResponse(f"/members/{known['member_id']}", 303)


@app.get("/members/{member_id}", response_class=HTMLResponse)
def member_page(request: Request, member_id: str) -> Response:
    """A member, the claims, and a form for a new one."""
    return _page(request, "member.html", _member(member_id))


@app.post("/members/{member_id}/claims")
def submit_claim(request: Request, member_id: str, fields: Form) -> Response:
    """Submit a claim."""
    try:
        with database.connected() as connection:
            claim_id = database.submit_claim(
                connection,
                member_id,
                fields.get("provider_id", ""),
                fields.get("procedure_code", ""),
            )
    except psycopg.errors.ForeignKeyViolation:
        context = {**_member(member_id), "error": "No such provider or procedure."}
        return _page(request, "member.html", context, status=422)
    return RedirectResponse(f"/claims/{claim_id}", 303)


@app.get("/claims", response_class=HTMLResponse)
def worklist_page(request: Request, status: str = "denied") -> Response:
    """Everybody's claims of one status."""
    with database.connected() as connection:
        claims = database.worklist(connection, status)
    return _page(request, "worklist.html", {"status": status, "claims": claims})


@app.get("/claims/{claim_id}", response_class=HTMLResponse)
def claim_page(request: Request, claim_id: str) -> Response:
    """A claim with its notes and appeals."""
    return _page(request, "claim.html", _claim(claim_id))


@app.post("/claims/{claim_id}/notes")
def add_note(request: Request, claim_id: str, fields: Form) -> Response:
    """Write a note."""
    return _written(request, claim_id, "note", fields)


@app.post("/claims/{claim_id}/appeals")
def file_appeal(request: Request, claim_id: str, fields: Form) -> Response:
    """Appeal against a denial."""
    return _written(request, claim_id, "appeal", fields)


@app.get("/api/members/{member_id}")
def api_member(member_id: str) -> dict[str, Any]:
    """A member with the claims."""
    found = _member(member_id)
    return {**found["member"], "claims": found["claims"]}


@app.get("/api/claims/{claim_id}")
def api_claim(claim_id: str) -> dict[str, Any]:
    """A claim with its notes and appeals."""
    found = _claim(claim_id)
    return {**found["claim"], "notes": found["notes"], "appeals": found["appeals"]}


@app.post("/api/claims/{claim_id}/notes", status_code=201)
def api_add_note(claim_id: str, note: Text) -> dict[str, Any]:
    """Write a note."""
    _claim(claim_id)
    with database.connected() as connection:
        database.add_note(connection, claim_id, note.text)
    return api_claim(claim_id)


@app.post("/api/claims/{claim_id}/appeals", status_code=201)
def api_file_appeal(claim_id: str, appeal: Text) -> dict[str, Any]:
    """Appeal against a denial."""
    claim = _claim(claim_id)["claim"]
    if claim["status"] != "denied":
        raise HTTPException(409, f"the claim is {claim['status']}: only a denial can be appealed")
    with database.connected() as connection:
        database.file_appeal(connection, claim, appeal.text)
    return api_claim(claim_id)


def _member(member_id: str) -> dict[str, Any]:
    with database.connected() as connection:
        member = database.member(connection, member_id)
        if member is None:
            raise HTTPException(404, "there is no such member")
        claims = database.claims_of(connection, member_id)
        return {"member": member, "claims": claims, "procedures": database.choices(connection)}


def _claim(claim_id: str) -> dict[str, Any]:
    with database.connected() as connection:
        claim = database.claim(connection, claim_id)
        if claim is None:
            raise HTTPException(404, "there is no such claim")
        return {
            "claim": claim,
            "notes": database.notes(connection, claim_id),
            "appeals": database.appeals(connection, claim_id),
        }


def _written(request: Request, claim_id: str, what: str, fields: Mapping[str, str]) -> Response:
    found = _claim(claim_id)
    text = fields.get("text", "")
    if not text:
        context = {**found, "error": f"The {what} has no text."}
        return _page(request, "claim.html", context, status=422)
    with database.connected() as connection:
        if what == "note":
            database.add_note(connection, claim_id, text)
        else:
            database.file_appeal(connection, found["claim"], text)
    return RedirectResponse(f"/claims/{claim_id}", 303)


def _page(request: Request, name: str, context: Mapping[str, Any], status: int = 200) -> Response:
    return TEMPLATES.TemplateResponse(request, name, dict(context), status_code=status)
