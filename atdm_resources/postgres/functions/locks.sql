-- Keys of advisory locks. Locks of a transaction work through PgBouncer in transaction mode, so
-- each holder keeps a transaction open (ADR 0006).
CREATE OR REPLACE FUNCTION atdm.domain_lock_key(domain text) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$ SELECT pg_catalog.hashtextextended('atdm.domain:' || domain, 0) $$;

CREATE OR REPLACE FUNCTION atdm.request_lock_key(request_id text) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$ SELECT pg_catalog.hashtextextended('atdm.request:' || request_id, 0) $$;

-- Hold a shared lock on a domain until the transaction ends. Raises TARGET_NOT_INITIALISED without
-- the domain, TARGET_NOT_DISPOSABLE if the database has no mark of its own (a copy has that of the
-- original), BUSY while all rows of the domain are replaced.
CREATE OR REPLACE FUNCTION atdm.enter_domain(domain text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    draining timestamptz;
    marked boolean;
BEGIN
    SELECT d.draining_until,
           EXISTS (SELECT FROM atdm.target AS t WHERE t.database_name = current_database())
    INTO draining, marked
    FROM atdm.domain AS d WHERE d.domain = enter_domain.domain;
    IF NOT FOUND THEN
        PERFORM atdm.fail('TARGET_NOT_INITIALISED',
            format('domain %s is not set up in database %s; run atdm init',
                enter_domain.domain, current_database()),
            jsonb_build_object('domain', enter_domain.domain));
    ELSIF NOT marked THEN
        PERFORM atdm.fail('TARGET_NOT_DISPOSABLE',
            format('database %s is not marked disposable; run atdm init', current_database()),
            jsonb_build_object('database', current_database()));
    END IF;
    IF draining > clock_timestamp()
        OR NOT pg_try_advisory_xact_lock_shared(atdm.domain_lock_key(enter_domain.domain))
    THEN
        PERFORM atdm.fail('BUSY',
            format('domain %s is being reset or restored; try again in a moment',
                enter_domain.domain),
            jsonb_build_object('domain', enter_domain.domain));
    END IF;
END;
$$;
