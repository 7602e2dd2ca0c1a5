"""A domain file (``scenarios/<domain>/domain.yaml``) and the bundle's ``atdm.yaml``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from atdm_engine.values.fields import Duration, Identifier, SpecModel

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


class ClonePool(SpecModel):
    """Databases that are made ahead from a baseline, so that leasing one takes milliseconds."""

    ready: int = Field(ge=1, le=1000, description="How many to hold ready; each is a database.")
    baseline: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")] = Field(
        "latest",
        description="The baseline they are made from: its id; latest: the newest, or an empty "
        "database where there is none; empty: initialised, without test runs.",
    )
    max_age: Duration = Field("1d", description="Older ones are replaced.")


class BundleSpec(SpecModel):
    """The bundle's ``atdm.yaml``. Those of several folders are read together."""

    default_domain: Identifier | None = Field(
        None,
        description="The domain of a scenario file that lies in no domain folder and names none; "
        "one file has to say it.",
    )
    clones: dict[Identifier, ClonePool] = Field(
        {}, description="By domain: databases to hold ready for atdm baseline-clone."
    )
