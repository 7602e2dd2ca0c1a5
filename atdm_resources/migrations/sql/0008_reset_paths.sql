-- Taking back a few runs by statements that are ready made for their domain: half of the time that
-- a small reset takes is making the texts of its statements and planning them.

CREATE TABLE atdm.reset_path (
    domain text COLLATE "C",
    names text[] NOT NULL,
    relations oid[] NOT NULL,
    keys text NOT NULL,
    CONSTRAINT pk_reset_path PRIMARY KEY (domain)
);
COMMENT ON TABLE atdm.reset_path IS
    'What function atdm.delete_<domain> was made for: every table that rows can hang on, and the foreign keys between them.';

-- The foreign keys that lead to these tables, as a text that stays the same when they are dropped
-- and made again. A key to one of them from a table that is not among them shows as well.
CREATE FUNCTION atdm.keys_between(relations oid[]) RETURNS text
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
CREATE FUNCTION atdm.lay_reset_path(domain text) RETURNS void
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
CREATE FUNCTION atdm.has_reset_path(domain text) RETURNS boolean
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
CREATE FUNCTION atdm.refuse_strangers(run_ids text[], relations oid[], runs text[]) RETURNS void
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
CREATE FUNCTION atdm.refuse_leftovers(expected bigint, deleted bigint, remaining bigint)
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
CREATE FUNCTION atdm.delete_any_runs(
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

SELECT atdm.lay_reset_path(d.domain) FROM atdm.domain AS d;
REVOKE ALL ON ALL TABLES IN SCHEMA atdm FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA atdm FROM PUBLIC;
-- Called by CHECK constraints of tables that the application writes to.
GRANT EXECUTE ON FUNCTION atdm.luhn_holds(text) TO PUBLIC;
