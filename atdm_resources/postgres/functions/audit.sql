-- Recorded events never change (requirement A-AUD-12).
CREATE OR REPLACE FUNCTION atdm.refuse_change() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION '%.% is append-only: % refused', TG_TABLE_SCHEMA, TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'restrict_violation';
END;
$$;

-- The text of an event that is hashed: a JSON array, the same in every session.
CREATE OR REPLACE FUNCTION atdm.canonical_event(event atdm.audit_event) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
AS $$
    SELECT jsonb_build_array(event.event_id, event.xid::text,
        to_char(event.at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), event.action, event.status,
        event.domain, event.scenario_id, event.request_id, event.test_run_id, event.invoker,
        event.source, event.inputs, event.tools_called, event.outputs, event.schema_version)::text
$$;
