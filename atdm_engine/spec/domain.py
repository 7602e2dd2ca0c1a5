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

    starts_with: str | None = Field(None, description="Every value starts with this text.")
    equals: str | None = Field(None, description="Every value is this text.")


class DomainSpec(SpecModel):
    """What holds for every table of a domain."""

    description: str = Field(min_length=1, description="What the domain is about, in a sentence.")
    locale: str = Field("en_US", description="The locale of the faker vocabularies.")
    owners: list[str] = Field(
        [], description="E-mail addresses or team:NAME, shown in the Dagster UI."
    )
    markers: dict[QualifiedColumn, Marker] = Field(
        {}, description="By table.column: what makes its values recognisably synthetic."
    )
    forbidden: dict[Identifier, str] = Field(
        {}, description="Patterns that no text of the domain may contain, by name."
    )


class BundleSpec(SpecModel):
    """The bundle's ``atdm.yaml``."""

    default_domain: Identifier = Field(
        description="The domain of a scenario file that lies in no domain folder and names none."
    )
