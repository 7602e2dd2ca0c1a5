-- What may not be changed, and who may call what.

-- What happened stays as it was written (requirement A-AUD-12).
CREATE OR REPLACE TRIGGER audit_event_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON atdm.audit_event
    FOR EACH STATEMENT EXECUTE FUNCTION atdm.refuse_change();
CREATE OR REPLACE TRIGGER audit_seal_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON atdm.audit_seal
    FOR EACH STATEMENT EXECUTE FUNCTION atdm.refuse_change();

-- Whoever is not named may call nothing and read nothing.
REVOKE ALL ON ALL TABLES IN SCHEMA atdm FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA atdm FROM PUBLIC;
-- Called by CHECK constraints of tables that the application writes to.
GRANT EXECUTE ON FUNCTION atdm.luhn_holds(text) TO PUBLIC;
GRANT USAGE ON SCHEMA atdm TO PUBLIC;
