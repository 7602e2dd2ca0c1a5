-- The published scenario that a name means; the same rule as in a lease.
CREATE OR REPLACE FUNCTION atdm.published(domain text, scenario text) RETURNS atdm.scenario
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    wanted atdm.scenario;
BEGIN
    SELECT s.* INTO wanted
    FROM atdm.scenario AS s
    WHERE s.current AND s.scenario_id = published.scenario AND s.domain = coalesce(
        published.domain,
        (SELECT t.default_domain FROM atdm.target AS t
         WHERE EXISTS (SELECT FROM atdm.scenario AS o
                       WHERE o.current AND o.scenario_id = published.scenario
                         AND o.domain = t.default_domain)),
        (SELECT min(o.domain) FROM atdm.scenario AS o
         WHERE o.current AND o.scenario_id = published.scenario HAVING count(*) = 1));
    IF NOT FOUND THEN
        PERFORM atdm.fail('SCENARIO_NOT_FOUND',
            format('no scenario %s is published in %s', published.scenario,
                coalesce('domain ' || published.domain, 'the default domain')),
            jsonb_build_object('scenario', published.scenario, 'domain', published.domain,
                'known', (
                    SELECT coalesce(jsonb_agg(DISTINCT s.scenario_id), '[]')
                    FROM atdm.scenario AS s
                    WHERE s.current AND s.domain = coalesce(published.domain, s.domain))));
    END IF;
    RETURN wanted;
END;
$$;
