-- Run after the functions, each time they are created.

-- Recorded events never change (requirement A-AUD-12).
CREATE OR REPLACE TRIGGER audit_event_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON atdm.audit_event
    FOR EACH STATEMENT EXECUTE FUNCTION atdm.refuse_change();
CREATE OR REPLACE TRIGGER audit_seal_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON atdm.audit_seal
    FOR EACH STATEMENT EXECUTE FUNCTION atdm.refuse_change();

-- PUBLIC may read nothing and call one function, which CHECK constraints of tables use. What
-- role atdm_client may call is granted by atdm init.
REVOKE ALL ON ALL TABLES IN SCHEMA atdm FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA atdm FROM PUBLIC;
GRANT EXECUTE ON FUNCTION atdm.luhn_holds(text) TO PUBLIC;
GRANT USAGE ON SCHEMA atdm TO PUBLIC;
