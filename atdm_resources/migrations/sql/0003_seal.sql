-- The sealed trail: each event's hash covers the hash before it. An event is sealed once no
-- transaction is open that could still write one before it.

CREATE INDEX ix_audit_event_xid ON atdm.audit_event (xid, event_id);

CREATE TABLE atdm.audit_seal (
    seal_number bigint,
    event_id bigint NOT NULL,
    xid xid8 NOT NULL,
    hash bytea NOT NULL,
    sealed_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_audit_seal PRIMARY KEY (seal_number),
    CONSTRAINT uq_audit_seal_event_id UNIQUE (event_id),
    CONSTRAINT ck_audit_seal_hash CHECK (octet_length(hash) = 32)
);
COMMENT ON COLUMN atdm.audit_seal.seal_number IS 'From 1 without gaps, in the order of the chain.';
CREATE TRIGGER audit_seal_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON atdm.audit_seal
    FOR EACH STATEMENT EXECUTE FUNCTION atdm.refuse_change();

-- What is hashed of an event: one JSON array, the same in every session.
CREATE FUNCTION atdm.canonical_event(event atdm.audit_event) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
AS $$
    SELECT jsonb_build_array(event.event_id, event.xid::text,
        to_char(event.at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), event.action, event.status,
        event.domain, event.scenario_id, event.request_id, event.test_run_id, event.invoker,
        event.source, event.inputs, event.tools_called, event.outputs, event.schema_version)::text
$$;

CREATE TABLE atdm.audit_export (
    first_seal bigint,
    last_seal bigint NOT NULL,
    files jsonb,
    exported_at timestamptz,
    CONSTRAINT pk_audit_export PRIMARY KEY (first_seal),
    CONSTRAINT ck_audit_export_range CHECK (last_seal >= first_seal)
);
COMMENT ON TABLE atdm.audit_export IS
    'A range of seals and the files it is in; without files: begun, to be written again.';
