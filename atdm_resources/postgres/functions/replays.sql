-- Lease a run that has ended, or is new to this database. The caller loads its rows in the same
-- transaction. For the owner of the catalog. Raises REQUEST_CONFLICT if the run is ready or leased,
-- RUN_NOT_FOUND without its request.
CREATE OR REPLACE FUNCTION atdm.lease_replayed(
    test_run_id text,
    as_of timestamptz,
    data jsonb,
    owner text,
    ttl interval,
    owner_secret_sha256 bytea,
    invoker text,
    source text
) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    request atdm.request;
    scenario atdm.scenario;
    run atdm.test_run;
    existing atdm.test_run;
    moment timestamptz := clock_timestamp();
    token text := atdm.new_token();
BEGIN
    SELECT q.* INTO request FROM atdm.request AS q
    WHERE q.request_id = left(lease_replayed.test_run_id, 20) || '000000';
    IF NOT FOUND THEN
        PERFORM atdm.fail('RUN_NOT_FOUND',
            format('no request of test run %s', lease_replayed.test_run_id));
    END IF;
    PERFORM atdm.enter_domain(request.domain);
    SELECT s.* INTO scenario FROM atdm.scenario AS s
    WHERE s.domain = request.domain AND s.scenario_id = request.scenario_id
      AND s.version = request.scenario_version;
    ttl := atdm.lease_ttl(ttl, scenario.lease_ttl);
    INSERT INTO atdm.test_run AS r
        (test_run_id, status, as_of, data, token_sha256, owner, owner_secret_sha256, leased_at,
         expires_at)
    VALUES
        (lease_replayed.test_run_id, 'leased', lease_replayed.as_of, lease_replayed.data,
         sha256(convert_to(token, 'UTF8')), lease_replayed.owner,
         lease_replayed.owner_secret_sha256, moment, moment + ttl)
    ON CONFLICT ON CONSTRAINT pk_test_run DO UPDATE
    SET status = 'leased', data = excluded.data, token_sha256 = excluded.token_sha256,
        owner = excluded.owner, owner_secret_sha256 = excluded.owner_secret_sha256,
        leased_at = excluded.leased_at, expires_at = excluded.expires_at, ended_at = NULL,
        deleted = NULL, cleanup_strategy = NULL, retry_at = NULL
    WHERE r.status IN ('cleaned', 'expired')
    RETURNING r.* INTO run;
    IF NOT FOUND THEN
        SELECT r.* INTO existing FROM atdm.test_run AS r
        WHERE r.test_run_id = lease_replayed.test_run_id;
        PERFORM atdm.fail('REQUEST_CONFLICT',
            format('test run %s is %s: its rows are there', existing.test_run_id, existing.status),
            jsonb_build_object('test_run_id', existing.test_run_id, 'status', existing.status,
                'owner', existing.owner, 'expires_at', existing.expires_at));
    END IF;
    RETURN atdm.lease_answer(run, scenario, token, invoker, source);
END;
$$;
