-- Counters over the audit trail, kept so that reading them does not cost reading the trail.

ALTER TABLE atdm.audit_event ADD COLUMN began timestamptz;
ALTER TABLE atdm.audit_event ALTER COLUMN began SET DEFAULT now();
COMMENT ON COLUMN atdm.audit_event.began IS
    'When the transaction started that the event belongs to; for how long writing it took, not sealed.';

CREATE TABLE atdm.metric_count (
    metric text COLLATE "C",
    labels text[] COLLATE "C",
    value double precision NOT NULL,
    CONSTRAINT pk_metric_count PRIMARY KEY (metric, labels)
);
COMMENT ON TABLE atdm.metric_count IS
    'Sums over every event that metric_state.counted sees. They only grow.';

CREATE TABLE atdm.metric_state (
    only_row boolean DEFAULT true,
    counted pg_snapshot NOT NULL DEFAULT '1:1:',
    sealed bigint NOT NULL DEFAULT 0,
    definition integer NOT NULL DEFAULT 0,
    counted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT pk_metric_state PRIMARY KEY (only_row),
    CONSTRAINT ck_metric_state_only_row CHECK (only_row)
);
COMMENT ON COLUMN atdm.metric_state.counted IS
    'The events that are counted are those that this snapshot sees.';
COMMENT ON COLUMN atdm.metric_state.sealed IS
    'The last seal that was looked at for an event that is missing.';
COMMENT ON COLUMN atdm.metric_state.definition IS
    'Which version of the counters this is; a newer one counts everything anew.';
INSERT INTO atdm.metric_state DEFAULT VALUES;

REVOKE ALL ON atdm.metric_count, atdm.metric_state FROM PUBLIC;
