-- Resets: deleting the rows of test runs, and every row that refers to them, in any table.
--
-- The statements depend on the tables and foreign keys there are. Writing and planning them takes
-- longer than a small reset, so each domain has functions that contain them: delete_<domain>. They
-- are written again at the next reset after tables or foreign keys have changed.

-- Every foreign key that leads to the given tables, directly or through others: the table that is
-- referred to, the one that refers, and its rows c that refer to a row p of the other.
CREATE OR REPLACE FUNCTION atdm.referring(tables oid[])
RETURNS TABLE (parent oid, child oid, child_rows text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE
    keys AS MATERIALIZED (
        SELECT conrelid, confrelid, conkey, confkey, conpfeqop
        FROM pg_constraint WHERE contype = 'f'
    ),
    reached (relation) AS (
        SELECT unnest(tables)
        UNION
        SELECT k.conrelid FROM keys AS k JOIN reached AS r ON k.confrelid = r.relation
    )
    SELECT k.confrelid, k.conrelid, format('%s %s AS c WHERE %s',
        CASE WHEN child.relkind = 'p' THEN '' ELSE 'ONLY' END, k.conrelid::regclass,
        (SELECT string_agg(format('p.%I OPERATOR(%I.%s) c.%I',
                    pa.attname, n.nspname, o.oprname, ca.attname), ' AND ')
         FROM unnest(k.conkey, k.confkey, k.conpfeqop) AS pair (c, p, op)
         JOIN pg_attribute AS ca ON ca.attrelid = k.conrelid AND ca.attnum = pair.c
         JOIN pg_attribute AS pa ON pa.attrelid = k.confrelid AND pa.attnum = pair.p
         JOIN pg_operator AS o ON o.oid = pair.op
         JOIN pg_namespace AS n ON n.oid = o.oprnamespace))
    FROM keys AS k
    JOIN reached AS r ON r.relation = k.confrelid
    JOIN pg_class AS child ON child.oid = k.conrelid
    JOIN pg_class AS parent ON parent.oid = k.confrelid AND parent.relkind <> 'p'
$$;

-- What the functions of a domain depend on, as a text: its tables, and the foreign keys that lead
-- to `relations`. The text stays the same when a foreign key is dropped and added again.
CREATE OR REPLACE FUNCTION atdm.reset_fingerprint(domain text, relations oid[]) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN concat_ws(E'\n',
        (SELECT string_agg(concat_ws(' ', d.table_name,
                    to_regclass(format('%I.%I', d.schema_name, d.table_name))::oid), E'\n'
                    ORDER BY d.table_name)
         FROM atdm.domain_table AS d WHERE d.domain = reset_fingerprint.domain),
        (SELECT string_agg(concat_ws(' ', k.conrelid, k.conrelid::regclass, k.confrelid,
                    k.conpfeqop::regoperator[], pg_get_constraintdef(k.oid)), E'\n'
                    ORDER BY k.conrelid, k.conkey, k.confrelid, k.confkey)
         FROM pg_constraint AS k WHERE k.contype = 'f' AND k.confrelid = ANY (relations)));
END;
$$;

-- Make sure that the functions of a domain fit the tables and foreign keys there are. Returns their
-- name. A transaction that is writing them is not waited for: then functions of this session's own
-- are written, which the caller drops.
CREATE OR REPLACE FUNCTION atdm.prepare_reset(domain text) RETURNS text
LANGUAGE plpgsql
-- The functions belong to the owner of the catalog, also when a superuser resets.
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    name text := 'delete_' || domain;
    own oid[];
    reached oid[];
BEGIN
    PERFORM FROM atdm.reset_function AS f
    WHERE f.domain = prepare_reset.domain
      AND f.fingerprint = atdm.reset_fingerprint(f.domain, f.relations);
    IF FOUND THEN
        RETURN name;
    END IF;
    SELECT array_remove(array_agg(to_regclass(format('%I.%I', d.schema_name, d.table_name))::oid
               ORDER BY d.load_order), NULL)
    INTO own FROM atdm.domain_table AS d WHERE d.domain = prepare_reset.domain;
    SELECT array_agg(DISTINCT r.relation) INTO reached
    FROM (SELECT unnest(own) UNION ALL SELECT child FROM atdm.referring(own)) AS r (relation);
    IF pg_try_advisory_xact_lock(hashtextextended('atdm.reset_function:' || domain, 0)) THEN
        INSERT INTO atdm.reset_function AS f (domain, relations, fingerprint)
        VALUES (domain, reached, atdm.reset_fingerprint(domain, reached))
        ON CONFLICT ON CONSTRAINT pk_reset_function DO UPDATE
        SET relations = excluded.relations, fingerprint = excluded.fingerprint;
    ELSE
        name := 'session_delete_' || pg_backend_pid();
    END IF;
    PERFORM atdm.write_reset_function(name, own, reached, false),
        atdm.write_reset_function(name, own, reached, true);
    RETURN name;
END;
$$;

-- Write a function that deletes rows of the runs in its argument, or one without argument for all
-- runs. `own` are the tables of the domain, `reached` these and all that refer to them.
CREATE OR REPLACE FUNCTION atdm.write_reset_function(
    name text, own oid[], reached oid[], all_runs boolean
) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $write$
DECLARE
    -- Rows that refer to rows p by one foreign key: table, row, test run (where the table belongs
    -- to a domain). They are locked, so that nothing can be made to refer to them. A lateral query
    -- that locks is run for each p, by an index on the foreign key: also where the planner knows
    -- nothing yet about tables that were filled a moment ago.
    of_each CONSTANT text := 'SELECT e.* FROM ONLY %1$s AS p CROSS JOIN LATERAL (SELECT'
        ' c.tableoid AS o, c.ctid AS t, %2$s AS r FROM %3$s FOR UPDATE) AS e WHERE %4$s';
    -- The same for very many p: the planner may begin with the other table.
    of_all CONSTANT text := 'SELECT e.* FROM (SELECT'
        ' c.tableoid AS o, c.ctid AS t, %2$s AS r FROM ONLY %1$s AS p, %3$s AND %4$s'
        ' FOR UPDATE OF c) AS e';
    is_run text := CASE WHEN all_runs THEN '%s IS NOT NULL' ELSE '%s = ANY (run_ids)' END;
    locking text;
    first_level text;
    next_level text;
    own_names text[];
    own_deletions text;
    own_counts text;
    own_left text;
    names text[];
    deletions text;
    counts text;
BEGIN
    SELECT CASE WHEN all_runs
           THEN format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', string_agg(o.name, ', '))
           ELSE 'PERFORM ' || string_agg(
               format('FROM (SELECT FROM ONLY %s WHERE %s FOR UPDATE) AS r', o.name, o.is_run),
               ' UNION ALL SELECT ') END,
           array_agg(o.label),
           string_agg(format('o%s AS (DELETE FROM ONLY %s WHERE %s RETURNING 1)',
               o.oid, o.name, o.is_run), ', '),
           string_agg(format('(SELECT count(*) FROM o%s)', o.oid), ', '),
           string_agg(format('(SELECT count(*) FROM %s WHERE %s)', o.name, o.is_run), ' + ')
    INTO locking, own_names, own_deletions, own_counts, own_left
    FROM (SELECT oid, oid::regclass::text AS name, relname AS label,
                 format(is_run, 'test_run_id') AS is_run
          FROM pg_class WHERE oid = ANY (own) ORDER BY array_position(own, oid)) AS o;
    SELECT array_agg(CASE WHEN c.oid = ANY (own) THEN c.relname
                          ELSE n.nspname || '.' || c.relname END ORDER BY c.oid),
           string_agg(format('d%1$s AS (DELETE FROM ONLY %2$s WHERE ctid = ANY (ARRAY(SELECT f.t'
               ' FROM unnest(relations, rows) AS f (o, t) WHERE f.o = %1$s)) RETURNING 1)',
               c.oid, c.oid::regclass), ', ' ORDER BY c.oid),
           string_agg(format('(SELECT count(*) FROM d%s)', c.oid), ', ' ORDER BY c.oid)
    INTO names, deletions, counts
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid = ANY (reached) AND c.relkind = 'r';
    -- Rows of the runs themselves are left out. Most of them have the same run as the row that they
    -- refer to: comparing that first saves looking at all run ids.
    SELECT string_agg(format(CASE WHEN all_runs THEN of_all ELSE of_each END, k.parent::regclass,
               k.run, k.child_rows || CASE WHEN k.others <> '' THEN
                   ' AND c.test_run_id IS DISTINCT FROM p.test_run_id' ELSE '' END || k.others,
               format(is_run, 'p.test_run_id')), ' UNION ') FILTER (WHERE k.parent = ANY (own)),
           string_agg(format(of_each, k.parent::regclass, k.run, k.child_rows || k.others,
               format('p.ctid = ANY (ARRAY(SELECT f.t FROM unnest(fresh, fresh_rows) AS f (o, t)'
                   ' WHERE f.o = %s))', k.parent)), ' UNION ALL ')
    INTO first_level, next_level
    FROM (SELECT r.*,
                 CASE WHEN EXISTS (
                     SELECT FROM atdm.domain_table AS d
                     WHERE to_regclass(format('%I.%I', d.schema_name, d.table_name)) = r.child)
                 THEN 'c.test_run_id' ELSE 'NULL::text' END AS run,
                 CASE WHEN r.child = ANY (own)
                 THEN format(' AND (' || is_run || ') IS NOT TRUE', 'c.test_run_id')
                 ELSE '' END AS others
          FROM atdm.referring(own) AS r) AS k;
    EXECUTE format('CREATE OR REPLACE FUNCTION'
        ' atdm.%I(%s OUT deleted jsonb, OUT adopted jsonb) LANGUAGE plpgsql'
        ' SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan'
        ' SET enable_seqscan = off AS %L',
        name, CASE WHEN all_runs THEN '' ELSE 'run_ids text[],' END, format($body$
#variable_conflict use_variable
DECLARE
    relations oid[] := '{}';
    rows tid[] := '{}';
    fresh oid[];
    fresh_rows tid[];
    fresh_runs text[];
    own_counts bigint[];
    counts bigint[] := '{}';
    remaining bigint;
BEGIN
    %1$s;
    SELECT array_agg(n.o), array_agg(n.t), array_agg(n.r) INTO fresh, fresh_rows, fresh_runs
    FROM (%2$s) AS n;
    WHILE fresh IS NOT NULL LOOP
        PERFORM atdm.refuse_other_runs(fresh, fresh_runs);
        relations := relations || fresh;
        rows := rows || fresh_rows;
        SELECT array_agg(n.o), array_agg(n.t), array_agg(n.r) INTO fresh, fresh_rows, fresh_runs
        FROM (%3$s EXCEPT SELECT f.o, f.t, NULL FROM unnest(relations, rows) AS f (o, t))
            AS n (o, t, r);
    END LOOP;
    -- One statement, so that cycles, rows that refer to themselves and the order of foreign keys do
    -- not matter. Triggers of the application expect the schemas that it uses itself.
    PERFORM set_config('search_path', 'pg_catalog, public, pg_temp', true);
    IF rows = '{}' THEN
        WITH %4$s SELECT ARRAY[%5$s] INTO own_counts;
    ELSE
        WITH %4$s, %8$s SELECT ARRAY[%5$s], ARRAY[%9$s] INTO own_counts, counts;
    END IF;
    PERFORM set_config('search_path', 'pg_catalog, pg_temp', true);
    SELECT cardinality(rows) - coalesce((SELECT sum(n) FROM unnest(counts) AS n), 0) + %6$s
    INTO remaining;
    IF remaining > 0 THEN
        PERFORM atdm.fail('RESET_FAILED',
            format('%%s rows of test runs are still there: a trigger or a rule keeps them',
                remaining), jsonb_build_object('remaining', remaining));
    END IF;
    SELECT jsonb_object_agg(s.name, s.n) INTO deleted
    FROM (SELECT u.name, sum(u.n) AS n
          FROM unnest(%7$L::text[] || %10$L::text[], own_counts || counts) AS u (name, n)
          GROUP BY u.name HAVING sum(u.n) > 0 OR u.name = ANY (%7$L)) AS s;
    SELECT coalesce(jsonb_object_agg(u.name, u.n) FILTER (WHERE u.n > 0), '{}') INTO adopted
    FROM unnest(%10$L::text[], counts) AS u (name, n);
END;
$body$,
            locking,
            coalesce(first_level, 'SELECT NULL::oid AS o, NULL::tid AS t, NULL::text AS r LIMIT 0'),
            coalesce(next_level, 'SELECT NULL::oid, NULL::tid, NULL::text'),
            own_deletions, own_counts, own_left, own_names, deletions, counts, names));
    EXECUTE format('REVOKE ALL ON FUNCTION atdm.%I(%s) FROM PUBLIC',
        name, CASE WHEN all_runs THEN '' ELSE 'text[]' END);
END;
$write$;

-- Refuse to delete a row of a run that is not being reset.
CREATE OR REPLACE FUNCTION atdm.refuse_other_runs(relations oid[], runs text[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    other record;
BEGIN
    SELECT f.o::regclass::text AS relation, f.r AS run INTO other
    FROM unnest(relations, runs) AS f (o, r)
    WHERE f.r IS NOT NULL LIMIT 1;
    IF FOUND THEN
        PERFORM atdm.fail('RESET_FAILED',
            format('a row of %s that belongs to test run %s refers to a row of this one',
                other.relation, other.run),
            jsonb_build_object('table', other.relation, 'other_run', other.run));
    END IF;
END;
$$;

-- Delete the rows of the given runs of one domain, or of all its runs, and every row that refers to
-- them. `deleted` counts the rows by table; `adopted` those among them without a run id.
CREATE OR REPLACE FUNCTION atdm.delete_runs(
    domain text, run_ids text[], all_runs boolean DEFAULT false,
    OUT deleted jsonb, OUT adopted jsonb
)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
-- How long to wait for a row that another transaction holds.
SET lock_timeout = '10s'
AS $$
DECLARE
    prepared text := atdm.prepare_reset(domain);
BEGIN
    IF all_runs THEN
        PERFORM set_config('lock_timeout', '60s', true);
        EXECUTE format('SELECT d.deleted, d.adopted FROM atdm.%I() AS d', prepared)
        INTO deleted, adopted;
    ELSE
        EXECUTE format('SELECT d.deleted, d.adopted FROM atdm.%I($1) AS d', prepared)
        INTO deleted, adopted USING run_ids;
    END IF;
    IF prepared <> 'delete_' || domain THEN
        EXECUTE format('DROP FUNCTION atdm.%1$I(text[]), atdm.%1$I()', prepared);
    END IF;
END;
$$;

-- Reset runs of one domain that the caller has locked in test_run, and record it. An error is
-- returned ({"error": {...}}), not raised: raising it would remove its event from the audit trail.
CREATE OR REPLACE FUNCTION atdm.reset_runs(
    domain text, runs atdm.test_run[], invoker text, source text, strategy text
) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    run_ids text[];
    gone record;
    state text;
    message text;
    detail text;
    failure jsonb;
BEGIN
    SELECT array_agg(r.test_run_id) INTO run_ids FROM unnest(runs) AS r;
    INSERT INTO atdm.audit_event
        (action, domain, scenario_id, request_id, test_run_id, invoker, source, inputs)
    SELECT 'reset_started', reset_runs.domain, q.scenario_id, r.request_id, r.test_run_id,
           reset_runs.invoker, reset_runs.source, jsonb_build_object('strategy', strategy)
    FROM unnest(runs) AS r JOIN atdm.request AS q USING (request_id);
    BEGIN
        SELECT d.deleted, d.adopted INTO gone FROM atdm.delete_runs(domain, run_ids) AS d;
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS
            state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL;
        failure := atdm.error_fields(state, message, detail);
        INSERT INTO atdm.audit_event
            (action, status, domain, scenario_id, request_id, test_run_id, invoker, source, outputs)
        SELECT 'reset_failed', 'failed', reset_runs.domain, q.scenario_id, r.request_id,
               r.test_run_id, reset_runs.invoker, reset_runs.source, failure
        FROM unnest(runs) AS r JOIN atdm.request AS q USING (request_id);
        RETURN jsonb_build_object('error', failure);
    END;
    UPDATE atdm.test_run AS r
    SET status = 'cleaned', ended_at = clock_timestamp(),
        deleted = CASE WHEN cardinality(run_ids) = 1 THEN gone.deleted END
    WHERE r.test_run_id = ANY (run_ids);
    INSERT INTO atdm.audit_event
        (action, status, domain, scenario_id, request_id, test_run_id, invoker, source, outputs)
    SELECT 'reset_completed', 'cleaned', reset_runs.domain, q.scenario_id, r.request_id,
           r.test_run_id, reset_runs.invoker, reset_runs.source, jsonb_build_object(
               'strategy', strategy, 'runs', cardinality(run_ids),
               'deleted_counts', gone.deleted, 'adopted', gone.adopted)
    FROM unnest(runs) AS r JOIN atdm.request AS q USING (request_id);
    RETURN jsonb_build_object('deleted', gone.deleted, 'adopted', gone.adopted);
END;
$$;

-- Reset a leased run. An unknown run and a wrong token get the same answer.
CREATE OR REPLACE FUNCTION atdm.reset_run(
    test_run_id text, token text, invoker text DEFAULT NULL, source text DEFAULT NULL
) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    run atdm.test_run;
    request atdm.request;
    result jsonb;
BEGIN
    invoker := coalesce(invoker, 'human:' || session_user);
    source := coalesce(source, 'sql');
    SELECT r.* INTO run FROM atdm.test_run AS r
    WHERE r.test_run_id = reset_run.test_run_id FOR UPDATE;
    -- Hashes are compared: a caller cannot choose their first bytes, so the time reveals nothing.
    IF sha256(convert_to(coalesce(token, ''), 'UTF8')) IS DISTINCT FROM run.token_sha256 THEN
        INSERT INTO atdm.audit_event
            (action, status, request_id, test_run_id, invoker, source, outputs)
        VALUES ('reset_rejected', 'forbidden', run.request_id, left(reset_run.test_run_id, 64),
                invoker, source, '{"code": "TOKEN_MISMATCH"}');
        RETURN jsonb_build_object('error', jsonb_build_object('code', 'TOKEN_MISMATCH',
            'message', 'the token does not fit the test run', 'details',
            jsonb_build_object('test_run_id', left(reset_run.test_run_id, 64))));
    END IF;
    IF run.status <> 'leased' THEN
        RETURN jsonb_build_object('status', 'already_cleaned', 'test_run_id', run.test_run_id,
            'deleted', '{}'::jsonb, 'adopted', '{}'::jsonb);
    END IF;
    SELECT q.* INTO request FROM atdm.request AS q WHERE q.request_id = run.request_id;
    PERFORM atdm.enter_domain(request.domain);
    result := atdm.reset_runs(request.domain, ARRAY[run], invoker, source, 'reset_run');
    IF result ? 'error' THEN
        RETURN result;
    END IF;
    RETURN result || jsonb_build_object('status', 'cleaned', 'test_run_id', run.test_run_id);
END;
$$;

-- Reset all runs that `owner` has leased with this secret. The owner of the catalog needs no
-- secret.
CREATE OR REPLACE FUNCTION atdm.reset_owner(
    owner text, secret text DEFAULT NULL, invoker text DEFAULT NULL, source text DEFAULT NULL
) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    privileged boolean := secret IS NULL AND pg_has_role(session_user, current_user, 'MEMBER');
    of_domain record;
    result jsonb;
    cleaned text[] := '{}';
    deleted jsonb := '{}';
    adopted jsonb := '{}';
BEGIN
    invoker := coalesce(invoker, 'human:' || session_user);
    source := coalesce(source, 'sql');
    IF NOT privileged AND (
        secret IS NULL OR NOT EXISTS (
            SELECT FROM atdm.test_run AS r
            WHERE r.owner = reset_owner.owner
              AND r.owner_secret_sha256 = sha256(convert_to(secret, 'UTF8'))))
        AND EXISTS (SELECT FROM atdm.test_run AS r
                    WHERE r.owner = reset_owner.owner AND r.status = 'leased')
    THEN
        INSERT INTO atdm.audit_event (action, status, invoker, source, inputs, outputs)
        VALUES ('reset_rejected', 'forbidden', invoker, source,
                jsonb_build_object('owner', left(owner, 200)), '{"code": "TOKEN_MISMATCH"}');
        RETURN jsonb_build_object('error', jsonb_build_object('code', 'TOKEN_MISMATCH',
            'message', 'the secret does not fit the owner',
            'details', jsonb_build_object('owner', left(owner, 200))));
    END IF;
    FOR of_domain IN
        SELECT m.domain, array_agg(m.run) AS runs
        FROM (SELECT q.domain, r::atdm.test_run AS run
              FROM atdm.test_run AS r JOIN atdm.request AS q USING (request_id)
              WHERE r.owner = reset_owner.owner AND r.status = 'leased'
                AND (privileged OR r.owner_secret_sha256 = sha256(convert_to(secret, 'UTF8')))
              ORDER BY r.test_run_id
              FOR UPDATE OF r) AS m
        GROUP BY m.domain ORDER BY m.domain
    LOOP
        PERFORM atdm.enter_domain(of_domain.domain);
        result := atdm.reset_runs(of_domain.domain, of_domain.runs, invoker, source, 'reset_owner');
        IF result ? 'error' THEN
            RETURN result;
        END IF;
        cleaned := cleaned || ARRAY(SELECT r.test_run_id FROM unnest(of_domain.runs) AS r);
        deleted := deleted || jsonb_build_object(of_domain.domain, result -> 'deleted');
        adopted := adopted || jsonb_build_object(of_domain.domain, result -> 'adopted');
    END LOOP;
    RETURN jsonb_build_object('status', 'cleaned', 'owner', owner, 'runs', to_jsonb(cleaned),
        'deleted', deleted, 'adopted', adopted);
END;
$$;

-- Delete the rows of all test runs of a domain, and all rows that refer to them. Shared rows stay.
-- For the owner of the catalog, in a transaction that holds the exclusive lock of the domain.
CREATE OR REPLACE FUNCTION atdm.reset_all(
    domain text, revoke boolean DEFAULT false, invoker text DEFAULT NULL, source text DEFAULT NULL
) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    holders jsonb;
    deleted jsonb;
    adopted jsonb;
    cleared bigint;
BEGIN
    SELECT jsonb_agg(jsonb_build_object('owner', l.owner, 'leases', l.leases) ORDER BY l.owner)
    INTO holders
    FROM (SELECT coalesce(r.owner, '') AS owner, count(*) AS leases
          FROM atdm.test_run AS r JOIN atdm.request AS q USING (request_id)
          WHERE q.domain = reset_all.domain AND r.status = 'leased' GROUP BY 1) AS l;
    IF holders IS NOT NULL AND NOT revoke THEN
        PERFORM atdm.fail('BUSY',
            format('test runs of domain %s are leased to %s; reset them or revoke the leases',
                reset_all.domain, (SELECT string_agg(h ->> 'owner', ', ')
                                FROM jsonb_array_elements(holders) AS h)),
            jsonb_build_object('domain', reset_all.domain, 'owners', holders));
    END IF;
    SELECT d.deleted, d.adopted INTO deleted, adopted
    FROM atdm.delete_runs(domain, NULL, true) AS d;
    UPDATE atdm.test_run AS r
    SET status = CASE r.status WHEN 'leased' THEN 'expired' ELSE 'cleaned' END,
        ended_at = clock_timestamp()
    FROM atdm.request AS q
    WHERE q.request_id = r.request_id AND q.domain = reset_all.domain
      AND r.status IN ('ready', 'leased');
    GET DIAGNOSTICS cleared = ROW_COUNT;
    INSERT INTO atdm.audit_event (action, status, domain, invoker, source, inputs, outputs)
    VALUES ('reset_completed', 'cleaned', reset_all.domain,
            coalesce(invoker, 'human:' || session_user), coalesce(source, 'sql'),
            jsonb_build_object('revoke_leases', revoke),
            jsonb_build_object('strategy', 'reset_all', 'deleted_counts', deleted,
                'adopted', adopted, 'cleared_record_count', cleared,
                'revoked', coalesce(holders, '[]')));
    RETURN jsonb_build_object('status', 'cleaned', 'domain', reset_all.domain,
        'deleted', deleted, 'adopted', adopted, 'cleared_record_count', cleared,
        'revoked', coalesce(holders, '[]'));
END;
$$;
