-- Every foreign key that can lead from the given tables to rows that refer to theirs, as a query
-- for the referring rows of the parent rows in ($1 oid[], $2 tid[]): columns o (table), t (ctid),
-- r (test run, where the table is a domain's). Rows are locked, so that nothing can be hung on them.
CREATE OR REPLACE FUNCTION atdm.referring(tables oid[])
RETURNS TABLE (parent oid, query text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE
    keys AS MATERIALIZED (
        SELECT oid, conrelid, confrelid, conkey, confkey, conpfeqop
        FROM pg_constraint WHERE contype = 'f'
    ),
    reached (relation) AS (
        SELECT unnest(tables)
        UNION
        SELECT k.conrelid FROM keys AS k JOIN reached AS r ON k.confrelid = r.relation
    ),
    owned AS (
        SELECT to_regclass(format('%I.%I', schema_name, table_name))::oid AS relation
        FROM atdm.domain_table
    )
    SELECT k.confrelid, format(
        'SELECT * FROM (SELECT c.tableoid AS o, c.ctid AS t, %s AS r FROM %s %I.%I AS c'
        ' JOIN ONLY %I.%I AS p ON %s WHERE p.ctid = ANY (ARRAY(SELECT f.t'
        ' FROM unnest($1, $2) AS f (o, t) WHERE f.o = %s)) FOR UPDATE OF c) AS e%s',
        CASE WHEN k.conrelid IN (SELECT relation FROM owned) THEN 'c.test_run_id'
             ELSE 'NULL::text' END,
        CASE WHEN child.relkind = 'p' THEN '' ELSE 'ONLY' END,
        child_schema.nspname, child.relname, parent_schema.nspname, parent_table.relname,
        (SELECT string_agg(format('p.%I OPERATOR(%I.%s) c.%I',
                    pa.attname, operator_schema.nspname, operator.oprname, ca.attname), ' AND ')
         FROM unnest(k.conkey, k.confkey, k.conpfeqop) AS pair (c, p, op)
         JOIN pg_attribute AS ca ON ca.attrelid = k.conrelid AND ca.attnum = pair.c
         JOIN pg_attribute AS pa ON pa.attrelid = k.confrelid AND pa.attnum = pair.p
         JOIN pg_operator AS operator ON operator.oid = pair.op
         JOIN pg_namespace AS operator_schema ON operator_schema.oid = operator.oprnamespace),
        k.confrelid, k.oid)
    FROM keys AS k
    JOIN reached AS r ON r.relation = k.confrelid
    JOIN pg_class AS child ON child.oid = k.conrelid
    JOIN pg_namespace AS child_schema ON child_schema.oid = child.relnamespace
    JOIN pg_class AS parent_table
        ON parent_table.oid = k.confrelid AND parent_table.relkind <> 'p'
    JOIN pg_namespace AS parent_schema ON parent_schema.oid = parent_table.relnamespace
$$;

-- Delete rows ($1 tables, $2 ctids) in one statement, so that the order of foreign keys, cycles and
-- rows that refer to themselves do not matter. Returns how many went, by name.
CREATE OR REPLACE FUNCTION atdm.delete_rows(domain text, relations oid[], rows tid[]) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    parts text;
    names text[];
    counts bigint[];
    wanted bigint;
BEGIN
    SELECT string_agg(format('d%s AS (DELETE FROM ONLY %I.%I WHERE ctid = ANY (ARRAY('
               'SELECT f.t FROM unnest($1, $2) AS f (o, t) WHERE f.o = %s)) RETURNING 1)',
               o.relation, n.nspname, c.relname, o.relation), ', ' ORDER BY o.relation)
           || ' SELECT ARRAY[' || string_agg(format('(SELECT count(*) FROM d%s)', o.relation),
               ', ' ORDER BY o.relation) || ']',
           array_agg(atdm.table_label(delete_rows.domain, o.relation) ORDER BY o.relation)
    INTO parts, names
    FROM (SELECT DISTINCT unnest(relations) AS relation) AS o
    JOIN pg_class AS c ON c.oid = o.relation
    JOIN pg_namespace AS n ON n.oid = c.relnamespace;
    IF parts IS NULL THEN
        RETURN '{}';
    END IF;
    -- Triggers of the application expect the schemas that it uses itself.
    PERFORM set_config('search_path', 'pg_catalog, public, pg_temp', true);
    EXECUTE 'WITH ' || parts INTO counts USING relations, rows;
    PERFORM set_config('search_path', 'pg_catalog, pg_temp', true);
    SELECT sum(n) INTO wanted FROM unnest(counts) AS n;
    IF wanted <> cardinality(rows) THEN
        PERFORM atdm.fail('RESET_FAILED',
            format('%s of %s rows could not be deleted: a trigger or a rule keeps them',
                cardinality(rows) - wanted, cardinality(rows)),
            jsonb_build_object('deleted', wanted, 'expected', cardinality(rows)));
    END IF;
    RETURN (SELECT jsonb_object_agg(name, n) FROM unnest(names, counts) AS u (name, n));
END;
$$;

-- A table of the domain by its own name, any other with its schema.
CREATE OR REPLACE FUNCTION atdm.table_label(domain text, relation oid) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN EXISTS (
            SELECT FROM atdm.domain_table AS d
            WHERE d.domain = table_label.domain
              AND d.schema_name = n.nspname AND d.table_name = c.relname)
        THEN c.relname::text ELSE n.nspname || '.' || c.relname END
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid = relation
$$;

-- The rows that refer to the given ones, directly or through others, added to them. Each level is a
-- statement of its own and sees what was committed before the level above was locked. A row of a
-- run that is not among `run_ids` (NULL: any run may be) is refused.
CREATE OR REPLACE FUNCTION atdm.closure(
    tables oid[], run_ids text[], INOUT relations oid[], INOUT rows tid[], INOUT runs text[]
)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    parents oid[];
    queries text[];
    level text;
    new_relations oid[] := relations;
    new_rows tid[] := rows;
    new_runs text[];
    stranger record;
BEGIN
    SELECT array_agg(e.parent), array_agg(e.query) INTO parents, queries
    FROM atdm.referring(tables) AS e;
    WHILE cardinality(new_rows) > 0 LOOP
        SELECT string_agg(e.query, ' UNION ALL ') INTO level
        FROM unnest(parents, queries) AS e (parent, query)
        WHERE e.parent = ANY (new_relations);
        EXIT WHEN level IS NULL;
        EXECUTE 'SELECT array_agg(o), array_agg(t), array_agg(r) FROM (' || level
            || ' EXCEPT SELECT * FROM unnest($3, $4, $5)) AS n (o, t, r)'
        INTO new_relations, new_rows, new_runs
        USING new_relations, new_rows, relations, rows, runs;
        SELECT f.o::regclass::text AS relation, f.r AS run INTO stranger
        FROM unnest(new_relations, new_runs) AS f (o, r)
        WHERE f.r <> ALL (run_ids) LIMIT 1;
        IF FOUND THEN
            PERFORM atdm.fail('RESET_FAILED',
                format('a row of %s that belongs to test run %s refers to a row of this one',
                    stranger.relation, stranger.run),
                jsonb_build_object('table', stranger.relation, 'other_run', stranger.run));
        END IF;
        relations := relations || new_relations;
        rows := rows || new_rows;
        runs := runs || new_runs;
    END LOOP;
END;
$$;

-- The foreign keys that lead to these tables, as a text that stays the same when they are dropped
-- and made again. A key to one of them from a table that is not among them shows as well.
CREATE OR REPLACE FUNCTION atdm.keys_between(relations oid[]) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(string_agg(concat_ws(' ', k.conrelid, k.conkey, k.confrelid, k.confkey,
               k.conpfeqop), ',' ORDER BY k.conrelid, k.conkey, k.confrelid, k.confkey), '')
    FROM pg_constraint AS k WHERE k.contype = 'f' AND k.confrelid = ANY (relations)
$$;

-- Make atdm.delete_<domain>, which does for the domain's runs what atdm.delete_runs does for those
-- of any, with the tables and keys that there are now. NULL in `deleted`: it has met a table that it
-- was not made for, and has done nothing.
CREATE OR REPLACE FUNCTION atdm.lay_reset_path(domain text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    own oid[];
    zeros jsonb;
    found text;
    left_over text;
    reached oid[];
    reached_names text[];
    labels text[];
    level text;
    deletions text;
    counted text;
    with_rows oid[];
    body text;
BEGIN
    SELECT array_agg(c.oid), jsonb_object_agg(d.table_name, 0),
           string_agg(format('SELECT * FROM (SELECT tableoid AS o, ctid AS t, test_run_id AS r'
               ' FROM ONLY %I.%I WHERE test_run_id = ANY (run_ids) FOR UPDATE) AS s%s',
               d.schema_name, d.table_name, c.oid), ' UNION ALL '),
           string_agg(format('(SELECT count(*) FROM %I.%I WHERE test_run_id = ANY (run_ids))',
               d.schema_name, d.table_name), ' + ')
    INTO own, zeros, found, left_over
    FROM atdm.domain_table AS d
    JOIN pg_namespace AS n ON n.nspname = d.schema_name
    JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = d.table_name
    WHERE d.domain = lay_reset_path.domain;
    DELETE FROM atdm.reset_path AS p WHERE p.domain = lay_reset_path.domain;
    WITH RECURSIVE all_of (relation) AS (
        SELECT unnest(own)
        UNION
        SELECT k.conrelid FROM pg_constraint AS k JOIN all_of AS a ON k.confrelid = a.relation
        WHERE k.contype = 'f'
    )
    SELECT array_agg(c.oid ORDER BY c.oid),
           array_agg(format('%I.%I', n.nspname, c.relname) ORDER BY c.oid)
    INTO reached, reached_names
    FROM all_of AS a JOIN pg_class AS c ON c.oid = a.relation
    JOIN pg_namespace AS n ON n.oid = c.relnamespace;
    -- As many tables as a statement may name before being ready made gains nothing.
    IF own IS NULL OR cardinality(reached) > 60 THEN
        RETURN;
    END IF;
    -- Without its condition the way to a parent that has no row here may lead over every child.
    SELECT string_agg(replace(e.query, 'unnest($1, $2)', 'unnest(fresh, fresh_rows)')
               || format(' WHERE %s = ANY (fresh)', e.parent), ' UNION ALL ')
    INTO level FROM atdm.referring(own) AS e;
    SELECT array_agg(c.oid ORDER BY c.oid),
           array_agg(atdm.table_label(lay_reset_path.domain, c.oid) ORDER BY c.oid),
           string_agg(format('d%s AS (DELETE FROM ONLY %I.%I WHERE ctid = ANY (ARRAY('
               'SELECT f.t FROM unnest(relations, rows) AS f (o, t) WHERE f.o = %s)) RETURNING 1)',
               c.oid, n.nspname, c.relname, c.oid), ', ' ORDER BY c.oid),
           string_agg(format('(SELECT count(*) FROM d%s)', c.oid), ', ' ORDER BY c.oid)
    INTO with_rows, labels, deletions, counted
    FROM unnest(reached) AS r (relation) JOIN pg_class AS c ON c.oid = r.relation
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r';
    body := format($body$
#variable_conflict use_variable
DECLARE
    relations oid[];
    rows tid[];
    runs text[];
    fresh oid[];
    fresh_rows tid[];
    fresh_runs text[];
    counts bigint[];
    wanted bigint;
    remaining bigint;
BEGIN
    SELECT coalesce(array_agg(f.o), '{}'), coalesce(array_agg(f.t), '{}'),
           coalesce(array_agg(f.r), '{}')
    INTO relations, rows, runs FROM (%1$s) AS f;
    -- From a few rows to those that refer to them the way is an index; from many it may not be.
    IF cardinality(rows) > 1000 THEN
        RETURN;
    END IF;
    fresh := relations;
    fresh_rows := rows;
    WHILE cardinality(fresh_rows) > 0 LOOP
        SELECT array_agg(n.o), array_agg(n.t), array_agg(n.r) INTO fresh, fresh_rows, fresh_runs
        FROM (%2$s EXCEPT SELECT * FROM unnest(relations, rows, runs)) AS n (o, t, r);
        EXIT WHEN fresh_rows IS NULL;
        PERFORM atdm.refuse_strangers(run_ids, fresh, fresh_runs);
        relations := relations || fresh;
        rows := rows || fresh_rows;
        runs := runs || fresh_runs;
    END LOOP;
    IF NOT relations <@ %3$L::oid[] THEN
        RETURN;
    END IF;
    -- Triggers of the application expect the schemas that it uses itself.
    PERFORM set_config('search_path', 'pg_catalog, public, pg_temp', true);
    WITH %4$s SELECT ARRAY[%5$s] INTO counts;
    PERFORM set_config('search_path', 'pg_catalog, pg_temp', true);
    SELECT sum(n) INTO wanted FROM unnest(counts) AS n;
    SELECT %6$s INTO remaining;
    PERFORM atdm.refuse_leftovers(cardinality(rows), wanted, remaining);
    SELECT %7$L::jsonb || coalesce(jsonb_object_agg(u.name, u.n) FILTER (WHERE u.n > 0), '{}')
    INTO deleted FROM unnest(%8$L::text[], counts) AS u (name, n);
    SELECT coalesce(jsonb_object_agg(atdm.table_label(%9$L, a.o), a.n), '{}') INTO adopted
    FROM (SELECT f.o, count(*) AS n FROM unnest(relations, runs) AS f (o, r)
          WHERE f.r IS NULL GROUP BY f.o) AS a;
END;
$body$,
        found, coalesce(level, 'SELECT NULL::oid, NULL::tid, NULL::text WHERE false'), with_rows,
        deletions, counted, left_over, zeros, labels, lay_reset_path.domain);
    EXECUTE format('CREATE OR REPLACE FUNCTION'
        ' atdm.%I(run_ids text[], OUT deleted jsonb, OUT adopted jsonb) LANGUAGE plpgsql'
        ' SET search_path = pg_catalog, pg_temp SET lock_timeout = %L SET enable_seqscan = off'
        ' SET enable_hashjoin = off SET enable_mergejoin = off'
        ' SET plan_cache_mode = force_generic_plan AS %L',
        'delete_' || lay_reset_path.domain, '10s', body);
    EXECUTE format('REVOKE ALL ON FUNCTION atdm.%I(text[]) FROM PUBLIC',
        'delete_' || lay_reset_path.domain);
    INSERT INTO atdm.reset_path (domain, names, relations, keys)
    VALUES (lay_reset_path.domain, reached_names, reached, atdm.keys_between(reached));
END;
$$;

-- Whether atdm.delete_<domain> was made for the tables and keys that there are.
CREATE OR REPLACE FUNCTION atdm.has_reset_path(domain text) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (
        SELECT FROM atdm.reset_path AS p
        WHERE p.domain = has_reset_path.domain
          AND p.relations = ARRAY(SELECT to_regclass(n.name)::oid
                                  FROM unnest(p.names) WITH ORDINALITY AS n (name, place)
                                  ORDER BY n.place)
          AND p.keys = atdm.keys_between(p.relations))
$$;

-- A row of a run that is not among `run_ids` (NULL: any run may be) is refused.
CREATE OR REPLACE FUNCTION atdm.refuse_strangers(run_ids text[], relations oid[], runs text[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    stranger record;
BEGIN
    SELECT f.o::regclass::text AS relation, f.r AS run INTO stranger
    FROM unnest(relations, runs) AS f (o, r)
    WHERE f.r <> ALL (run_ids) LIMIT 1;
    IF FOUND THEN
        PERFORM atdm.fail('RESET_FAILED',
            format('a row of %s that belongs to test run %s refers to a row of this one',
                stranger.relation, stranger.run),
            jsonb_build_object('table', stranger.relation, 'other_run', stranger.run));
    END IF;
END;
$$;

-- Every row that was found is deleted, and no other has come that bears a run's id.
CREATE OR REPLACE FUNCTION atdm.refuse_leftovers(expected bigint, deleted bigint, remaining bigint)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF deleted <> expected THEN
        PERFORM atdm.fail('RESET_FAILED',
            format('%s of %s rows could not be deleted: a trigger or a rule keeps them',
                expected - deleted, expected),
            jsonb_build_object('deleted', deleted, 'expected', expected));
    END IF;
    IF remaining > 0 THEN
        PERFORM atdm.fail('RESET_FAILED',
            format('%s rows of the test run are still there', remaining),
            jsonb_build_object('remaining', remaining));
    END IF;
END;
$$;

-- What atdm.delete_runs does, for any runs of any domain, with the tables and keys that there are.
CREATE OR REPLACE FUNCTION atdm.delete_any_runs(
    domain text, run_ids text[], OUT deleted jsonb, OUT adopted jsonb
)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
-- A row that somebody else holds is waited for this long, no longer.
SET lock_timeout = '10s'
-- From a few rows to those that refer to them the way is an index, whatever the planner makes of
-- tables that were filled a moment ago and have no statistics yet.
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
DECLARE
    tables oid[];
    zeros jsonb;
    found text;
    left_over text;
    remaining bigint;
    relations oid[];
    rows tid[];
    runs text[];
BEGIN
    SELECT array_agg(c.oid), jsonb_object_agg(d.table_name, 0),
           string_agg(format('SELECT * FROM (SELECT tableoid AS o, ctid AS t, test_run_id AS r'
               ' FROM ONLY %I.%I WHERE test_run_id = ANY ($1) FOR UPDATE) AS s%s',
               d.schema_name, d.table_name, c.oid), ' UNION ALL '),
           string_agg(format('(SELECT count(*) FROM %I.%I WHERE test_run_id = ANY ($1))',
               d.schema_name, d.table_name), ' + ')
    INTO tables, zeros, found, left_over
    FROM atdm.domain_table AS d
    JOIN pg_namespace AS n ON n.nspname = d.schema_name
    JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = d.table_name
    WHERE d.domain = delete_any_runs.domain;
    EXECUTE 'SELECT coalesce(array_agg(o), ''{}''), coalesce(array_agg(t), ''{}''),'
        ' coalesce(array_agg(r), ''{}'') FROM (' || found || ') AS f'
    INTO relations, rows, runs USING run_ids;
    IF cardinality(rows) > 10000 THEN
        PERFORM set_config('enable_seqscan', 'on', true), set_config('enable_hashjoin', 'on', true);
    END IF;
    SELECT c.relations, c.rows, c.runs INTO relations, rows, runs
    FROM atdm.closure(tables, run_ids, relations, rows, runs) AS c;
    deleted := zeros || atdm.delete_rows(delete_any_runs.domain, relations, rows);
    SELECT coalesce(jsonb_object_agg(atdm.table_label(delete_any_runs.domain, a.o), a.n), '{}')
    INTO adopted
    FROM (SELECT f.o, count(*) AS n FROM unnest(relations, runs) AS f (o, r)
          WHERE f.r IS NULL GROUP BY f.o) AS a;
    EXECUTE 'SELECT ' || left_over INTO remaining USING run_ids;
    PERFORM atdm.refuse_leftovers(cardinality(rows), cardinality(rows), remaining);
END;
$$;

-- Delete the rows of the given runs of one domain and all that refers to them. `deleted` counts
-- every row that went, by table, `adopted` those among them that bore no run's id.
CREATE OR REPLACE FUNCTION atdm.delete_runs(
    domain text, run_ids text[], OUT deleted jsonb, OUT adopted jsonb
)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- For many runs other plans are right, and making them is no part of what it takes.
    IF cardinality(run_ids) <= 20 AND atdm.has_reset_path(domain) THEN
        BEGIN
            EXECUTE format('SELECT d.deleted, d.adopted FROM atdm.%I($1) AS d', 'delete_' || domain)
            INTO deleted, adopted USING run_ids;
        EXCEPTION WHEN undefined_table OR undefined_column OR undefined_function THEN
            -- A column or a function has another name since then.
            deleted := NULL;
        END;
        IF deleted IS NOT NULL THEN
            RETURN;
        END IF;
    END IF;
    SELECT d.deleted, d.adopted INTO deleted, adopted
    FROM atdm.delete_any_runs(domain, run_ids) AS d;
END;
$$;

-- Delete the rows of leased runs whose rows in test_run the caller has locked, record the outcome.
-- Errors are an answer ({"error": {...}}), not an exception: the audit trail has to keep them.
CREATE OR REPLACE FUNCTION atdm.take_back(
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
    SELECT 'reset_started', take_back.domain, q.scenario_id, r.request_id, r.test_run_id,
           take_back.invoker, take_back.source, jsonb_build_object('strategy', strategy)
    FROM unnest(runs) AS r JOIN atdm.request AS q USING (request_id);
    BEGIN
        SELECT d.deleted, d.adopted INTO gone FROM atdm.delete_runs(domain, run_ids) AS d;
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS
            state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL;
        failure := atdm.error_of(state, message, detail);
        INSERT INTO atdm.audit_event
            (action, status, domain, scenario_id, request_id, test_run_id, invoker, source, outputs)
        SELECT 'reset_failed', 'failed', take_back.domain, q.scenario_id, r.request_id,
               r.test_run_id, take_back.invoker, take_back.source, failure
        FROM unnest(runs) AS r JOIN atdm.request AS q USING (request_id);
        RETURN jsonb_build_object('error', failure);
    END;
    UPDATE atdm.test_run AS r
    SET status = 'cleaned', ended_at = clock_timestamp(),
        deleted = CASE WHEN cardinality(run_ids) = 1 THEN gone.deleted END
    WHERE r.test_run_id = ANY (run_ids);
    INSERT INTO atdm.audit_event
        (action, status, domain, scenario_id, request_id, test_run_id, invoker, source, outputs)
    SELECT 'reset_completed', 'cleaned', take_back.domain, q.scenario_id, r.request_id,
           r.test_run_id, take_back.invoker, take_back.source, jsonb_build_object(
               'strategy', strategy, 'runs', cardinality(run_ids),
               'deleted_counts', gone.deleted, 'adopted', gone.adopted)
    FROM unnest(runs) AS r JOIN atdm.request AS q USING (request_id);
    RETURN jsonb_build_object('deleted', gone.deleted, 'adopted', gone.adopted);
END;
$$;

-- Take back one leased run. An unknown run and a wrong token are answered alike.
CREATE OR REPLACE FUNCTION atdm.reset_run(
    test_run_id text, token text, invoker text DEFAULT NULL, source text DEFAULT NULL
) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    run atdm.test_run;
    asked atdm.request;
    result jsonb;
BEGIN
    invoker := coalesce(invoker, 'human:' || session_user);
    source := coalesce(source, 'sql');
    SELECT r.* INTO run FROM atdm.test_run AS r
    WHERE r.test_run_id = reset_run.test_run_id FOR UPDATE;
    -- Hashes are compared, of which nobody can choose a prefix: the time it takes tells nothing.
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
    SELECT q.* INTO asked FROM atdm.request AS q WHERE q.request_id = run.request_id;
    PERFORM atdm.enter_domain(asked.domain);
    result := atdm.take_back(asked.domain, ARRAY[run], invoker, source, 'reset_run');
    IF result ? 'error' THEN
        RETURN result;
    END IF;
    RETURN result || jsonb_build_object('status', 'cleaned', 'test_run_id', run.test_run_id);
END;
$$;

-- Take back every run that `owner` has leased with this secret. Whoever owns the catalog may leave
-- the secret out.
CREATE OR REPLACE FUNCTION atdm.reset_owner(
    owner text, secret text DEFAULT NULL, invoker text DEFAULT NULL, source text DEFAULT NULL
) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    privileged boolean := secret IS NULL AND pg_has_role(session_user, current_user, 'MEMBER');
    held record;
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
    FOR held IN
        SELECT m.domain, array_agg(m.run) AS runs
        FROM (SELECT q.domain, r::atdm.test_run AS run
              FROM atdm.test_run AS r JOIN atdm.request AS q USING (request_id)
              WHERE r.owner = reset_owner.owner AND r.status = 'leased'
                AND (privileged OR r.owner_secret_sha256 = sha256(convert_to(secret, 'UTF8')))
              ORDER BY r.test_run_id
              FOR UPDATE OF r) AS m
        GROUP BY m.domain ORDER BY m.domain
    LOOP
        PERFORM atdm.enter_domain(held.domain);
        result := atdm.take_back(held.domain, held.runs, invoker, source, 'reset_owner');
        IF result ? 'error' THEN
            RETURN result;
        END IF;
        cleaned := cleaned || ARRAY(SELECT r.test_run_id FROM unnest(held.runs) AS r);
        deleted := deleted || jsonb_build_object(held.domain, result -> 'deleted');
        adopted := adopted || jsonb_build_object(held.domain, result -> 'adopted');
    END LOOP;
    RETURN jsonb_build_object('status', 'cleaned', 'owner', owner, 'runs', to_jsonb(cleaned),
        'deleted', deleted, 'adopted', adopted);
END;
$$;

-- Delete every row of every test run of the domain, and all that refers to them. For the owner of
-- the catalog, in a transaction that holds the domain's exclusive lock. Shared rows stay.
CREATE OR REPLACE FUNCTION atdm.reset_all(
    domain text, revoke boolean DEFAULT false, invoker text DEFAULT NULL, source text DEFAULT NULL
) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '60s'
AS $$
DECLARE
    tables oid[];
    names text;
    parts text;
    totals text;
    level text;
    holders jsonb;
    relations oid[];
    rows tid[];
    runs text[];
    counts bigint[];
    labels text[];
    deleted jsonb;
    adopted jsonb;
    remaining bigint;
    cleared bigint;
BEGIN
    SELECT jsonb_agg(jsonb_build_object('owner', l.owner, 'leases', l.leases) ORDER BY l.owner)
    INTO holders
    FROM (SELECT coalesce(r.owner, '') AS owner, count(*) AS leases
          FROM atdm.test_run AS r JOIN atdm.request AS q USING (request_id)
          WHERE q.domain = reset_all.domain AND r.status = 'leased' GROUP BY 1) AS l;
    IF holders IS NOT NULL AND NOT revoke THEN
        PERFORM atdm.fail('BUSY',
            format('test runs of domain %s are leased to %s; give them back or revoke the leases',
                reset_all.domain, (SELECT string_agg(h ->> 'owner', ', ')
                                FROM jsonb_array_elements(holders) AS h)),
            jsonb_build_object('domain', reset_all.domain, 'owners', holders));
    END IF;
    SELECT array_agg(c.oid ORDER BY d.load_order),
           string_agg(format('%I.%I', d.schema_name, d.table_name), ', ' ORDER BY d.load_order),
           string_agg(format('(SELECT count(*) FROM %I.%I WHERE test_run_id IS NOT NULL)',
               d.schema_name, d.table_name), ' + ')
    INTO tables, names, totals
    FROM atdm.domain_table AS d
    JOIN pg_namespace AS n ON n.nspname = d.schema_name
    JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = d.table_name
    WHERE d.domain = reset_all.domain;
    -- Keeps the application from hanging rows on what is about to go.
    EXECUTE 'LOCK TABLE ' || names || ' IN SHARE ROW EXCLUSIVE MODE';
    -- First what refers to a row of a run without being one; then, from there, as for a single run.
    SELECT string_agg(replace(e.query,
               format('p.ctid = ANY (ARRAY(SELECT f.t FROM unnest($1, $2) AS f (o, t)'
                   ' WHERE f.o = %s))', e.parent),
               'p.test_run_id IS NOT NULL'), ' UNION ALL ')
    INTO level
    FROM atdm.referring(tables) AS e WHERE e.parent = ANY (tables);
    relations := '{}';
    rows := '{}';
    runs := '{}';
    IF level IS NOT NULL THEN
        EXECUTE 'SELECT coalesce(array_agg(o), ''{}''), coalesce(array_agg(t), ''{}''),'
            ' coalesce(array_agg(r), ''{}'') FROM (SELECT DISTINCT * FROM (' || level
            || ') AS l WHERE r IS NULL) AS n'
        INTO relations, rows, runs;
        SELECT c.relations, c.rows, c.runs INTO relations, rows, runs
        FROM atdm.closure(tables, NULL, relations, rows, runs) AS c;
    END IF;
    SELECT coalesce(jsonb_object_agg(atdm.table_label(reset_all.domain, a.o), a.n), '{}')
    INTO adopted
    FROM (SELECT f.o, count(*) AS n FROM unnest(relations, runs) AS f (o, r)
          WHERE f.r IS NULL GROUP BY f.o) AS a;
    SELECT string_agg(format('d%s AS (DELETE FROM ONLY %I.%I WHERE ctid = ANY (ARRAY('
               'SELECT f.t FROM unnest($1, $2) AS f (o, t) WHERE f.o = %s))%s RETURNING 1)',
               o.relation, n.nspname, c.relname, o.relation,
               CASE WHEN o.relation = ANY (tables) THEN ' OR test_run_id IS NOT NULL' END),
               ', ' ORDER BY o.relation)
           || ' SELECT ARRAY[' || string_agg(format('(SELECT count(*) FROM d%s)', o.relation),
               ', ' ORDER BY o.relation) || ']',
           array_agg(atdm.table_label(reset_all.domain, o.relation) ORDER BY o.relation)
    INTO parts, labels
    FROM (SELECT DISTINCT unnest(relations || tables) AS relation) AS o
    JOIN pg_class AS c ON c.oid = o.relation
    JOIN pg_namespace AS n ON n.oid = c.relnamespace;
    PERFORM set_config('search_path', 'pg_catalog, public, pg_temp', true);
    EXECUTE 'WITH ' || parts INTO counts USING relations, rows;
    PERFORM set_config('search_path', 'pg_catalog, pg_temp', true);
    deleted := (SELECT jsonb_object_agg(label, n) FROM unnest(labels, counts) AS u (label, n));
    EXECUTE 'SELECT ' || totals INTO remaining;
    IF remaining > 0 THEN
        PERFORM atdm.fail('RESET_FAILED',
            format('%s rows of test runs are still there: a trigger or a rule keeps them',
                remaining), jsonb_build_object('remaining', remaining));
    END IF;
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
