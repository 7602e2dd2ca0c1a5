-- From version 0009 to 0001_catalog, which differ in how resets are made. The functions follow.

UPDATE atdm.alembic_version SET version_num = '0001_catalog';
DROP TABLE atdm.reset_path;
DO $$
DECLARE
    old regprocedure;
BEGIN
    FOR old IN
        SELECT oid FROM pg_proc
        -- The two that tables use are replaced.
        WHERE pronamespace = 'atdm'::regnamespace AND proname NOT IN ('luhn_holds', 'refuse_change')
    LOOP
        EXECUTE 'DROP FUNCTION ' || old;
    END LOOP;
END;
$$;
CREATE TABLE atdm.reset_function (
    domain text COLLATE "C",
    relations oid[] NOT NULL,
    fingerprint text NOT NULL,
    CONSTRAINT pk_reset_function PRIMARY KEY (domain)
);
COMMENT ON TABLE atdm.reset_function IS
    'The tables and foreign keys that the functions atdm.delete_<domain> were written for.';
