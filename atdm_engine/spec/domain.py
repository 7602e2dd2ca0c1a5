"""A domain file (``scenarios/<domain>/domain.yaml``) and the bundle's ``atdm.yaml``.

Belongs here: what holds for all tables of a domain. Does not belong here: tables and scenarios.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from atdm_engine.spec.base import Identifier, SpecModel

QualifiedColumn = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*$")]


class Marker(SpecModel):
    """What makes a value recognisably synthetic; holds in pandera and as a database CHECK."""

    starts_with: str | None = None
    equals: str | None = None


class DomainSpec(SpecModel):
    description: str = Field(min_length=1)
    locale: str = "en_US"
    owners: list[str] = Field([], description="E-mail addresses or team:NAME, shown in the Dagster UI.")
    markers: dict[QualifiedColumn, Marker] = {}
    forbidden: dict[Identifier, str] = Field(
        {}, description="Patterns that no text of the domain may contain, by name."
    )


class BundleSpec(SpecModel):
    default_domain: Identifier = Field(
        description="The domain of a scenario file that lies in no domain folder and names none."
    )
