-- Raise an error that clients turn back into its code. The details are JSON.
CREATE OR REPLACE FUNCTION atdm.fail(code text, message text, details jsonb DEFAULT '{}')
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = CASE fail.code
            WHEN 'SCENARIO_NOT_FOUND' THEN 'AT001'
            WHEN 'CONSTRAINT_INVALID' THEN 'AT002'
            WHEN 'NONE_READY' THEN 'AT003'
            WHEN 'BUSY' THEN 'AT004'
            WHEN 'RUN_NOT_FOUND' THEN 'AT005'
            WHEN 'TARGET_NOT_DISPOSABLE' THEN 'AT006'
            WHEN 'REQUEST_INVALID' THEN 'AT007'
            WHEN 'TOKEN_MISMATCH' THEN 'AT008'
            WHEN 'RESET_FAILED' THEN 'AT009'
            WHEN 'REQUEST_CONFLICT' THEN 'AT010'
            WHEN 'TARGET_NOT_INITIALISED' THEN 'AT011'
            ELSE 'AT000'
        END,
        MESSAGE = fail.message,
        DETAIL = jsonb_build_object('code', fail.code, 'details', fail.details)::text;
END;
$$;

-- The fields of an error, raised by atdm.fail or by PostgreSQL, for an answer and the audit trail.
CREATE OR REPLACE FUNCTION atdm.error_fields(state text, message text, detail text) RETURNS jsonb
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN state LIKE 'AT%'
        THEN jsonb_build_object('message', message) || detail::jsonb
        ELSE jsonb_build_object('code',
                 CASE WHEN state IN ('55P03', '40P01', '40001') THEN 'BUSY'
                      ELSE 'RESET_FAILED' END,
                 'message', message,
                 'details', jsonb_build_object('sqlstate', state, 'detail', detail)) END
$$;
