-- From version 0009 to 0001_catalog, which differ in how resets are made. The functions follow.

UPDATE atdm.alembic_version SET version_num = '0001_catalog';
DROP TABLE atdm.reset_path;
DROP FUNCTION IF EXISTS atdm.closure(oid[], text[], oid[], tid[], text[]),
    atdm.delete_any_runs(text, text[]), atdm.delete_rows(text, oid[], tid[]),
    atdm.delete_runs(text, text[]),
    atdm.has_reset_path(text), atdm.keys_between(oid[]), atdm.lay_reset_path(text),
    atdm.referring(oid[]), atdm.refuse_leftovers(bigint, bigint, bigint),
    atdm.refuse_strangers(text[], oid[], text[]), atdm.table_label(text, oid);
CREATE TABLE atdm.reset_function (
    domain text COLLATE "C",
    relations oid[] NOT NULL,
    fingerprint text NOT NULL,
    CONSTRAINT pk_reset_function PRIMARY KEY (domain)
);
COMMENT ON TABLE atdm.reset_function IS
    'The tables and foreign keys that the functions atdm.delete_<domain> were written for.';
